"""What several commands share: finding and loading the configuration, and printing."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from dispatchd.config import Config, load
from dispatchd.domain.job import TrackedJob
from dispatchd.errors import UsageError
from dispatchd.store.jobs import read_all

_SYSTEM_FILE: Final = Path("/etc/dispatchd/config.toml")
_SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are found if the daemon has no PATH."""

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    envvar="DISPATCHD_CONFIG",
    help="The configuration file.  [default: the user's dispatchd/config.toml, else /etc/dispatchd/config.toml]",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text for people."
)


def load_config(config_file: Path | None) -> Config:
    """Return the configuration that a command is to use. Fails with ConfigError if it can't be used."""
    import platformdirs

    environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
    own_file = platformdirs.user_config_path("dispatchd") / "config.toml"
    state_folder = environment.get("STATE_DIRECTORY") or str(
        platformdirs.user_state_path("dispatchd")
    )
    return load(
        config_file or (own_file if own_file.exists() else _SYSTEM_FILE),
        default_state_folder=Path(state_folder.split(":")[0]),
        search_path=environment.get("PATH") or _SEARCH_PATH,
    )


def find_job(config: Config, job_id: str) -> TrackedJob:
    """Return a tracked or past job by its id, or by the beginning of it where that is enough.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = [
        record
        for record in read_all(config.state_folder)
        if record.job.id.startswith(job_id)
    ]
    exact = [record for record in found if record.job.id == job_id]
    if len(exact or found) == 1:
        return (exact or found)[0]
    cannot = f"find a job {job_id!r} in {config.state_folder}"
    if found:
        names = ", ".join(record.job.id for record in found[:5])
        raise UsageError(cannot=cannot, reason=f"{len(found)} begin with it ({names})")
    raise UsageError(cannot=cannot, reason="there is none; `dispatchd jobs` lists them")


def read_text(file: Path) -> str:
    """Return the text of a file that the command line names.

    Raises:
        UsageError: It can't be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (
            (error.strerror or str(error))
            if isinstance(error, OSError)
            else "not UTF-8 text"
        )
        raise UsageError(cannot=f"read {file}", reason=reason) from error


def print_json(value: object) -> None:
    """Print one JSON value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under titles, in columns as wide as their content."""
    widths = [
        max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)
    ]
    for row in (titles, *rows):
        click.echo(
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            ).rstrip()
        )


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and values in two columns, empty values left out."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        if value:
            click.echo(f"{name.ljust(width)}  {value}")
