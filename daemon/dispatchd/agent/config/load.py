"""The configuration: a TOML file, checked as a whole, with every mistake reported at once.

The meaning, default and unit of each key are in `config.example.toml` and in the config schema. Limits that
a schema can express are in the schema alone.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
from attrs import field, frozen

from dispatchd.agent.config import toml_file
from dispatchd.agent.config.engines import slots_of, unfit_engines, unfit_options
from dispatchd.agent.config.keys import (
    RESTART,
    Checkout,
    Cloud,
    EngineEntry,
    File,
    License,
    Limits,
    Log,
    Metrics,
    Telemetry,
)
from dispatchd.agent.config.workflows import (
    Reader,
    own_tables,
    renamed_keys,
    two_report_keys,
    two_tokens,
    unexpanded_programs,
    unfit_isolations,
    unknown_secrets,
    with_limits,
)
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.brand import DISPATCHD, Brand
from dispatchd.drop_ins import Sources, drop_ins
from dispatchd.errors import ConfigError, Problem
from dispatchd.protocol.contracts import violations
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import text


@frozen(kw_only=True)
class Config:
    """A valid configuration: paths absolute, programs found, defaults filled in."""

    file: Path
    cloud: Cloud
    secret_file: Path | None
    """The machine's secret; None for a machine whose identity comes from a license."""
    checkout: Checkout
    license: License
    state_folder: Path
    control_folder: Path
    history_days: float
    min_free_bytes: int
    limits: Limits
    log: Log
    metrics: Metrics
    telemetry: Telemetry
    workflows: Mapping[str, Workflow]
    engines: Mapping[str, EngineEntry] = field(factory=dict)
    """Engines beside this machine's own processes, by name."""
    warnings: tuple[str, ...] = ()
    """Keys that have another name by now, one sentence each."""
    sources: Sources = field(factory=lambda: Sources({}), eq=False, repr=False)
    """The file and its drop-ins, as they were read."""
    brand: Brand = DISPATCHD
    """Names of the program that has read it."""

    def file_of(self, key: str) -> Path:
        """Return the file in which a key such as `cloud.url` is to be changed."""
        return self.sources.file_of(key) if self.sources.documents else self.file

    @property
    def room(self) -> int:
        """Most unfinished jobs that this machine has (count)."""
        return self.slots + self.limits.queue_ahead

    @property
    def slots(self) -> int:
        """Most runs at a time, on all engines together (count)."""
        return self.limits.slots + sum(each.slots for each in self.engines.values())

    def slots_of(self, engine: str) -> int:
        """Return the most runs at a time on one engine (count)."""
        if engine == LOCAL:
            return self.limits.slots
        return slots_of(self.engines, engine)

    @property
    def patience_s(self) -> float:
        """Time without a pull after which a machine that pulls isn't ready: that of two polls (seconds)."""
        return 2 * max(self.cloud.hold_s, self.cloud.poll_interval_s)

    def restart_values(self) -> dict[str, object]:
        """Return the values that only a restart changes, by key."""
        tables: dict[str, attrs.AttrsInstance] = {
            "cloud": self.cloud,
            "checkout": self.checkout,
            "license": self.license,
            "log": self.log,
            "metrics": self.metrics,
            "telemetry": self.telemetry,
        }
        values: dict[str, object] = {
            f"{table}.{field.name}": getattr(content, field.name)
            for table, content in tables.items()
            for field in attrs.fields(type(content))
            if field.metadata == RESTART
        }
        return {
            **values,
            "store.folder": self.state_folder,
            "control.folder": self.control_folder,
            "engines": self.engines,
        }

    @property
    def secret_is_exposed(self) -> bool:
        """True if other users of this machine can read the secret's file."""
        file = self.secret_file
        # A credential is systemd's to protect; outside of the service it may not even exist.
        return (
            file is not None
            and not self.cloud.secret_credential
            and bool(file.stat().st_mode & _OTHERS)
        )

    def needed_files(self) -> list[Path]:
        """Return what a daemon needs beside its programs: what the file names, and its own folders."""
        named = (
            *(self.cloud.ca_file, self.cloud.client_cert_file, self.checkout.ca_file),
            *(
                path
                for workflow in self.workflows.values()
                for path in workflow.hidden_paths
            ),
        )
        files = [self.file.parent / name for name in dict.fromkeys(named) if name]
        return [
            *(self.file, *drop_ins(self.file), *files),
            *(self.state_folder, self.control_folder),
        ]


