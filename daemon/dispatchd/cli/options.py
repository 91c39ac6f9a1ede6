"""Shared parts of commands: finding and loading the configuration, and printing."""

import json
import os
import sys
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import click

from dispatchd.agent.config.load import Config, Places, locate
from dispatchd.agent.config.usual import load_here, usual_file, usual_places
from dispatchd.cli.brand import brand
from dispatchd.cli.terminal import complain
from dispatchd.errors import UsageError
from dispatchd.protocol.times import parse_duration

_MOST_TEXT: Final = 40 << 20
"""Largest text that a command reads (bytes); contracts/README.md, Limits."""

_PART: Final = 64 << 10
"""Largest read at once (bytes): room for all of it is taken beforehand."""

F = TypeVar("F", bound=Callable[..., Any])


def not_blank(_: click.Context, __: click.Parameter, value: str) -> str:
    """Return the text that an argument was given, unless it is blank. A callback of the argument.

    Raises:
        BadParameter: It is blank.
    """
    if not value.strip():
        message = "it is empty; is a variable unset?"
        raise click.BadParameter(message)
    return value


def finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Return the number that an option was given. A callback of the option.

    Raises:
        BadParameter: It is infinite, or none (nan).
    """
    if value is not None and not isfinite(value):
        message = f"{value} is no number"
        raise click.BadParameter(message)
    return value


def in_seconds(
    _: click.Context, __: click.Parameter, value: str | None
) -> float | None:
    """Return the duration that an option was given, in seconds. A callback of the option.

    Raises:
        BadParameter: The text is no duration.
    """
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    envvar=brand().variable("CONFIG"),
    help="The configuration file.  [default: the user's dispatchd/config.toml, else /etc/dispatchd/config.toml]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Output JSON.")
raw_option = click.option(
    "--raw",
    is_flag=True,
    help="Print escapes as they are; else colours alone pass, and others are written out.",
)


def load_config(config_file: Path | None, *, elsewhere: bool = False) -> Config:
    """Return the configuration for a command.

    Args:
        config_file: The file; None for the usual one.
        elsewhere: True if it is for another machine.

    Raises:
        ConfigError: It can't be used.
    """
    environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
    return load_here(
        config_path(config_file), environment, brand(), elsewhere=elsewhere
    )


def find_daemon(config_file: Path | None, *, quiet: bool = False) -> Places:
    """Return the folders of a configuration's daemon.

    A file that isn't TOML doesn't keep commands from a daemon that was started before: unless `quiet`, it is reported.

    Raises:
        ConfigError: The file can't be read.
    """
    environment = os.environ  # noqa: TID251  # as above
    file = config_path(config_file)
    defaults = usual_places(file, environment, brand())
    places, problem = locate(file, defaults=defaults)
    if problem is not None and not quiet:
        complain(problem)
    return places


def config_path(config_file: Path | None) -> Path:
    """Return the configuration file that a command uses."""
    return usual_file(brand()) if config_file is None else config_file


def read_text(file: Path) -> str:
    """Return the text of a file that the command line names; `-` is stdin.

    Raises:
        UsageError: The file can't be read, is no text, or has more than any hub takes.
    """
    cannot = f"read {file}"
    try:
        if str(file) != "-":
            with file.open("rb") as opened:
                data = _beginning(opened)
        else:
            data = b"" if sys.stdin is None else _beginning(sys.stdin.buffer)
        if len(data) > _MOST_TEXT:
            reason = f"it has more than {_MOST_TEXT >> 20} MiB"
            raise UsageError(cannot=cannot, reason=reason)
        return data.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(cannot=cannot, reason=reason) from error
    except UnicodeDecodeError as error:
        raise UsageError(cannot=cannot, reason="not UTF-8 text") from error


def _beginning(opened: BinaryIO) -> bytes:
    """Return the content of a file, as far as a text may be long, and a part more."""
    data = bytearray()
    while len(data) <= _MOST_TEXT and (part := opened.read(_PART)):
        data += part
    return bytes(data)


def print_json(value: object) -> None:
    """Print one JSON value, with JSON's own escapes for characters that the terminal can't show."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, default=str)
    click.echo(text)
