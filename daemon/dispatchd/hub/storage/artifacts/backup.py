"""Artifacts in a backup: the files that its rows name."""

import re
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, select

from dispatchd.hub.storage.artifacts.files import ArtifactFiles
from dispatchd.hub.storage.file_pieces import FilePieces
from dispatchd.hub.storage.schema import ARTIFACTS

_HASH: Final = re.compile(r"[0-9a-f]{64}")

_PIECES: Final = FilePieces.of("backup_artifacts", "sha256")
"""Pieces by the hash of their file. They aren't compressed: most artifacts are already."""


def put_artifacts(copy: Connection, folder: Path) -> list[str]:
    """Write the files that the rows of a backup name into it, and return why others are left out, in words.

    One that has gone meanwhile is left out, too.
    """
    _PIECES.create(copy)
    query = select(ARTIFACTS.c.sha256).where(ARTIFACTS.c.stored_at > 0).distinct()
    problems = [
        _PIECES.put(copy, digest, ArtifactFiles(folder).whole(digest))
        for digest in copy.execute(query).scalars().all()
    ]
    return [problem for problem in problems if problem]


def get_artifacts(backup: Connection, folder: Path) -> None:
    """Write the files of a backup into a folder; one without artifacts has none.

    Raises:
        OSError: One can't be written.
    """

    def place(digest: str) -> Path | None:
        # Nothing else is written by `put_artifacts`, and a hash decides where a file is made.
        return ArtifactFiles(folder).whole(digest) if _HASH.fullmatch(digest) else None

    _PIECES.get(backup, place)
