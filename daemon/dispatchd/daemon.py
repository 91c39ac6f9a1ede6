"""The daemon: its loops in one task group, and the order in which they stop."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Final, Protocol

import anyio
import structlog
from attrs import define, field

from dispatchd import __version__
from dispatchd.control.server import ControlServer
from dispatchd.domain.phase import Phase
from dispatchd.loops.heartbeat import HeartbeatLoop
from dispatchd.loops.license import LicenseLoop
from dispatchd.loops.prune import PruneLoop
from dispatchd.loops.pull import PullLoop
from dispatchd.loops.report import ReportLoop
from dispatchd.loops.run import RunLoop
from dispatchd.loops.tracker import Tracker
from dispatchd.status import StatusFile

_REPORT_GRACE_S: Final = 5.0
"""How long a stop waits for finishes that are under way (seconds); the next start sends the rest."""

_SECOND_SIGINT_S: Final = 3.0
"""How long a stop by SIGINT waits for the second one that cancels the runs (seconds)."""


class _Loop(Protocol):
    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run until cancelled; say when it has begun."""
        ...


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
    control: ControlServer
    license: LicenseLoop | None
    cancel_wait_s: float
    _pulling: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self) -> None:
        """Run every loop until a signal stops them in order."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                for loop in self._loops():
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

    def _loops(self) -> Iterator[_Loop]:
        """Yield what runs beside the pull loop, in the order of their starts."""
        if self.license is not None:
            yield self.license
        yield from (self.report, self.run_loop, self.heartbeat, self.prune)
        yield from (self.status, self.control)

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
