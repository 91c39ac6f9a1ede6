"""The configuration: a TOML file, checked as a whole, every mistake named at once.

What each key means, its default and its unit stand in `config.example.toml` and in the config schema;
the limits that a schema can state are in the schema alone.
"""

import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from dispatchd.config.file import Cloud, File, License, Limits, Log
from dispatchd.config.workflows import Reader, unknown_secrets
from dispatchd.contracts import violations
from dispatchd.conversion import strict_converter
from dispatchd.domain.job import Json
from dispatchd.domain.workflow import Workflow
from dispatchd.errors import ConfigError, Problem


@frozen(kw_only=True)
class Config:
    """A configuration that can be used: paths absolute, programs found, defaults filled in."""

    file: Path
    cloud: Cloud
    secret_file: Path | None
    """The machine's secret; None for a machine whose identity comes from a license."""
    license: License
    state_folder: Path
    history_days: float
    min_free_bytes: int
    limits: Limits
    log: Log
    workflows: Mapping[str, Workflow]

    @property
    def secret_is_exposed(self) -> bool:
        """Whether other users of this machine can get at the secret's file."""
        file = self.secret_file
        return file is not None and bool(file.stat().st_mode & _OTHERS)


_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=False)


def load(path: Path, *, default_state_folder: Path, search_path: str) -> Config:
    """Read and check a configuration file.

    Args:
        path: The file.
        default_state_folder: Used where the file names none.
        search_path: Where programs without a slash are looked for, in the form of PATH.

    Raises:
        ConfigError: It can't be used; carries every problem that could be found in one go.
    """
    path = path.absolute()
    document = _parse(path)
    problems = [
        Problem(
            file=path,
            key=violation.path.removeprefix("$").removeprefix("."),
            expected=violation.rule,
        )
        for violation in violations("config", document)
    ]
    if problems:
        raise ConfigError(problems)
    content = _converter.structure(document, File)
    problems = [
        Problem(file=path, key=key, expected=expected)
        for key, expected in unknown_secrets(content)
    ]
    if problems:
        raise ConfigError(problems)
    reader = Reader(path.parent, search_path, content)
    workflows = {
        name: reader.workflow(name, entry) for name, entry in content.workflows.items()
    }
    config = Config(
        file=path,
        cloud=content.cloud,
        secret_file=path.parent / content.cloud.secret_file
        if content.cloud.secret_file
        else None,
        license=content.license,
        state_folder=(
            path.parent / content.store.folder
            if content.store.folder
            else default_state_folder
        ).absolute(),
        history_days=content.store.history_days,
        min_free_bytes=content.store.min_free_mib << 20,
        limits=content.runs,
        log=content.log,
        workflows=workflows,
    )
    problems = [
        Problem(file=path, key=key, expected=expected)
        for key, expected in _unusable(config)
    ]
    if problems:
        raise ConfigError(problems)
    return config


def _parse(path: Path) -> dict[str, Json]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"cannot be read: {error.strerror}; name another file with --config"
        raise ConfigError([Problem(file=path, key="", expected=reason)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            [Problem(file=path, key="", expected=f"must be UTF-8 text ({error})")]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_toml_problem(path, str(error))]) from error


def _toml_problem(path: Path, message: str) -> Problem:
    # The only syntax error that has a key: a table or key that is written twice.
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


def _unusable(config: Config) -> Iterator[tuple[str, str]]:
    """Yield what a schema can't see: key and expectation."""
    if config.secret_file is not None:
        yield from _unusable_secret(config.secret_file)
    elif not config.license.public_keys:
        yield (
            "license.public_keys",
            "must name the keys that licenses are signed with; or set cloud.license_id, server_id and secret_file",
        )
    for name, workflow in config.workflows.items():
        expectation = _unusable_program(workflow, config.file.parent)
        if expectation:
            yield f"workflows.{name}.command", expectation


def _unusable_secret(file: Path) -> Iterator[tuple[str, str]]:
    if not file.is_file():
        yield (
            "cloud.secret_file",
            f"must be a file with the machine's secret; there is none at {file}",
        )
    elif not os.access(file, os.R_OK):
        yield "cloud.secret_file", f"must be readable by this user: {file}"


def _unusable_program(workflow: Workflow, folder: Path) -> str:
    program = workflow.program
    if not program.is_absolute():
        return f"must start with a program on PATH, an absolute path, or a path relative to this file; no {str(program)!r} on PATH"
    # What lies beside the file belongs to the configuration. Any other absolute path may be on a file
    # system that isn't mounted yet: a run that can't start says so for its own job alone.
    if program.is_relative_to(folder) and not program.is_file():
        return f"must start with a program that exists; there is no file {program}"
    return ""
