"""Logs in a backup: a table of pieces in the file of the backup, so that one file has everything."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
)

from dispatchd.hub.storage.logs.files import STORED

_PIECE: Final = 1 << 20
"""Part of a log in one row (bytes, before it is compressed)."""

_PIECES: Final = Table(
    "backup_logs",
    MetaData(),
    Column("path", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""Pieces of the files of logs, by their path in the folder and their number, from 0. No hub has this table."""


def put_logs(copy: Connection, folder: Path) -> None:
    """Write the logs of a folder into a backup. One that grows or goes meanwhile is as it is when it is read."""
    _PIECES.create(copy)
    for path in sorted(folder.glob("*/*/*")):
        name = path.relative_to(folder).as_posix()
        if STORED.fullmatch(name):
            for number, piece in enumerate(_pieces(path)):
                row = {"path": name, "number": number, "data": zlib.compress(piece)}
                copy.execute(insert(_PIECES), [row])


def get_logs(backup: Connection, folder: Path) -> None:
    """Write the logs of a backup into a folder; one without logs has none."""
    if not inspect(backup).has_table(_PIECES.name):
        return
    query = select(_PIECES).order_by(_PIECES.c.path, _PIECES.c.number)
    rows = backup.execute(query.execution_options(yield_per=8))
    for row in rows:
        if not STORED.fullmatch(row.path):
            # Nothing else is written by `put_logs`, and a path decides where a file is made.
            continue
        path = folder / row.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        how = os.O_TRUNC if row.number == 0 else os.O_APPEND
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(zlib.decompress(row.data))


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces: an empty one for an empty file, none for one that has gone."""
    try:
        with path.open("rb") as file:
            yield file.read(_PIECE)
            while piece := file.read(_PIECE):
                yield piece
    except FileNotFoundError:
        return
