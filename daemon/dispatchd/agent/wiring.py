"""The composition root: builds every object of the agent once, each after those that it needs."""

import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
from attrs import evolve, field, frozen

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.load import Config
from dispatchd.agent.control.calls import owner_of
from dispatchd.agent.control.job_commands import JobCommands
from dispatchd.agent.control.license import license_routes, license_status
from dispatchd.agent.control.queries import EventFeed, Queries, metrics_server
from dispatchd.agent.control.routes import Routes
from dispatchd.agent.control.server import ControlServer
from dispatchd.agent.domain import runnable_workflows
from dispatchd.agent.endpoint.about import about, declared
from dispatchd.agent.endpoint.caller import Caller
from dispatchd.agent.endpoint.client import DispatchEndpoint
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.health.metrics import Metrics, StatusCollector
from dispatchd.agent.health.readiness import Health
from dispatchd.agent.health.status import MachineStatus, Status
from dispatchd.agent.health.supervision import SupervisionLoop
from dispatchd.agent.health.tracing import TraceExporter, read_headers
from dispatchd.agent.identity import Identity, identity
from dispatchd.agent.loops.artifacts import ArtifactLoop
from dispatchd.agent.loops.file_modes import ModesLoop
from dispatchd.agent.loops.heartbeat import HeartbeatLoop
from dispatchd.agent.loops.intake import IntakeLoop
from dispatchd.agent.loops.logs.loop import LogLoop
from dispatchd.agent.loops.progress import ProgressFeed
from dispatchd.agent.loops.prune import PruneLoop
from dispatchd.agent.loops.pull import Listeners, PullLoop
from dispatchd.agent.loops.report import ReportLoop
from dispatchd.agent.reload import Reloader
from dispatchd.agent.run_loop.attempt import Guard
from dispatchd.agent.store.held_folders import HeldFolders
from dispatchd.agent.store.intake import IntakeStore
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.log_debts import LogDebts
from dispatchd.agent.store.runs import RunFolder
from dispatchd.agent.supervisor import Daemon, Loops
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.agent.wiring_of_runs import Execution, execution
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.forced_exit import LastResort
from dispatchd.concurrency.notifier import Notifier
from dispatchd.errors import ConfigError, Problem
from dispatchd.linux.clock import MachineTime, SteadyClock, TimeSource
from dispatchd.linux.systemd import ServiceManager
from dispatchd.network.proxies import environment_proxy
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class Surroundings:
    """Surroundings of a daemon, given by the process that it runs in."""

    environment: Mapping[str, str]
    signals: AsyncIterator[signal.Signals]
    """SIGTERM and SIGINT stop the daemon; SIGHUP reloads its configuration."""
    reread: Callable[[], Config]
    """Returns the configuration, read and checked again; raises ConfigError if it is invalid."""
    known: KnownSecrets = field(factory=KnownSecrets)
    """Secrets that the log leaves out."""
    time: TimeSource = field(factory=MachineTime)
    bugs: BugFence = field(factory=BugFence)
    end: Callable[[], object] | None = None
    """Ends the process at once if a stop hangs; None if the daemon shares its process."""


@frozen(kw_only=True)
class StateFolder:
    """The state folder, open."""

    store: JobStore
    held: HeldFolders
    clock: SteadyClock


@frozen(kw_only=True)
class Opened:
    """Resources of a daemon that stay open for as long as it runs."""

    given: Surroundings
    current: CurrentConfig
    metrics: Metrics
    folder: StateFolder
    engine: LocalEngine
    caller: Caller
    warnings: Sequence[str] = ()
    """Warnings from the check of the machine, one sentence each."""


@frozen(kw_only=True)
class _Loops:
    """Loops that take jobs in, and tell the endpoint of them."""

    pull: PullLoop
    report: ReportLoop
    intake: IntakeLoop
    heartbeat: HeartbeatLoop
    prune: PruneLoop
    health: Health


