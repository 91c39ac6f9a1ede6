"""Artifacts in a backup: a table of pieces in the file of the backup, for the files that its rows name."""

import os
import re
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

from dispatchd.hub.storage.artifacts.files import ArtifactFiles
from dispatchd.hub.storage.schema import ARTIFACTS

_PIECE: Final = 1 << 20
"""Part of a file in one row (bytes). They aren't compressed: most artifacts are already."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")

_PIECES: Final = Table(
    "backup_artifacts",
    MetaData(),
    Column("sha256", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""Pieces of files, by their hash and their number, from 0. No hub has this table."""


def put_artifacts(copy: Connection, folder: Path) -> None:
    """Write the files that the rows of a backup name into it; one that has gone meanwhile is left out."""
    _PIECES.create(copy)
    query = select(ARTIFACTS.c.sha256).where(ARTIFACTS.c.stored_at > 0).distinct()
    for digest in copy.execute(query).scalars().all():
        for number, piece in enumerate(_pieces(ArtifactFiles(folder).whole(digest))):
            row = {"sha256": digest, "number": number, "data": piece}
            copy.execute(insert(_PIECES), [row])


def get_artifacts(backup: Connection, folder: Path) -> None:
    """Write the files of a backup into a folder; one without artifacts has none.

    Raises:
        OSError: One can't be written.
    """
    if not inspect(backup).has_table(_PIECES.name):
        return
    query = select(_PIECES).order_by(_PIECES.c.sha256, _PIECES.c.number)
    for row in backup.execute(query.execution_options(yield_per=8)):
        if not _HASH.fullmatch(row.sha256):
            # Nothing else is written by `put_artifacts`, and a hash decides where a file is made.
            continue
        path = ArtifactFiles(folder).whole(row.sha256)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        how = os.O_TRUNC if row.number == 0 else os.O_APPEND
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(row.data)


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces: an empty one for an empty file, none for one that has gone."""
    try:
        with path.open("rb") as file:
            yield file.read(_PIECE)
            while piece := file.read(_PIECE):
                yield piece
    except FileNotFoundError:
        return
