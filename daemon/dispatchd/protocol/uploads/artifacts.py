"""Artifacts of a job on the wire (contracts/README.md, artifacts): the list of an attempt's files, and their bytes."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Final, Self
from unicodedata import category

from attrs import frozen

from dispatchd.protocol.job import Json
from dispatchd.protocol.uploads.chunks import packed, unpacked

MOST_FILES: Final = 1000
"""Most artifacts of an attempt (count; artifacts-request schema)."""

LONGEST_PATH: Final = 1024
"""Longest path of an artifact (characters; artifacts-request schema)."""

_CONTRACT: Final = "artifact-request"

_LEVEL: Final = 1
"""Level of gzip: more takes several times as long."""

_SAMPLE: Final = 32 * 1024
"""Beginning of a chunk by which it is decided whether it is worth compressing (bytes): most artifacts are compressed already."""

_NOT_SHOWN: Final = ("Cc", "Cs", "Zl", "Zp")
"""Categories (Unicode) of control characters, halves of surrogate pairs, and ends of lines and paragraphs."""


@frozen(kw_only=True)
class Artifact:
    """File that an attempt left: its path relative to the workspace, its size (bytes), and its SHA-256."""

    path: str
    size: int
    sha256: str

    def to_wire(self) -> dict[str, Json]:
        """Return its fields on the wire."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256}

    @classmethod
    def from_wire(cls, fields: Mapping[str, Json]) -> Self:
        """Return the artifact in fields that keep the schema."""
        return cls(
            path=str(fields["path"]),
            size=int(str(fields["size"])),
            sha256=str(fields["sha256"]),
        )


@frozen(kw_only=True)
class ArtifactList:
    """Artifacts of an attempt, all of them."""

    attempt: int
    files: Sequence[Artifact]

    def to_wire(self) -> dict[str, Json]:
        """Return its fields on the wire."""
        return {
            "attempt": self.attempt,
            "files": [file.to_wire() for file in self.files],
        }


@frozen(kw_only=True)
class ArtifactChunk:
    """Part of an artifact, by the SHA-256 of the whole file. `offset` is its place in the file (bytes)."""

    file: str
    offset: int
    data: bytes = b""

    @property
    def end(self) -> int:
        """Place of the first byte after it (bytes)."""
        return self.offset + len(self.data)

    def to_wire(self) -> dict[str, Json]:
        """Return its fields on the wire."""
        return {
            "file_sha256": self.file,
            "offset": self.offset,
            **packed(self.data, _level_for(self.data)),
        }

    @classmethod
    def from_wire(cls, fields: Mapping[str, Json]) -> Self:
        """Return the chunk in a body that keeps the schema.

        Raises:
            ContractViolation: Its data isn't what its length and its hash say.
        """
        return cls(
            file=str(fields["file_sha256"]),
            offset=int(str(fields["offset"])),
            data=unpacked(fields, _CONTRACT),
        )


def _level_for(data: bytes) -> int:
    """Return the level of gzip for a chunk: 0, which stores it, where compression saves less than a tenth."""
    sample = data[:_SAMPLE]
    is_worth_it = len(zlib.compress(sample, _LEVEL)) < len(sample) * 9 // 10
    return _LEVEL if is_worth_it else 0


def path_problem(path: str) -> str:
    """Return why a path can't be that of an artifact, in words; empty if it can."""
    if len(path) > LONGEST_PATH:
        return f"its path is longer than {LONGEST_PATH} characters"
    if any(category(character) in _NOT_SHOWN for character in path):
        return "its name has control characters, or isn't UTF-8"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return "it isn't a path below a folder"
    return ""
