"""The shapes of the configuration file, key by key."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from attrs import field, frozen

from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.isolation import Home, Network, PullPolicy
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.domain.limits import RunLimits
from dispatchd.agent.domain.workflow import HEADLESS_ARGUMENTS, ReportLog

RESTART: Final = {"restart": True}
"""Metadata of a key that a running daemon can't change; all others are applied by a reload."""


class OnShutdown(StrEnum):
    """Effect of a stop of the daemon on its runs."""

    DETACH = "detach"
    """The runs continue; the next daemon follows and reports them."""
    DRAIN = "drain"
    """The daemon waits for their end."""
    CANCEL = "cancel"
    """The daemon ends them."""


@frozen(kw_only=True)
class Cloud:
    """Endpoint, connection to it, and this machine's identity there; times in seconds.

    The identity is set completely, with one of the two secrets, or not at all: then it comes from a license.
    """

    url: str = field(metadata=RESTART)
    license_id: str = field(default="", metadata=RESTART)
    server_id: str = field(default="", metadata=RESTART)
    secret_file: str = field(default="", metadata=RESTART)
    secret_credential: str = field(default="", metadata=RESTART)
    ca_file: str = field(default="", metadata=RESTART)
    client_cert_file: str = field(default="", metadata=RESTART)
    client_key_file: str = field(default="", metadata=RESTART)
    proxy: str = field(default="", metadata=RESTART)
    proxy_credentials_file: str = field(default="", metadata=RESTART)
    allow_insecure_host: str = field(default="", metadata=RESTART)
    hold_s: float = 50.0
    poll_interval_s: float = 10.0
    call_timeout_s: float = field(default=30.0, metadata=RESTART)
    declare_workflows: bool = field(default=False, metadata=RESTART)


@frozen(kw_only=True)
class Checkout:
    """Git's connection to repositories, where it differs from the connection to the endpoint."""

    proxy: str = field(default="", metadata=RESTART)
    proxy_credentials_file: str = field(default="", metadata=RESTART)
    ca_file: str = field(default="", metadata=RESTART)


@frozen(kw_only=True)
class License:
    """Source of this machine's license, and the keys that must have signed it."""

    key_file: str = field(default="", metadata=RESTART)
    key_credential: str = field(default="", metadata=RESTART)
    public_keys: tuple[str, ...] = field(default=(), metadata=RESTART)


@frozen(kw_only=True)
class Store:
    """Folder of tracked jobs and runs, and the time for which they are kept."""

    folder: str = field(default="", metadata=RESTART)
    history_days: float = 14.0
    min_free_mib: int = 100


@frozen(kw_only=True)
class Limits(RunLimits):
    """Number of runs at a time, and the default limits of workflows; times in seconds."""

    slots: int = 1
    queue_ahead: int = 1
    retry_wait_s: float = 5.0
    on_shutdown: OnShutdown = OnShutdown.DETACH


@frozen(kw_only=True)
class Log:
    """Level and format of the log."""

    level: str = "info"
    format: str = field(default="auto", metadata=RESTART)


@frozen(kw_only=True)
class Control:
    """Folder of the control socket; empty is the state folder."""

    folder: str = field(default="", metadata=RESTART)


@frozen(kw_only=True)
class Metrics:
    """Outputs of metrics beside the control socket; empty is none."""

    textfile: str = field(default="", metadata=RESTART)
    listen: str = field(default="", metadata=RESTART)


@frozen(kw_only=True)
class Telemetry:
    """Receiver of traces; empty is none."""

    otlp_url: str = field(default="", metadata=RESTART)
    otlp_headers_file: str = field(default="", metadata=RESTART)


class EngineKind(StrEnum):
    """Kinds of engines, beside this machine's own processes, that need no package of a third party."""

    SLURM = "slurm"
    """A cluster's batch system, by its commands."""
    DAGU = "dagu"
    """A server that runs DAGs, by its REST API."""


@frozen(kw_only=True)
class EngineEntry:
    """Engine beside `local`, as it is written in the file. Empty values are left to its site."""

    kind: str = field(default=EngineKind.SLURM, metadata=RESTART)
    slots: int = field(default=100, metadata=RESTART)
    queue_timeout_s: float = field(default=0.0, metadata=RESTART)
    poll_s: float = field(default=10.0, metadata=RESTART)
    partition: str = field(default="", metadata=RESTART)
    account: str = field(default="", metadata=RESTART)
    qos: str = field(default="", metadata=RESTART)
    time: str = field(default="", metadata=RESTART)
    gres: str = field(default="", metadata=RESTART)
    constraint: str = field(default="", metadata=RESTART)
    options: tuple[str, ...] = field(default=(), metadata=RESTART)
    url: str = field(default="", metadata=RESTART)
    dag: str = field(default="", metadata=RESTART)
    key_file: str = field(default="", metadata=RESTART)
    settings: Mapping[str, Any] = field(factory=dict, metadata=RESTART)
    """Settings of a third party's engine, which its package checks."""

    @property
    def is_foreign(self) -> bool:
        """True if it is an engine of a third party."""
        return self.kind not in set(EngineKind)


@frozen(kw_only=True)
class WorkflowEntry(RunLimits):
    """Workflow as it is written in the file, with the limits of `[runs]` where it sets none."""

    command: tuple[str, ...]
    engine: str = LOCAL
    repositories: tuple[str, ...] | None = None
    contract: Contract = Contract.PLAIN
    arguments: tuple[str, ...] = HEADLESS_ARGUMENTS
    env: Mapping[str, str] = field(factory=dict)
    secrets: Mapping[str, str] = field(factory=dict)
    github_token: Mapping[str, str] = field(factory=dict)
    network: Network = Network.HOST
    home: Home = Home.ATTEMPT
    image: str = ""
    pull: PullPolicy = PullPolicy.MISSING
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    forks_without_isolation: bool = False
    checkout: bool = False
    checkout_url: str = "https://github.com"
    checkout_secret: str = ""
    checkout_timeout_s: float = 300.0
    required_artifacts: tuple[str, ...] = ()
    missing_artifacts: str = "park"
    artifacts: tuple[str, ...] = ()
    report_artifacts: bool = True
    report_log: ReportLog = ReportLog.FULL
    report_output: bool | None = None
    """Name of `report_log` before it: true for the tail, false for never."""


@frozen(kw_only=True)
class SecretEntry:
    """Secret as it is written in the file. The schema requires exactly one key."""

    file: str = ""
    credential: str = ""
    env: str = ""
    command: tuple[str, ...] = ()


@frozen(kw_only=True)
class File:
    """The whole file."""

    cloud: Cloud
    checkout: Checkout = field(factory=Checkout)
    license: License = field(factory=License)
    store: Store = field(factory=Store)
    runs: Limits = field(factory=Limits)
    log: Log = field(factory=Log)
    control: Control = field(factory=Control)
    metrics: Metrics = field(factory=Metrics)
    telemetry: Telemetry = field(factory=Telemetry)
    secrets: Mapping[str, SecretEntry] = field(factory=dict)
    engines: Mapping[str, EngineEntry] = field(factory=dict)
    workflows: Mapping[str, WorkflowEntry] = field(factory=dict)