_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=False)


@frozen(kw_only=True)
class Places:
    """Folders of a daemon: its state, its control socket, and its credentials."""

    state_folder: Path
    control_folder: Path
    credentials_folder: Path = Path("/run/credentials/dispatchd.service")
    """Folder in which systemd puts the service's credentials (systemd.exec(5)); for display outside of the service."""


def load(
    path: Path,
    *,
    defaults: Places,
    search_path: str,
    credentials_folder: str = "",
    elsewhere: bool = False,
    document: Mapping[str, Json] | None = None,
) -> Config:
    """Read and check a configuration file and its drop-ins.

    Args:
        path: The file; nothing of it is read if there is a `document`.
        defaults: Used where the file names none. The control folder defaults to a state folder that the file names.
        search_path: Folders in which programs without a slash are searched, in the form of PATH.
        credentials_folder: Folder in which systemd has put this service's credentials; empty for other processes,
            which can't read them.
        elsewhere: True if the configuration is for another machine: no file that it names, and no program, is looked for.
        document: The tables of a configuration that is in no file.

    Raises:
        ConfigError: The file can't be used; carries every problem that could be found in one go.
    """
    path = path.absolute()
    if document is None:
        sources = Sources.read(path, toml_file.load)
    else:
        sources = Sources({path: dict(document)})
    content = _structured(sources, sources.merged)
    reader = Reader(path.parent, search_path, content, own_tables(sources.merged))
    workflows = {
        name: reader.workflow(name, entry) for name, entry in content.workflows.items()
    }
    places = _places(path, content.store.folder, content.control.folder, defaults)
    config = Config(
        file=path,
        cloud=content.cloud,
        secret_file=_secret_file(
            path, content.cloud, credentials_folder or defaults.credentials_folder
        ),
        checkout=content.checkout,
        license=content.license,
        state_folder=places.state_folder,
        control_folder=places.control_folder,
        history_days=content.store.history_days,
        min_free_bytes=content.store.min_free_mib << 20,
        limits=content.runs,
        log=content.log,
        metrics=content.metrics,
        telemetry=content.telemetry,
        workflows=workflows,
        engines=content.engines,
        warnings=tuple(renamed_keys(content)),
        sources=sources,
    )
    _require_usable(config, None if elsewhere else credentials_folder)
    return config


def locate(path: Path, *, defaults: Places) -> tuple[Places, Problem | None]:
    """Return the folders of a configuration file's daemon, even if the rest of the file is invalid.

    For commands that ask a running daemon: it may have been started before the mistake was made.

    Returns also the reason if a file isn't TOML, or a drop-in can't be read; then the tables that are valid count.

    Raises:
        ConfigError: The file can't be read.
    """
    path = path.absolute()
    problems: list[Problem] = []

    def tables(file: Path) -> dict[str, Json]:
        try:
            content = toml_file.read(file)
        except ConfigError as error:
            if file == path:
                raise
            problems.extend(error.problems)
            return {}
        try:
            return toml_file.parse(file, content)
        except ConfigError as error:
            problems.extend(error.problems)
            return toml_file.whole_tables(content)

    try:
        document = Sources.read(path, tables).merged
    except ConfigError as error:
        # About the drop-ins, or this raises it again.
        document = tables(path)
        problems.extend(error.problems)
    places = _places(
        path,
        text(document, "store", "folder"),
        text(document, "control", "folder"),
        defaults,
    )
    return places, problems[0] if problems else None


