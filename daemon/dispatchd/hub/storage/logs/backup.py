"""Logs in a backup, by their paths in the folder of logs."""

import os
import zlib
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from dispatchd.hub.storage.file_pieces import FilePieces
from dispatchd.hub.storage.logs.files import STORED

_PIECES: Final = FilePieces.of("backup_logs", "path", zlib.compress, zlib.decompress)


def put_logs(copy: Connection, folder: Path) -> list[str]:
    """Write the logs of a folder into a backup, and return why others are left out, in words.

    One that grows or goes meanwhile is as it is when it is read.
    """
    _PIECES.create(copy)
    left_out: list[str] = []

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            left_out.append(f"{error.filename}: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        for file in sorted(files):
            path = Path(place, file)
            name = path.relative_to(folder).as_posix()
            if STORED.fullmatch(name) and (problem := _PIECES.put(copy, name, path)):
                left_out.append(problem)
    return left_out


def get_logs(backup: Connection, folder: Path) -> None:
    """Write the logs of a backup into a folder; one without logs has none.

    Raises:
        OSError: One can't be written.
    """

    def place(name: str) -> Path | None:
        # Nothing else is written by `put_logs`, and a path decides where a file is made.
        return folder / name if STORED.fullmatch(name) else None

    _PIECES.get(backup, place)
