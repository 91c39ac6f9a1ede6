"""The composition root: builds the objects from the configuration, opens them, and runs the daemon."""

import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Final

import httpx
import structlog
from attrs import field, frozen

from dispatchd.clock import MachineTime, SteadyClock, TimeSource
from dispatchd.cloud.caller import Caller
from dispatchd.cloud.client import DispatchEndpoint
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.last_resort import LastResort
from dispatchd.config import Config
from dispatchd.control.calls import owner_of
from dispatchd.control.claim import claim
from dispatchd.control.server import ControlServer
from dispatchd.daemon import Daemon
from dispatchd.domain import fitness
from dispatchd.domain.finding import Level
from dispatchd.engines.local.engine import LocalEngine
from dispatchd.engines.local.git_way import GitWay
from dispatchd.errors import ConfigError, MachineUnfit, Problem
from dispatchd.execution import execution
from dispatchd.identity import identity
from dispatchd.inspection import EventFeed, Inspection, metrics_server
from dispatchd.licensing import license_routes, license_status
from dispatchd.loops.health import Health
from dispatchd.loops.heartbeat import HeartbeatLoop
from dispatchd.loops.intake import IntakeLoop
from dispatchd.loops.modes import ModesLoop
from dispatchd.loops.progress import ProgressFeed
from dispatchd.loops.prune import PruneLoop
from dispatchd.loops.pull import PullLoop
from dispatchd.loops.pulse import Pulse
from dispatchd.loops.report import ReportLoop
from dispatchd.metrics import Metrics, StatusCollector
from dispatchd.outward import needs_of, open_caller
from dispatchd.process.prerequisites import prerequisites
from dispatchd.process.proxies import environment_proxy
from dispatchd.redaction.known_secrets import KnownSecrets
from dispatchd.reload import Reloader, patience_s, pull_limits
from dispatchd.status import Status
from dispatchd.steering import Steering
from dispatchd.store.held import HeldFolders
from dispatchd.store.intake import IntakeStore
from dispatchd.store.jobs import JobStore
from dispatchd.store.lock import lock
from dispatchd.store.runs import Runs
from dispatchd.supervision import SupervisionLoop
from dispatchd.systemd import ServiceManager
from dispatchd.telemetry import TraceExporter, read_headers

_CONNECTIONS: Final = httpx.Limits(
    max_connections=24, max_keepalive_connections=12, keepalive_expiry=30.0
)


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


async def serve(config: Config, given: Surroundings) -> None:
    """Run the daemon until a signal stops it; `runs.on_shutdown` decides what its runs do.

    Fails with a UserError if the state folder or an address can't be used.
    """
    environment = given.environment
    log = structlog.get_logger()
    if config.secret_is_exposed:
        log.warning(
            "secret_open_to_other_users",
            path=str(config.secret_file),
            to_do="chmod 600",
        )
    async with AsyncExitStack() as stack:
        stack.enter_context(lock(config.state_folder))
        warnings = _machine_warnings(config, environment)
        stack.enter_context(claim(config.control_folder, config.state_folder))
        store, quarantined = JobStore.open(config.state_folder)
        stack.callback(store.close)
        for each in quarantined:
            log.error(
                "record_quarantined",
                path=str(each.path),
                moved_to=str(each.moved_to),
                reason=each.reason,
            )
        clock = SteadyClock.open(config.state_folder, given.time)
        caller = await stack.enter_async_context(
            open_caller(config, environment, clock, _CONNECTIONS)
        )
        Runs.open(config.state_folder)
        held = stack.enter_context(closing(HeldFolders.open(config.state_folder)))
        folders = (config.state_folder, config.control_folder)
        way = GitWay.of(config, environment)
        engine = LocalEngine.here(environment, given.known, folders, way)
        engine.log_isolation()
        stack.callback(engine.close)
        opened = Opened(
            store=store,
            engine=engine,
            held=held,
            caller=caller,
            clock=clock,
            known=given.known,
            bugs=given.bugs,
            environment=environment,
            last_resort=LastResort(given.end),
            warnings=warnings,
        )
        await build(config, opened, given.reread).run(given.signals)


def _machine_warnings(config: Config, environment: Mapping[str, str]) -> list[str]:
    """Check the machine, and return the problems with which the daemon can run.

    Raises:
        MachineUnfit: Something is missing without which no job can be run well.
    """
    found = list(prerequisites(needs_of(config, environment)))
    failed = [each.words for each in found if each.level is Level.FAILED]
    if failed:
        raise MachineUnfit(failed)
    warnings = [each.words for each in found if each.level is Level.WARNING]
    for words in warnings:
        structlog.get_logger().warning("machine_lacks", what=words)
    return warnings


@frozen(kw_only=True)
class Opened:
    """Resources of a daemon that stay open for as long as it runs."""

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