def _places(path: Path, state: str, control: str, defaults: Places) -> Places:
    state_folder = path.parent / state if state else defaults.state_folder
    if control:
        control_folder = path.parent / control
    else:
        control_folder = state_folder if state else defaults.control_folder
    return Places(
        state_folder=state_folder.absolute(), control_folder=control_folder.absolute()
    )


def _secret_file(
    path: Path, cloud: Cloud, credentials_folder: str | Path
) -> Path | None:
    if cloud.secret_credential:
        return Path(credentials_folder) / cloud.secret_credential
    return path.parent / cloud.secret_file if cloud.secret_file else None


def _structured(sources: Sources, document: dict[str, Json]) -> File:
    """Return the content of the files, checked against the schema, and its keys against each other.

    Raises:
        ConfigError: It has mistakes.
    """
    problems = [
        Problem(file=sources.file_of(key), key=key, expected=violation.rule)
        for violation in violations("config", document)
        for key in (violation.path.removeprefix("$").removeprefix("."),)
    ]
    if problems:
        raise ConfigError(problems)
    content = _converter.structure(with_limits(document), File)
    problems = [
        Problem(file=sources.file_of(key), key=key, expected=expected)
        for key, expected in (
            *unknown_secrets(content),
            *unexpanded_programs(content),
            *two_tokens(content),
            *two_report_keys(content, own_tables(document)),
            *unfit_isolations(content),
            *unfit_options(content),
            *unfit_engines(content, own_tables(document)),
        )
    ]
    if problems:
        raise ConfigError(problems)
    return content


def _require_usable(config: Config, credentials_folder: str | None) -> None:
    """Return if credentials are there, and what this machine has to have; None for another machine.

    Raises:
        ConfigError: Something is missing.
    """
    problems = [
        Problem(file=config.file_of(key), key=key, expected=expected)
        for key, expected in (
            *_incomplete(config),
            *(
                ()
                if credentials_folder is None
                else _unusable(config, credentials_folder)
            ),
        )
    ]
    if problems:
        raise ConfigError(problems)


def _incomplete(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and expected value for credentials of the endpoint that are missing, or there twice."""
    cloud = config.cloud
    if config.secret_file is not None:
        if cloud.secret_file and cloud.secret_credential:
            yield "cloud.secret_credential", "must not stand beside secret_file"
    elif cloud.license_id:
        yield (
            "cloud.secret_file",
            "must be set, or secret_credential, where license_id is",
        )
    elif not config.license.public_keys:
        yield (
            "license.public_keys",
            "must name the keys that licenses are signed with; or set cloud.license_id, server_id and secret_file",
        )


def _unusable(config: Config, credentials_folder: str) -> Iterator[tuple[str, str]]:
    """Yield key and expected value for what this machine lacks."""
    cloud = config.cloud
    if config.secret_file is not None:
        key = "secret_credential" if cloud.secret_credential else "secret_file"
        if credentials_folder or not cloud.secret_credential:
            yield from _unusable_secret(f"cloud.{key}", config.secret_file)
    for name, workflow in config.workflows.items():
        expectation = _unusable_program(workflow, config.file.parent)
        if expectation:
            yield f"workflows.{name}.command", expectation


def _unusable_secret(key: str, file: Path) -> Iterator[tuple[str, str]]:
    if not file.is_file():
        yield (
            key,
            f"must be a file with the machine's secret; there is none at {file}",
        )
    elif not os.access(file, os.R_OK):
        yield key, f"must be readable by this user: {file}"


def _unusable_program(workflow: Workflow, folder: Path) -> str:
    program = workflow.program
    if not program.is_absolute():
        return f"must start with a program on PATH, an absolute path, or a path relative to this file; no {str(program)!r} on PATH"
    # A file beside the configuration belongs to it. Any other absolute path may be on a file system that
    # isn't mounted yet: a run that can't start fails for its own job alone.
    if program.is_relative_to(folder) and not program.is_file():
        return f"must start with a program that exists; there is no file {program}"
    return ""
