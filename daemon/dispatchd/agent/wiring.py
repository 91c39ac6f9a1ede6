"""The composition root: builds every object of the agent once, each after those that it needs."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
from attrs import frozen

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.load import Config
from dispatchd.agent.control.calls import owner_of
from dispatchd.agent.control.job_commands import JobCommands
from dispatchd.agent.control.license import license_routes, license_status
from dispatchd.agent.control.queries import EventFeed, Queries, metrics_server
from dispatchd.agent.control.routes import Routes
from dispatchd.agent.control.server import ControlServer
from dispatchd.agent.domain import fitness
from dispatchd.agent.endpoint.caller import Caller
from dispatchd.agent.endpoint.client import DispatchEndpoint
from dispatchd.agent.engine.local.engine import LocalEngine
from dispatchd.agent.execution import Execution, Tracking, execution
from dispatchd.agent.health.metrics import Metrics, StatusCollector
from dispatchd.agent.health.readiness import Health
from dispatchd.agent.health.status import Status
from dispatchd.agent.health.supervision import SupervisionLoop
from dispatchd.agent.health.tracing import TraceExporter, read_headers
from dispatchd.agent.identity import Identity, identity
from dispatchd.agent.loops.heartbeat import HeartbeatLoop
from dispatchd.agent.loops.intake import IntakeLoop
from dispatchd.agent.loops.modes import ModesLoop
from dispatchd.agent.loops.progress import ProgressFeed
from dispatchd.agent.loops.prune import PruneLoop
from dispatchd.agent.loops.pull import PullLoop
from dispatchd.agent.loops.report import ReportLoop
from dispatchd.agent.reload import Reloader
from dispatchd.agent.runs.follow import Guard
from dispatchd.agent.store.held import HeldFolders
from dispatchd.agent.store.intake import IntakeStore
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import RunFolder
from dispatchd.agent.supervisor import Daemon
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.last_resort import LastResort
from dispatchd.concurrency.notifier import Notifier
from dispatchd.errors import ConfigError, Problem
from dispatchd.network.proxies import environment_proxy
from dispatchd.process.clock import SteadyClock
from dispatchd.process.systemd import ServiceManager
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class Opened:
    """Resources of a daemon that stay open for as long as it runs."""

    current: CurrentConfig
    metrics: Metrics
    store: JobStore
    engine: LocalEngine
    held: HeldFolders
    caller: Caller
    clock: SteadyClock
    known: KnownSecrets
    environment: Mapping[str, str]
    bugs: BugFence
    last_resort: LastResort
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


def build(opened: Opened, reread: Callable[[], Config]) -> Daemon:
    """Wire a daemon, each object after those that it needs; `reread` returns the configuration, read again."""
    config, bugs, engine = opened.current.config, opened.bugs, opened.engine
    changed, feed = Notifier(), EventFeed()
    who = _identity(opened, changed)
    traces = _traces(opened, lambda: who.credentials.server_id)
    watchers = [opened.metrics.see, feed.see]
    shared = Tracking.of(
        opened.current,
        opened.store,
        opened.clock,
        bugs,
        changed=changed,
        watchers=[*watchers, traces.see] if traces is not None else watchers,
    )
    source = _source(opened, who)
    core = execution(shared, engine, opened.known, source, _guard(opened))
    loops = _loops(opened, shared, core, source, who)
    status = _status(opened, shared, core, loops, who)
    opened.metrics.registry.register(StatusCollector(status, opened.caller.counted))
    manager = ServiceManager.of(opened.environment)
    reloader = Reloader(
        current=opened.current,
        read=reread,
        tracker=shared.tracker,
        status=status,
        manager=manager,
    )
    queries = Queries(
        status=status,
        metrics=opened.metrics,
        tracker=shared.tracker,
        store=opened.store,
        feed=feed,
    )
    job_commands = JobCommands(shared.tracker, loops.intake, reloader.reload)
    control = _control(
        opened, queries.routes(), job_commands.routes(), license_routes(who.license)
    )
    others = (
        *(ModesLoop(opened.held, bugs), who.license, loops.report, core.run_loop),
        *(core.leftovers, loops.heartbeat, loops.prune, loops.intake),
        control,
        _supervision(opened, status, manager),
        traces,
        metrics_server(config.metrics.listen, queries, bugs),
    )
    return Daemon(
        tracker=shared.tracker,
        pull=loops.pull,
        run_loop=core.run_loop,
        report=loops.report,
        others=[each for each in others if each is not None],
        reloader=reloader,
        status=status,
        manager=manager,
        bugs=bugs,
        last_resort=opened.last_resort,
    )


def _guard(opened: Opened) -> Guard:
    """Return the guard of what live runs need, and of the files that the configuration in force names."""

    def guard(run: RunFolder, number: int) -> AbstractContextManager[None]:
        opened.held.need_elsewhere(opened.current.config.needed_files())
        return opened.held.guarding(run, number)

    opened.held.need_elsewhere(opened.current.config.needed_files())
    return guard


def _identity(opened: Opened, changed: Notifier) -> Identity:
    return identity(
        opened.current.config,
        opened.caller,
        opened.known,
        opened.clock,
        opened.environment,
        opened.bugs,
        changed.notify,
    )


def _control(opened: Opened, *routes: Routes) -> ControlServer:
    config = opened.current.config
    return ControlServer(
        folder=config.control_folder,
        owner=owner_of(config.state_folder),
        bugs=opened.bugs,
        routes={key: act for each in routes for key, act in each.items()},
    )


def _source(opened: Opened, who: Identity) -> DispatchEndpoint:
    current, machine = opened.current, opened.engine.machine

    def declared() -> list[str] | None:
        # Jobs that this machine can't run well are left to others, even if the owner doesn't want the list to be sent.
        workflows = current.config.workflows
        unfit = fitness.unfit(workflows, machine)
        if not (unfit or current.config.cloud.declare_workflows):
            return None
        return sorted(workflows.keys() - unfit.keys())

    return DispatchEndpoint(
        caller=opened.caller,
        credentials=who.credentials,
        call_timeout_s=current.config.cloud.call_timeout_s,
        declared=declared,
    )


def _loops(
    opened: Opened,
    shared: Tracking,
    core: Execution,
    source: DispatchEndpoint,
    who: Identity,
) -> _Loops:
    current, tracker, runs = shared.current, shared.tracker, shared.runs
    activity, bugs, clock = shared.activity, shared.bugs, shared.clock
    report = _report(opened, shared, source)
    intake = IntakeLoop(
        store=IntakeStore(current.config.state_folder),
        tracker=tracker,
        report=report,
        activity=activity,
        bugs=bugs,
        clock=clock,
    )
    permissions = [each for each in (intake, who.license) if each is not None]
    heartbeat = HeartbeatLoop(
        source=source,
        tracker=tracker,
        fence=shared.fence,
        bugs=bugs,
        clock=clock,
        progress=ProgressFeed(runs, core.concluder.stories),
    )
    pull = PullLoop(
        source=source,
        permissions=permissions,
        tracker=tracker,
        runs=runs,
        current=current,
        machine=opened.engine.machine,
        activity=activity,
        liveness=shared.liveness,
        bugs=bugs,
        clock=clock,
        random=shared.random,
        on_revoked=_nothing if who.license is None else who.license.doubt,
        on_early_end=heartbeat.hurry,
    )
    prune = _prune(opened, shared, core)
    health = Health(
        activity=activity,
        liveness=shared.liveness,
        tracker=tracker,
        permissions=permissions,
        bugs=bugs,
        clock=clock,
        current=current,
    )
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
        current=shared.current,
        machine=opened.engine.machine,
        activity=shared.activity,
        liveness=shared.liveness,
        bugs=shared.bugs,
        clock=shared.clock,
        random=shared.random,
        call_timeout_s=shared.current.config.cloud.call_timeout_s,
    )


def _prune(opened: Opened, shared: Tracking, core: Execution) -> PruneLoop:
    return PruneLoop(
        store=opened.store,
        tracker=shared.tracker,
        runs=shared.runs,
        workspaces=core.concluder.workspaces,
        activity=shared.activity,
        bugs=shared.bugs,
        clock=shared.clock,
        current=shared.current,
        endpoint_time=opened.caller.endpoint_time,
    )


def _status(
    opened: Opened, shared: Tracking, core: Execution, loops: _Loops, who: Identity
) -> Status:
    clock, current = shared.clock, shared.current
    return Status(
        activity=shared.activity,
        health=loops.health,
        tracker=shared.tracker,
        intake=loops.intake,
        clock=clock,
        started_at=clock.now(),
        current=current,
        containment=opened.engine.containment,
        isolation=opened.engine.walls.words,
        machine=lambda: {
            "license_id": who.credentials.license_id,
            "server_id": who.credentials.server_id,
        },
        license=lambda: license_status(who.license, clock),
        skew_s=lambda: opened.caller.skew.seconds,
        troubles=lambda: [
            *fitness.warnings(current.config.workflows, opened.engine.machine),
            *opened.warnings,
            *loops.prune.troubles,
            *core.leftovers.warnings,
        ],
    )


def _supervision(
    opened: Opened, status: Status, manager: ServiceManager
) -> SupervisionLoop:
    config = opened.current.config
    return SupervisionLoop(
        status=status,
        manager=manager,
        metrics=opened.metrics,
        bugs=opened.bugs,
        textfile=_beside(config, config.metrics.textfile),
    )


def _nothing() -> None:
    """Do nothing: an identity in the configuration has no license to check again."""


def _traces(opened: Opened, server_id: Callable[[], str]) -> TraceExporter | None:
    """Return the exporter of traces, or None for none.

    Raises:
        ConfigError: The file with its headers, or the environment's proxy, can't be used.
    """
    config, known = opened.current.config, opened.known
    wanted = config.telemetry
    if not wanted.otlp_url:
        return None
    headers: dict[str, str] = {}
    file = _beside(config, wanted.otlp_headers_file)
    if file is not None:
        try:
            headers = read_headers(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            expected = f"must be a readable file of NAME: VALUE lines ({error})"
            key = "telemetry.otlp_headers_file"
            problem = Problem(file=config.file, key=key, expected=expected)
            raise ConfigError([problem]) from error
        known.know("telemetry", headers.values())
    proxy = environment_proxy(httpx.URL(wanted.otlp_url), opened.environment)
    if proxy is not None and proxy.auth is not None:
        known.know("telemetry", [*headers.values(), proxy.auth[1]])
    return TraceExporter(
        url=wanted.otlp_url,
        headers=headers,
        proxy="" if proxy is None else proxy.full_url,
        instance_id=server_id,
        bugs=opened.bugs,
        random=random.Random(),  # noqa: S311  # for jitter, not for secrets
    )


def _beside(config: Config, name: str) -> Path | None:
    return config.file.parent / name if name else None
