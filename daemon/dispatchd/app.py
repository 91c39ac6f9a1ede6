"""The composition root: builds the objects from the configuration, opens them, runs one task group."""

import os
import random
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

import anyio
import httpx
import structlog
from attrs import define, field, frozen

from dispatchd import __version__
from dispatchd.cloud.client import DispatchEndpoint
from dispatchd.cloud.credentials import Credentials
from dispatchd.config import Config
from dispatchd.domain.phase import Phase
from dispatchd.engines.local.engine import LocalEngine
from dispatchd.log import configure
from dispatchd.loops.board import Board
from dispatchd.loops.follow import Follower
from dispatchd.loops.heartbeat import HeartbeatLoop
from dispatchd.loops.prune import PruneLoop
from dispatchd.loops.pull import PullLimits, PullLoop
from dispatchd.loops.report import ReportLoop
from dispatchd.loops.run import RunLoop
from dispatchd.loops.tracker import Tracker
from dispatchd.status import StatusFile
from dispatchd.store.jobs import JobStore, lock
from dispatchd.store.runs import Runs

_REPORT_GRACE_S: Final = 5.0
"""How long a stop waits for finishes that are under way (seconds); the next start sends the rest."""

_SECOND_SIGINT_S: Final = 3.0
"""How long a stop by SIGINT waits for the second one that cancels the runs (seconds)."""

_CANCEL_SLACK_S: Final = 5.0
"""How much longer than its grace a cancelled run may take to be seen as ended (seconds)."""

_INHERITED: Final = ("PATH", "HOME", "LANG", "TZ", "USER")
"""What a run gets of the daemon's own environment; all else would leak."""

_CONNECTIONS: Final = httpx.Limits(
    max_connections=24, max_keepalive_connections=12, keepalive_expiry=30.0
)


@frozen
class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)  # noqa: TID251  # the one home of the wall clock

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()


async def serve(config: Config, *, environment: Mapping[str, str]) -> None:
    """Run the daemon until it is told to stop; the runs it has started stay alive.

    Args:
        config: A checked configuration.
        environment: The daemon's own environment.

    Fails with a UserError if the state folder can't be used.
    """
    credentials = Credentials(
        license_id=config.cloud.license_id,
        server_id=config.cloud.server_id,
        secret_file=config.secret_file,
    )
    configure(
        config.log.level,
        config.log.format,
        secrets=credentials.seen,
        under_systemd="JOURNAL_STREAM" in environment,
    )
    log = structlog.get_logger()
    if config.secret_is_exposed:
        log.warning(
            "secret_open_to_other_users",
            path=str(config.secret_file),
            to_do="chmod 600",
        )
    async with AsyncExitStack() as stack:
        lock_fd = lock(config.state_folder)
        stack.callback(os.close, lock_fd)
        store, quarantined = JobStore.open(config.state_folder)
        stack.callback(store.close)
        for each in quarantined:
            log.error(
                "record_quarantined",
                path=str(each.path),
                moved_to=str(each.moved_to),
                reason=each.reason,
            )
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=config.cloud.url,
                headers={"User-Agent": f"dispatchd/{__version__}"},
                timeout=None,  # noqa: S113  # every call has a deadline of its own, as a cancel scope
                limits=_CONNECTIONS,
            )
        )
        base_env = {
            name: environment[name] for name in _INHERITED if name in environment
        }
        await Daemon.build(config, store, http, credentials, base_env).run()


