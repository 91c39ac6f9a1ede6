"""Folders beside the database: several hub processes of one database have to share one."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from dispatchd.errors import FolderUnusable
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database


def is_shared_folder(folder: Path, mark: str, database: Database) -> bool:
    """Return whether a folder is that of all hub processes of a database. The first one's becomes it.

    Args:
        folder: The folder, which is made where the database is a server's.
        mark: Name of the mark with the id of the folder, in the database.
        database: The database.

    Raises:
        FolderUnusable: It can't be used.
        StorageBusy: The database can't be used now.
    """
    if not database.is_shared:
        return True
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = _id_of(folder / "id")
    except OSError as error:
        raise FolderUnusable(folder=folder, error=error) from error
    marks = MarkStore(database)
    known = marks.get(mark)
    if not known:
        marks.put(mark, own)
    return known in ("", own)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _id_of(file: Path) -> str:
    """Return the id of a folder, in its file; a new folder gets one."""
    with suppress(FileExistsError):
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as written:
            written.write(uuid4().hex)
    return file.read_text().strip()