def build(opened: Opened) -> Daemon:
    """Wire a daemon, each object after those that it needs."""
    given, config, bugs = opened.given, opened.current.config, opened.given.bugs
    changed, feed = Notifier(), EventFeed()
    who = _identity(opened, changed)
    traces = _traces(opened, lambda: who.credentials.server_id)
    watchers = [
        watcher for watcher in (opened.metrics, feed, traces) if watcher is not None
    ]
    shared = Tracking.of(
        opened.current,
        opened.folder.store,
        opened.folder.clock,
        bugs,
        random=bugs.random,
        changed=changed,
        watchers=[watcher.see for watcher in watchers],
    )
    source = _source(opened, who)
    core = execution(shared, opened.engine, given.known, source, _guard(opened))
    loops = _loops(opened, shared, core, source, who)
    status = _status(opened, shared, core, loops, who)
    opened.metrics.registry.register(StatusCollector(status, opened.caller.counted))
    manager = ServiceManager.of(given.environment)
    reloader = Reloader(
        current=opened.current,
        read=given.reread,
        tracker=shared.tracker,
        status=status,
        manager=manager,
    )
    queries = _queries(opened, shared.tracker, status, feed)
    job_commands = JobCommands(shared.tracker, loops.intake, reloader.reload)
    control = _control(
        opened, queries.routes(), job_commands.routes(), license_routes(who.license)
    )
    modes = ModesLoop(opened.folder.held, bugs)
    others = (
        *(modes, who.license, loops.report, core.run_loop),
        *(core.survivors, loops.heartbeat, loops.prune, loops.intake, core.janitor),
        *(*_uploads(opened, shared, source), control),
        *(_supervision(opened, status, manager), traces),
        metrics_server(config.metrics.listen, queries, bugs),
    )
    return Daemon(
        tracker=shared.tracker,
        loops=Loops(
            pull=loops.pull,
            run=core.run_loop,
            report=loops.report,
            others=[loop for loop in others if loop is not None],
        ),
        reloader=reloader,
        status=status,
        manager=manager,
        bugs=bugs,
        last_resort=LastResort(given.end),
    )


def _guard(opened: Opened) -> Guard:
    """Return the guard of what live runs need, and of the files that the configuration in force names."""

    def guard(run: RunFolder, number: int, **how: bool) -> AbstractContextManager[None]:
        opened.folder.held.need_elsewhere(opened.current.config.needed_files())
        return opened.folder.held.guarding(run, number, **how)

    opened.folder.held.need_elsewhere(opened.current.config.needed_files())
    return guard


def _identity(opened: Opened, changed: Notifier) -> Identity:
    return identity(
        opened.current.config,
        opened.caller,
        opened.given.known,
        opened.folder.clock,
        opened.given.environment,
        opened.given.bugs,
        changed.notify,
    )


def _queries(
    opened: Opened, tracker: Tracker, status: Status, feed: EventFeed
) -> Queries:
    return Queries(
        status=status,
        metrics=opened.metrics,
        tracker=tracker,
        store=opened.folder.store,
        feed=feed,
    )


def _control(opened: Opened, *routes: Routes) -> ControlServer:
    config = opened.current.config
    return ControlServer(
        folder=config.control_folder,
        owner=owner_of(config.state_folder),
        bugs=opened.given.bugs,
        routes={key: act for table in routes for key, act in table.items()},
    )


def _source(opened: Opened, who: Identity) -> DispatchEndpoint:
    current, machine = opened.current, opened.engine.machine
    return DispatchEndpoint(
        caller=opened.caller,
        credentials=who.credentials,
        call_timeout_s=current.config.cloud.call_timeout_s,
        declared=lambda: declared(current.config, machine),
        about=lambda: about(current.config),
    )


def _loops(
    opened: Opened,
    shared: Tracking,
    core: Execution,
    source: DispatchEndpoint,
    who: Identity,
) -> _Loops:
    context, tracker, runs = shared.context, shared.tracker, shared.runs
    report = _report(opened, shared, source)
    intake = IntakeLoop(
        store=IntakeStore(context.config.state_folder),
        tracker=tracker,
        report=report,
        context=context,
    )
    permissions = [
        permission for permission in (intake, who.license) if permission is not None
    ]
    heartbeat = HeartbeatLoop(
        source=source,
        tracker=tracker,
        fence=shared.fence,
        progress=ProgressFeed(runs, core.concluder.stories),
        context=context,
        logs=shared.logs,
    )
    listeners = Listeners(early_end=heartbeat.hurry)
    if who.license is not None:
        listeners = evolve(listeners, revoked=who.license.doubt)
    pull = PullLoop(
        source=source,
        permissions=permissions,
        tracker=tracker,
        runs=runs,
        machine=opened.engine.machine,
        context=context,
        listeners=listeners,
    )
    prune = _prune(opened, shared, core)
    health = Health(context=context, tracker=tracker, permissions=permissions)
    return _Loops(
        pull=pull,
        report=report,
        intake=intake,
        heartbeat=heartbeat,
        prune=prune,
        health=health,
    )