@define(kw_only=True)
class Daemon:
    """The loops of one daemon, and the order in which they stop."""

    tracker: Tracker
    pull: PullLoop
    run_loop: RunLoop
    report: ReportLoop
    heartbeat: HeartbeatLoop
    prune: PruneLoop
    status: StatusFile
    cancel_wait_s: float
    _pulling: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @classmethod
    def build(
        cls,
        config: Config,
        store: JobStore,
        http: httpx.AsyncClient,
        credentials: Credentials,
        base_env: Mapping[str, str],
    ) -> "Daemon":
        """Wire a daemon for an open store."""
        clock, rng, board, engine = (
            SystemClock(),
            random.Random(),  # noqa: S311  # for jitter, not for secrets
            Board(),
            LocalEngine(),
        )  # jitter
        limits = config.limits
        source = DispatchEndpoint(
            http=http,
            credentials=credentials,
            call_timeout_s=config.cloud.call_timeout_s,
            clock=clock,
        )
        runs = Runs.open(config.state_folder)
        tracker = Tracker(store, clock, rng)
        follower = Follower(
            engine=engine, tracker=tracker, runs=runs, clock=clock, random=rng
        )
        pull_limits = PullLimits(
            room=limits.slots + limits.queue_ahead,
            min_free_bytes=config.min_free_bytes,
            folder=config.state_folder,
            hold_s=config.cloud.hold_s,
            poll_interval_s=config.cloud.poll_interval_s,
        )
        graces = [
            limits.kill_grace_s,
            *(workflow.kill_grace_s for workflow in config.workflows.values()),
        ]
        return cls(
            tracker=tracker,
            pull=PullLoop(
                source=source,
                tracker=tracker,
                runs=runs,
                workflows=config.workflows,
                limits=pull_limits,
                board=board,
                clock=clock,
                random=rng,
            ),
            run_loop=RunLoop(
                engine=engine,
                follower=follower,
                tracker=tracker,
                runs=runs,
                workflows=config.workflows,
                slots=limits.slots,
                base_env=base_env,
                board=board,
                clock=clock,
            ),
            report=ReportLoop(
                source=source, tracker=tracker, board=board, clock=clock, random=rng
            ),
            heartbeat=HeartbeatLoop(source=source, tracker=tracker),
            prune=PruneLoop(
                store=store, runs=runs, clock=clock, history_days=config.history_days
            ),
            status=StatusFile(
                path=config.state_folder / "status.json", board=board, tracker=tracker
            ),
            cancel_wait_s=max(graces) + _CANCEL_SLACK_S,
        )

    async def run(self) -> None:
        """Run every loop until a signal stops them in order."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                for loop in (
                    self.report,
                    self.run_loop,
                    self.heartbeat,
                    self.prune,
                    self.status,
                ):
                    await tasks.start(loop.run, name=type(loop).__name__)
                await tasks.start(self._pull_until_stopped, name="PullLoop")
                waiting = len(self.tracker.in_phase(*Phase))
                self._log.info(
                    "daemon_ready",
                    version=__version__,
                    pid=os.getpid(),
                    tracked_jobs=waiting,
                )
                await self._stop_in_order(signals)
                tasks.cancel_scope.cancel()
        self._log.info(
            "daemon_stopped", left_running=len(self.tracker.in_phase(Phase.RUNNING))
        )

    async def _pull_until_stopped(
        self, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        with self._pulling:
            await self.pull.run(task_status=task_status)

    async def _stop_in_order(self, signals: AsyncIterator[signal.Signals]) -> None:
        first = await anext(signals)
        running = len(self.tracker.in_phase(Phase.RUNNING))
        self._log.info("stopping", signal=first.name, runs_left_alive=running)
        self.run_loop.stopping = True
        self._pulling.cancel()
        if first is signal.SIGINT and running and await self._another(signals):
            await self._cancel_runs()
        with anyio.move_on_after(_REPORT_GRACE_S):
            await self.report.hand_back("the machine is stopping")
            while True:
                bell = self.tracker.bell
                if not self.tracker.in_phase(Phase.FINISHING):
                    break
                await bell.wait()

    async def _another(self, signals: AsyncIterator[signal.Signals]) -> bool:
        self._log.info("press_again_to_cancel_the_runs", within_s=_SECOND_SIGINT_S)
        with anyio.move_on_after(_SECOND_SIGINT_S):
            async for number in signals:
                if number is signal.SIGINT:
                    return True
        return False

    async def _cancel_runs(self) -> None:
        for record in self.tracker.in_phase(Phase.RUNNING):
            await self.tracker.cancel(
                record.job.id, "Cancelled by the machine's operator."
            )
        with anyio.move_on_after(self.cancel_wait_s):
            while True:
                bell = self.tracker.bell
                if not self.tracker.in_phase(Phase.RUNNING):
                    break
                await bell.wait()
