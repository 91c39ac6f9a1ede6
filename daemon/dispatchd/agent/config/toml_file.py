"""A configuration file as TOML: its text, its tables, and a syntax error in words."""

import re
import tomllib
from pathlib import Path
from typing import Final

from dispatchd.errors import ConfigError, Problem
from dispatchd.protocol import toml_text
from dispatchd.protocol.job import Json

_TABLE: Final = re.compile(r"^(?=[ \t]*\[)", re.MULTILINE)
"""First line of a table."""


def load(path: Path) -> dict[str, Json]:
    """Return the tables of a file.

    Raises:
        ConfigError: The file can't be read, or isn't TOML.
    """
    return parse(path, read(path))


def read(path: Path) -> str:
    """Return the text of a file, without a byte order mark, which some editors write.

    Raises:
        ConfigError: The file can't be read, or isn't text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = f"cannot be read: {error.strerror}; name another file with --config"
        raise ConfigError([Problem(file=path, key="", expected=reason)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            [Problem(file=path, key="", expected=f"must be UTF-8 text ({error})")]
        ) from error


def parse(path: Path, content: str) -> dict[str, Json]:
    """Return the tables in the text of a file.

    Raises:
        ConfigError: It isn't TOML.
    """
    try:
        return toml_text.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_problem(path, str(error))]) from error


def whole_tables(content: str) -> dict[str, Json]:
    """Return the tables of a broken text that are valid TOML by themselves."""
    tables: dict[str, Json] = {}
    for table in _TABLE.split(content):
        try:
            tables |= toml_text.loads(table)
        except tomllib.TOMLDecodeError:
            continue
    return tables


def _problem(path: Path, message: str) -> Problem:
    # The only syntax error with a key: a table or key that is written twice.
    prefix = "Cannot declare ("
    if message.startswith(prefix):
        names, _, rest = message.removeprefix(prefix).partition(")")
        key = ".".join(name.strip(" '\"") for name in names.split(",") if name.strip())
        return Problem(
            file=path,
            key=key,
            expected=f"must be declared once, and is there a second time{rest.removeprefix(' twice')}",
        )
    return Problem(file=path, key="", expected=f"must be TOML: {message}")
