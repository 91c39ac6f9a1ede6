"""Trash: folders that are no longer needed, moved away in one step and removed later.

The holder of a job moves its folder, which takes a moment however large it is. Nothing uses it there, so the removal
needs no lock, may take long, and may be done by the next daemon.
"""

import os
from collections.abc import Iterable
from errno import ELOOP, ENOTDIR
from pathlib import Path
from typing import Final

from attrs import frozen

from dispatchd.agent.store.durable import FOLDER_MODE
from dispatchd.errors import StoreUnavailable
from dispatchd.linux import folder_tree

_UNIQUE_BYTES: Final = 8
"""Random part of a name in here (bytes)."""


@frozen
class Trash:
    """One folder of folders that will be removed, on the file system that they come from. Calls block."""

    path: Path

    def take(self, folders: Iterable[Path]) -> list[Path]:
        """Move folders into the trash; missing ones are fine. Returns their new paths.

        Raises:
            StoreUnavailable: One is still in its place.
        """
        return [
            new for folder in folders if (new := self._take_one(folder)) is not None
        ]

    def contents(self) -> list[Path]:
        """Return the folders in the trash; an earlier daemon may have left some.

        Raises:
            OSError: It can't be listed.
        """
        try:
            return sorted(self.path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno not in (ENOTDIR, ELOOP):
                raise
            # What is in its place is trash itself.
            return [self.path]

    def _take_one(self, folder: Path) -> Path | None:
        new = self.path / os.urandom(_UNIQUE_BYTES).hex()
        try:
            self._make()
            try:
                folder.rename(new)
            except PermissionError:
                if folder.is_symlink():
                    raise
                # A folder that its owner has made read-only can't change its parent (rename(2), EACCES).
                folder.chmod(FOLDER_MODE)
                folder.rename(new)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(path=folder, error=error) from error
        return new

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=FOLDER_MODE, exist_ok=True)
        except FileExistsError:
            # A file, or a link that leads to no folder.
            self.path.unlink()
            self.path.mkdir(mode=FOLDER_MODE)


def remove_tree(path: Path) -> None:
    """Remove a folder, if it exists, with everything in it that can be removed.

    Raises:
        StoreUnavailable: Some of it still exists; carries the path of the first part.
    """
    left = folder_tree.remove_tree(path)
    if left.first is not None:
        raise StoreUnavailable(path=Path(left.first.filename), error=left.first)
