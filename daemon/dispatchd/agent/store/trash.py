"""Trash: folders that are no longer needed, moved away in one step and removed later.

The holder of a job moves its folder, which takes a moment however large it is. Nothing uses it there, so the removal
needs no lock, may take long, and may be done by the next daemon.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from errno import ELOOP, ENOTDIR
from pathlib import Path
from typing import Final

from attrs import frozen

from dispatchd.agent.store.durable import FOLDER_MODE, drop_default_acl
from dispatchd.errors import StoreUnavailable
from dispatchd.linux import folder_tree

_UNIQUE_BYTES: Final = 8
"""Random part of a name in here (bytes)."""


@frozen
class Trash:
    """One folder of folders that will be removed, on the file system that they come from. Calls block."""

    path: Path

    def take(self, folders: Iterable[Path]) -> list[Path]:
        """Move folders into the trash; missing ones are fine, and empty ones are removed. Returns their new paths.

        Raises:
            StoreUnavailable: One is still in its place.
        """
        return [
            new for folder in folders if (new := self._take_one(folder)) is not None
        ]

    def make_new(self, folder: Path) -> None:
        """Make a new folder. Anything in its place is moved to the trash.

        Raises:
            OSError: It can't be made.
            StoreUnavailable: Something is still in its place.
        """
        try:
            folder.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            self.take([folder])
            folder.mkdir(mode=FOLDER_MODE)

    def make_usable(self, folder: Path) -> bool:
        """Make a folder that this user can use, and return whether it is new. Anything else in its place is moved here.

        Raises:
            StoreUnavailable: It can't be made.
        """
        try:
            is_new = not folder.is_dir() or folder.is_symlink()
            if is_new:
                self.make_new(folder)
            drop_default_acl(folder)
            if folder.stat().st_mode & FOLDER_MODE != FOLDER_MODE:
                folder.chmod(FOLDER_MODE)
        except OSError as error:
            raise StoreUnavailable(path=folder, error=error) from error
        return is_new

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
        with suppress(OSError):
            folder.rmdir()
            return None
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
