"""Descriptors of the daemon's folders: their modes can be restored even if a run changes them (docs/security.md)."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from attrs import define

from dispatchd.agent.store.durable import FOLDER_MODE

_NAMES: Final = (".", "jobs", "history", "quarantine", "runs")


@define
class HeldFolders:
    """A state folder and its folders, held open so that their modes can be restored."""

    descriptors: list[int]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the state folder and those of its folders that exist; the caller closes them.

        Fails with OSError if one can't be opened.
        """
        held = cls([])
        for name in _NAMES:
            if (folder / name).is_dir():
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                held.descriptors.append(os.open(folder / name, flags))
        return held

    def close(self) -> None:
        """Close the descriptors."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def restore(self, names: set[str]) -> int:
        """Restore this user's access to the folders, and to entries of them by name. Return the number restored."""
        restored = 0
        for fd in self.descriptors:
            mode = os.fstat(fd).st_mode
            if mode & FOLDER_MODE != FOLDER_MODE:
                os.fchmod(fd, stat.S_IMODE(mode) | FOLDER_MODE)
                restored += 1
        for name in names:
            for fd in self.descriptors:
                with suppress(OSError):
                    restored += _restore_in(fd, name)
        return restored


def _restore_in(folder: int, name: str) -> int:
    """Restore the mode of a folder in another one, if it exists, and never through a link."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISDIR(mode) or mode & FOLDER_MODE == FOLDER_MODE:
            return 0
        # fchmod(2) doesn't take such a descriptor; its path in /proc works.
        Path(f"/proc/self/fd/{fd}").chmod(stat.S_IMODE(mode) | FOLDER_MODE)
        return 1
    finally:
        os.close(fd)