def _report(opened: Opened, shared: Tracking, source: DispatchEndpoint) -> ReportLoop:
    return ReportLoop(
        source=source,
        tracker=shared.tracker,
        fence=shared.fence,
        runs=shared.runs,
        machine=opened.engine.machine,
        context=shared.context,
    )


def _uploads(
    opened: Opened, shared: Tracking, source: DispatchEndpoint
) -> tuple[LogLoop, ArtifactLoop]:
    folder, known = opened.current.config.state_folder, opened.given.known
    debts = LogDebts.open(folder)
    logs = LogLoop(source=source, tracking=shared, debts=debts, known=known)
    copies = shared.runs.snapshots
    return logs, ArtifactLoop(source=source, tracking=shared, snapshots=copies)


def _prune(opened: Opened, shared: Tracking, core: Execution) -> PruneLoop:
    return PruneLoop(
        store=opened.folder.store,
        tracker=shared.tracker,
        runs=shared.runs,
        workspaces=core.concluder.workspaces,
        endpoint_time=opened.caller.endpoint_time,
        context=shared.context,
    )


def _status(
    opened: Opened, shared: Tracking, core: Execution, loops: _Loops, who: Identity
) -> Status:
    context, engine, clock = shared.context, opened.engine, opened.folder.clock

    def warnings() -> list[str]:
        return [
            *runnable_workflows.warnings(context.config.workflows, engine.machine),
            *opened.warnings,
            *context.config.warnings,
            *loops.prune.problems,
            *core.survivors.warnings,
        ]

    machine = MachineStatus(
        containment=engine.containment,
        isolation=engine.walls.description,
        identity=lambda: {
            "license_id": who.credentials.license_id,
            "server_id": who.credentials.server_id,
        },
        license=lambda: license_status(who.license, clock),
        skew_s=lambda: opened.caller.skew.seconds,
        warnings=warnings,
        describe=core.engines.describe,
    )
    return Status(
        health=loops.health,
        tracker=shared.tracker,
        intake=loops.intake,
        machine=machine,
        context=context,
    )


def _supervision(
    opened: Opened, status: Status, manager: ServiceManager
) -> SupervisionLoop:
    config = opened.current.config
    return SupervisionLoop(
        status=status,
        manager=manager,
        metrics=opened.metrics,
        bugs=opened.given.bugs,
        textfile=_beside(config, config.metrics.textfile),
    )


def _traces(opened: Opened, server_id: Callable[[], str]) -> TraceExporter | None:
    """Return the exporter of traces, or None for none.

    Raises:
        ConfigError: The file with its headers, or the environment's proxy, can't be used.
    """
    config, known = opened.current.config, opened.given.known
    settings = config.telemetry
    if not settings.otlp_url:
        return None
    headers: dict[str, str] = {}
    file = _beside(config, settings.otlp_headers_file)
    if file is not None:
        try:
            headers = read_headers(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            expected = f"must be a readable file of NAME: VALUE lines ({error})"
            key = "telemetry.otlp_headers_file"
            problem = Problem(file=config.file_of(key), key=key, expected=expected)
            raise ConfigError([problem]) from error
        known.know("telemetry", headers.values())
    proxy = environment_proxy(httpx.URL(settings.otlp_url), opened.given.environment)
    if proxy is not None and proxy.auth is not None:
        known.know("telemetry", [*headers.values(), proxy.auth[1]])
    return TraceExporter(
        url=settings.otlp_url,
        headers=headers,
        proxy="" if proxy is None else proxy.full_url,
        instance_id=server_id,
        service=config.brand.name,
        bugs=opened.given.bugs,
        random=opened.given.bugs.random,
    )


def _beside(config: Config, name: str) -> Path | None:
    return config.file.parent / name if name else None
