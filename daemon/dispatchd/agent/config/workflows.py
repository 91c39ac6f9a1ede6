"""Conversion of the file's tables to the workflows that the daemon runs."""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

import attrs
from attrs import frozen

from dispatchd.agent.config.engines import isolation_of
from dispatchd.agent.config.keys import File, WorkflowEntry
from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.isolation import CHOOSES_NETWORK, Home, Isolation, Network
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.domain.limits import RunLimits
from dispatchd.agent.domain.run.github_server import PUBLIC, server_of
from dispatchd.agent.domain.run.secret import SecretSource
from dispatchd.agent.domain.workflow import GH_TOKEN, ReportLog, Repository, Workflow
from dispatchd.protocol.job import Json

_LIMITS: Final = tuple(field.name for field in attrs.fields(RunLimits))

_CONTROLLERS: Final = {
    "memory_max_mib": "memory",
    "pids_max": "pids",
    "cpu_weight": "cpu",
}
"""Controllers (cgroup v2) that limits need, by key."""

_UNEXPANDED: Final = re.compile(r"^~|\$[A-Za-z_{]")
"""Part of a path that a shell would expand; the same as in the config schema."""


@frozen
class Reader:
    """Converts entries of the file."""

    folder: Path
    """Folder of the configuration file, to which relative paths are relative."""
    search_path: str
    """Folders in which programs without a slash are searched, in the form of PATH."""
    content: File
    tables: Mapping[str, Mapping[str, Json]]
    """Tables of the workflows, by name, with the keys that they set themselves."""

    def workflow(self, name: str, entry: WorkflowEntry) -> Workflow:
        """Return a workflow with its defaults filled in and its secrets resolved."""
        return Workflow(
            **{
                **{limit: getattr(entry, limit) for limit in _LIMITS},
                "isolation": isolation_of(entry),
            },
            name=name,
            engine=entry.engine,
            command=self._command(entry),
            contract=entry.contract,
            arguments=entry.arguments if entry.contract is Contract.HEADLESS else (),
            env=dict(entry.env),
            secrets={
                variable: self._secret(secret)
                for variable, secret in entry.secrets.items()
            },
            github_token=dict(entry.github_token),
            own_limits=tuple(
                controller
                for key, controller in _CONTROLLERS.items()
                if entry.engine == LOCAL and self.tables[name].get(key)
            ),
            network=entry.network,
            home=entry.home,
            image=entry.image,
            pull=entry.pull,
            read_paths=self._absolute(entry.read_paths),
            write_paths=self._absolute(entry.write_paths),
            hidden_paths=self._hidden_paths,
            writable_paths=self._writable_paths,
            forks_without_isolation=entry.forks_without_isolation,
            repositories=entry.repositories,
            github_servers=tuple(self._servers(entry)),
            checkout=self._repository(entry) if entry.checkout else None,
            required_artifacts=entry.required_artifacts,
            missing_fails=entry.missing_artifacts == "fail",
            artifacts=entry.artifacts,
            report_artifacts=entry.report_artifacts,
            report_log=_report_log(entry),
        )

    def _command(self, entry: WorkflowEntry) -> tuple[str, ...]:
        if entry.isolation is Isolation.CONTAINER:
            # The program is one of the image.
            return entry.command
        return (self._program(entry.command[0]), *entry.command[1:])

    def _absolute(self, paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(str(self.folder / path) for path in paths)

    @cached_property
    def _hidden_paths(self) -> tuple[str, ...]:
        return self._absolute(self._secret_files())

    @cached_property
    def _writable_paths(self) -> tuple[str, ...]:
        """Paths that any workflow may change."""
        entries = self.content.workflows.values()
        return self._absolute(path for entry in entries for path in entry.write_paths)

    @cached_property
    def _all_servers(self) -> tuple[str, ...]:
        """GitHub servers of all workflows, in the file's order."""
        urls = (entry.checkout_url for entry in self.content.workflows.values())
        return tuple(dict.fromkeys(map(server_of, urls)))

    def _secret_files(self) -> Iterator[str]:
        """Yield the files that hold secrets of this machine or of any workflow."""
        cloud = self.content.cloud
        named = (
            cloud.secret_file,
            cloud.client_key_file,
            cloud.proxy_credentials_file,
            # Without a file of its own the key is in that of its certificate.
            "" if cloud.client_key_file else cloud.client_cert_file,
            self.content.checkout.proxy_credentials_file,
            self.content.license.key_file,
            self.content.telemetry.otlp_headers_file,
            *(secret.file for secret in self.content.secrets.values()),
            *(engine.key_file for engine in self.content.engines.values()),
        )
        yield from filter(None, named)

    def _servers(self, entry: WorkflowEntry) -> Iterator[str]:
        """Yield the GitHub servers of an entry: its own, or all of the file's if it names none."""
        own = server_of(entry.checkout_url)
        names_none = not entry.checkout and own == PUBLIC
        others = self._all_servers if names_none else ()
        yield from filter(None, dict.fromkeys((own, *others)))

    def _repository(self, entry: WorkflowEntry) -> Repository:
        token = entry.checkout_secret
        return Repository(
            url=entry.checkout_url.rstrip("/"),
            token=self._secret(token) if token else None,
            timeout_s=entry.checkout_timeout_s,
        )

    def _secret(self, name: str) -> SecretSource:
        entry = self.content.secrets[name]
        command = entry.command
        return SecretSource(
            name=name,
            file=str(self.folder / entry.file) if entry.file else "",
            credential=entry.credential,
            env=entry.env,
            command=(self._program(command[0]), *command[1:]) if command else (),
        )

    def _program(self, program: str) -> str:
        if "/" in program:
            return str(self.folder / program)
        return shutil.which(program, path=self.search_path) or program


def with_limits(document: Mapping[str, Json]) -> dict[str, Json]:
    """Return a document with the limits of `[runs]` in each workflow that doesn't set them itself."""
    runs = _table(document.get("runs"))
    limits = {key: value for key, value in runs.items() if key in _LIMITS}
    tables = own_tables(document)
    return {
        **document,
        "workflows": {name: {**limits, **own} for name, own in tables.items()},
    }


def own_tables(document: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the tables of a document's workflows, by name."""
    workflows = _table(document.get("workflows"))
    return {name: _table(table) for name, table in workflows.items()}


def _table(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _report_log(entry: WorkflowEntry) -> ReportLog:
    if entry.report_output is None:
        return entry.report_log
    return ReportLog.TAIL if entry.report_output else ReportLog.NEVER


def renamed_keys(content: File) -> Iterator[str]:
    """Yield a sentence for every key that has another name by now."""
    for name, entry in content.workflows.items():
        if entry.report_output is not None:
            yield (
                f"workflows.{name}.report_output is now report_log: "
                f'write report_log = "{_report_log(entry)}", or leave it out for the whole log'
            )


def two_report_keys(
    content: File, tables: Mapping[str, Mapping[str, Json]]
) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for every workflow with the old and the new name of a key."""
    for name, entry in content.workflows.items():
        if entry.report_output is not None and "report_log" in tables[name]:
            yield (
                f"workflows.{name}.report_output",
                "must not stand beside report_log, which replaces it",
            )


def two_tokens(content: File) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for every workflow with two sources of one variable."""
    for name, entry in content.workflows.items():
        if entry.github_token and GH_TOKEN in entry.secrets:
            yield (
                f"workflows.{name}.secrets.{GH_TOKEN}",
                "must not stand beside github_token, which sets that variable",
            )


def unfit_isolations(content: File) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for every workflow with keys that its isolation doesn't allow."""
    for name, entry in content.workflows.items():
        isolation = isolation_of(entry)
        is_container = isolation is Isolation.CONTAINER
        if is_container and not entry.image:
            expected = 'must name an image, because isolation is "container"'
            yield f"workflows.{name}.image", expected
        if entry.image and not is_container:
            expected = 'must stand beside isolation = "container"'
            yield f"workflows.{name}.image", expected
        if entry.home is Home.WORKFLOW and isolation is Isolation.NONE:
            expected = 'must be "attempt" with isolation = "none", where a run has the daemon\'s home'
            yield f"workflows.{name}.home", expected
        if entry.network is Network.NONE and isolation not in CHOOSES_NETWORK:
            expected = 'must be "host", unless isolation is "bubblewrap" or "container"'
            yield f"workflows.{name}.network", expected


def unexpanded_programs(content: File) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for every program whose path has a part that only a shell would expand."""
    programs = {
        **{
            f"workflows.{name}": workflow.command
            for name, workflow in content.workflows.items()
        },
        **{
            f"secrets.{name}": secret.command
            for name, secret in content.secrets.items()
        },
    }
    for key, command in programs.items():
        if command and _UNEXPANDED.search(command[0]):
            expected = "must start with a program without ~ and $VARIABLE, which nothing expands"
            yield f"{key}.command", expected


def unknown_secrets(content: File) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for every secret that a workflow names and the file doesn't have."""
    known = ", ".join(content.secrets) or "none"
    for name, entry in content.workflows.items():
        references = {
            f"secrets.{variable}": secret for variable, secret in entry.secrets.items()
        }
        if entry.checkout_secret:
            references["checkout_secret"] = entry.checkout_secret
        for key, secret in references.items():
            if secret not in content.secrets:
                yield (
                    f"workflows.{name}.{key}",
                    f"must name a secret of the table [secrets]; known are: {known}",
                )