def build(config: Config, opened: Opened, reread: Callable[[], Config]) -> Daemon:
    """Wire a daemon; `reread` returns the configuration, read again."""
    store, caller, clock = opened.store, opened.caller, opened.clock
    known, environment, bugs = opened.known, opened.environment, opened.bugs
    feed, pulse = EventFeed(), Pulse()
    metrics = Metrics(lambda: core.run_loop.workflows)
    traces = _traces(
        config, known, environment, bugs, lambda: who.credentials.server_id
    )
    watchers = [metrics.see, feed.see, *([traces.see] if traces is not None else [])]
    core = execution(config, store, clock, known, opened.engine, bugs, watchers)
    tracker, board, rng = core.tracker, core.board, core.random
    who = identity(config, caller, known, clock, environment, bugs, tracker.ring)

    def unfit() -> dict[str, str]:
        return fitness.unfit(core.run_loop.workflows, core.machine)

    def declared() -> list[str] | None:
        # Jobs that this machine can't run well are left to others, even if the owner doesn't want the list to be sent.
        without = unfit()
        if not (without or config.cloud.declare_workflows):
            return None
        return sorted(core.run_loop.workflows.keys() - without.keys())

    source = DispatchEndpoint(
        caller=caller,
        credentials=who.credentials,
        call_timeout_s=config.cloud.call_timeout_s,
        declared=declared,
    )
    core.run_loop.starter.source = source
    report = ReportLoop(
        source=source,
        tracker=tracker,
        fence=core.fence,
        runs=core.runs,
        unfit=unfit,
        board=board,
        pulse=pulse,
        bugs=bugs,
        clock=clock,
        random=rng,
        call_timeout_s=config.cloud.call_timeout_s,
    )
    intake = IntakeLoop(
        store=IntakeStore(config.state_folder),
        tracker=tracker,
        report=report,
        board=board,
        bugs=bugs,
        clock=clock,
    )
    permissions = [each for each in (intake, who.license) if each is not None]
    heartbeat = HeartbeatLoop(
        source=source,
        tracker=tracker,
        fence=core.fence,
        bugs=bugs,
        clock=clock,
        progress=ProgressFeed(core.runs, core.run_loop.concluder.stories),
    )
    pull = PullLoop(
        source=source,
        permissions=permissions,
        tracker=tracker,
        runs=core.runs,
        workflows=config.workflows,
        unfit=unfit,
        limits=pull_limits(config),
        board=board,
        pulse=pulse,
        bugs=bugs,
        clock=clock,
        random=rng,
        on_revoked=_nothing if who.license is None else who.license.doubt,
        on_early_end=heartbeat.hurry,
    )
    prune = PruneLoop(
        store=store,
        tracker=tracker,
        runs=core.runs,
        workspaces=core.run_loop.concluder.workspaces,
        board=board,
        bugs=bugs,
        clock=clock,
        history_days=config.history_days,
        endpoint_time=caller.endpoint_time,
    )
    status = Status(
        board=board,
        health=Health(
            board=board,
            pulse=pulse,
            tracker=tracker,
            permissions=permissions,
            bugs=bugs,
            clock=clock,
            patience_s=patience_s(config),
        ),
        tracker=tracker,
        intake=intake,
        clock=clock,
        started_at=clock.now(),
        config_file=config.file,
        state_folder=config.state_folder,
        url=config.cloud.url,
        containment=core.containment,
        isolation=opened.engine.walls.words,
        machine=lambda: {
            "license_id": who.credentials.license_id,
            "server_id": who.credentials.server_id,
        },
        license=lambda: license_status(who.license, clock),
        skew_s=lambda: caller.skew.seconds,
        slots=lambda: core.run_loop.slots,
        troubles=lambda: [
            *fitness.warnings(core.run_loop.workflows, core.machine),
            *opened.warnings,
            *prune.troubles,
            *core.leftovers.warnings,
        ],
    )
    metrics.registry.register(StatusCollector(status, caller.counted))
    store.on_put = metrics.put_s.observe
    manager = ServiceManager.of(environment)
    reloader = Reloader(
        config=config,
        read=reread,
        pull=pull,
        run_loop=core.run_loop,
        prune=prune,
        status=status,
        manager=manager,
    )
    inspection = Inspection(
        status=status, metrics=metrics, tracker=tracker, store=store, feed=feed
    )
    control = ControlServer(
        folder=config.control_folder,
        owner=owner_of(config.state_folder),
        bugs=bugs,
        routes={
            **inspection.routes(),
            **Steering(tracker, intake, reloader.reload).routes(),
            **license_routes(who.license),
        },
    )
    supervision = SupervisionLoop(
        status=status,
        manager=manager,
        metrics=metrics,
        bugs=bugs,
        textfile=_beside(config, config.metrics.textfile),
    )
    others = (
        *(
            ModesLoop(opened.held, bugs),
            who.license,
            report,
            core.run_loop,
            core.leftovers,
        ),
        *(heartbeat, prune, intake, control),
        *(supervision, traces, metrics_server(config.metrics.listen, inspection, bugs)),
    )
    return Daemon(
        tracker=tracker,
        pull=pull,
        run_loop=core.run_loop,
        report=report,
        others=[each for each in others if each is not None],
        reloader=reloader,
        status=status,
        manager=manager,
        bugs=bugs,
        last_resort=opened.last_resort,
    )


def _nothing() -> None:
    """Do nothing: an identity in the configuration has no license to check again."""


def _traces(
    config: Config,
    known: KnownSecrets,
    environment: Mapping[str, str],
    bugs: BugFence,
    server_id: Callable[[], str],
) -> TraceExporter | None:
    """Return the exporter of traces, or None for none.

    Raises:
        ConfigError: The file with its headers, or the environment's proxy, can't be used.
    """
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
    proxy = environment_proxy(httpx.URL(wanted.otlp_url), environment)
    if proxy is not None and proxy.auth is not None:
        known.know("telemetry", [*headers.values(), proxy.auth[1]])
    return TraceExporter(
        url=wanted.otlp_url,
        headers=headers,
        proxy="" if proxy is None else proxy.full_url,
        instance_id=server_id,
        bugs=bugs,
        random=random.Random(),  # noqa: S311  # for jitter, not for secrets
    )


def _beside(config: Config, name: str) -> Path | None:
    return config.file.parent / name if name else None
