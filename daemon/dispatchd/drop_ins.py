"""Drop-ins: files in the folder `FILE.d` beside a configuration file, read after it in the order of their names.

A program writes its settings there, so that it never has to rewrite the file of a person. Tables are merged; any other
value of a later file replaces the earlier one. Paths are relative to the configuration file in all of them.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.errors import ConfigError, Problem
from dispatchd.protocol.job import Json

_PART: Final = re.compile(r"[^.\[\]]+")


@frozen
class Sources:
    """A configuration file and its drop-ins: each file's tables, in the order in which they count."""

    documents: Mapping[Path, dict[str, Json]]

    @classmethod
    def read(cls, path: Path, parse: Callable[[Path], dict[str, Json]]) -> Self:
        """Return the sources of a configuration file.

        Raises:
            ConfigError: The folder of drop-ins can't be read, or `parse` raises it.
        """
        return cls({file: parse(file) for file in (path, *drop_ins(path))})

    @property
    def merged(self) -> dict[str, Json]:
        """The tables of all files."""
        tables: dict[str, Json] = {}
        for document in self.documents.values():
            tables = _merged(tables, document)
        return tables

    def file_of(self, key: str) -> Path:
        """Return the file that sets a key such as `cloud.url`; for one that none sets, the file nearest to it."""
        parts = _PART.findall(key)
        depths = {
            file: _depth(document, parts) for file, document in self.documents.items()
        }
        setting = [file for file, depth in depths.items() if depth == len(parts)]
        return setting[-1] if parts and setting else max(depths, key=depths.__getitem__)


def drop_in_folder(path: Path) -> Path:
    """Return the folder of a configuration file's drop-ins."""
    return path.with_name(f"{path.name}.d")


def drop_ins(path: Path) -> list[Path]:
    """Return the drop-ins of a configuration file.

    Raises:
        ConfigError: The folder can't be read, or something in it is no file, such as a pipe, which nobody may ever fill.
    """
    folder = drop_in_folder(path)
    try:
        # A hidden one is an editor's: its lock, or a copy.
        files = sorted(
            file
            for file in folder.iterdir()
            if file.suffix == ".toml" and not file.name.startswith(".")
        )
        problems = [
            Problem(file=file, key="", expected="must be a file; remove it")
            for file in files
            if file.exists() and not file.is_file()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        expected = f"must be a readable folder: {error.strerror}"
        raise ConfigError([Problem(file=folder, key="", expected=expected)]) from error
    if problems:
        raise ConfigError(problems)
    return files


def _merged(below: dict[str, Json], above: dict[str, Json]) -> dict[str, Json]:
    tables = dict(below)
    for key, value in above.items():
        before = tables.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        tables[key] = _merged(before, value) if both else value  # type: ignore[arg-type]  # `both`
    return tables


def _depth(document: Json, parts: list[str]) -> int:
    """Return how many parts of a key a document has (count)."""
    for depth, part in enumerate(parts):
        if not isinstance(document, dict) or part not in document:
            return depth
        document = document[part]
    return len(parts)
