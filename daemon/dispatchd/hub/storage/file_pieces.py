"""Files in a backup: a table of their pieces in the file of the backup, so that one file has everything."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from attrs import frozen
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    inspect,
    select,
)

_PIECE: Final = 1 << 20
"""Part of a file in one row (bytes, before it is packed)."""


def _unchanged(data: bytes) -> bytes:
    return data


@frozen
class FilePieces:
    """Pieces of files, by the name of the file and their number, from 0. No hub has such a table."""

    table: Table
    pack: Callable[[bytes], bytes] = _unchanged
    unpack: Callable[[bytes], bytes] = _unchanged

    @classmethod
    def of(
        cls,
        table: str,
        name: str,
        pack: Callable[[bytes], bytes] = _unchanged,
        unpack: Callable[[bytes], bytes] = _unchanged,
    ) -> Self:
        """Return the pieces in a table, with the column that has the names of the files."""
        columns = (
            Column(name, String, primary_key=True),
            Column("number", Integer, primary_key=True),
            Column("data", LargeBinary, nullable=False),
        )
        return cls(Table(table, MetaData(), *columns), pack, unpack)

    def create(self, copy: Connection) -> None:
        """Make the table in a backup."""
        self.table.create(copy)

    def put(self, copy: Connection, name: str, path: Path) -> str:
        """Write a file into a backup, as it is when it is read; one that has gone is left out.

        Returns why a file is left out that can't be read, in words; empty if it isn't.
        """
        try:
            for number, piece in enumerate(_pieces(path)):
                row = (name, number, self.pack(piece))
                copy.execute(insert(self.table).values(row))
        except OSError as error:
            # A part of it would pass for the whole.
            [key, *_] = self.table.primary_key
            copy.execute(delete(self.table).where(key == name))
            return f"{path}: {error.strerror or error}"
        return ""

    def get(self, backup: Connection, place: Callable[[str], Path | None]) -> None:
        """Write the files of a backup; one without the table has none.

        Args:
            backup: The backup.
            place: Returns the path for a name; None for one that no backup of ours has, which is left out.

        Raises:
            OSError: One can't be written.
        """
        if not inspect(backup).has_table(self.table.name):
            return
        query = select(self.table).order_by(*self.table.primary_key)
        for name, number, data in backup.execute(query.execution_options(yield_per=8)):
            path = place(name)
            if path is None:
                continue
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            how = os.O_TRUNC if number == 0 else os.O_APPEND
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(self.unpack(data))


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces: an empty one for an empty file, none for one that has gone."""
    try:
        with path.open("rb") as file:
            yield file.read(_PIECE)
            while piece := file.read(_PIECE):
                yield piece
    except FileNotFoundError:
        return
