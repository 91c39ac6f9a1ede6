"""The daemon: its loops in one task group, and the order in which they stop."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import anyio
import structlog
from attrs import define, field, frozen

from dispatchd import __version__
from dispatchd.agent.config.keys import OnShutdown
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.health.status import Status
from dispatchd.agent.loops.pull import PullLoop
from dispatchd.agent.loops.report import ReportLoop
from dispatchd.agent.reload import Reloader
from dispatchd.agent.run_loop.loop import RunLoop
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.forced_exit import LastResort
from dispatchd.errors import ConfigError
from dispatchd.linux.systemd import ServiceManager

_REPORT_GRACE_S: Final = 5.0
"""Time that a stop leaves for releases and finishes under way (seconds); the next start sends the rest."""

_UNDO_S: Final = 3.0
"""Time that a stop leaves for a job that has just come to be stored, and for starts under way to be reverted (seconds)."""

_END_S: Final = 20.0
"""Deadline of a stop that waits for no run (seconds), even if something hangs; the units give it 30 s."""

_SECOND_SIGINT_S: Final = 3.0
"""Time for which a stop by SIGINT waits for the second one, which cancels the runs (seconds)."""

_CANCEL_SLACK_S: Final = 5.0
"""Time beyond its grace until a cancelled run has to be seen as ended (seconds)."""

_ASK_EVERY_S: Final = 20.0
"""Time between two requests to the service manager for more time, while a stop waits for runs (seconds)."""


class _Loop(Protocol):
    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run until cancelled; call `task_status.started` at the beginning."""
        ...


@frozen(kw_only=True)
class Loops:
    """Loops of a daemon; those that a stop has to know, and all others."""

    pull: PullLoop
    run: RunLoop
    report: ReportLoop
    others: Sequence[_Loop]
    """Loops that run beside the pull loop, and are started before it in their order."""


@define(kw_only=True)
class Daemon:
    """The loops of one daemon, and the order in which they stop."""

    tracker: Tracker
    loops: Loops
    reloader: Reloader
    status: Status
    manager: ServiceManager
    bugs: BugFence
    last_resort: LastResort
    _pulling: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _pulled: anyio.Event = field(factory=anyio.Event, init=False)
    """Set once no further job comes in: one that had just arrived is stored by then."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Run every loop until SIGTERM or SIGINT stops them in order; SIGHUP reloads the configuration."""
        async with anyio.create_task_group() as tasks:
            for loop in self.loops.others:
                await tasks.start(loop.run, name=type(loop).__name__)
            await tasks.start(self._pull_until_stopped, name="PullLoop")
            self._log.info(
                "daemon_ready",
                version=__version__,
                pid=os.getpid(),
                tracked_jobs=self.tracker.count(*Phase),
            )
            self.manager.ready(self.status.line())
            await self._stop_in_order(await self._until_stopped(signals), signals)
            tasks.cancel_scope.cancel()
        self._log.info("daemon_stopped", left_running=self.tracker.count(Phase.RUNNING))

    async def _pull_until_stopped(
        self, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        try:
            with self._pulling:
                await self.loops.pull.run(task_status=task_status)
        finally:
            self._pulled.set()

    async def _until_stopped(
        self, signals: AsyncIterator[signal.Signals]
    ) -> signal.Signals:
        """Return the signal that stops the daemon, and reload at the others. A stop waits for no reload."""
        async with anyio.create_task_group() as reloads:
            while (number := await anext(signals)) is signal.SIGHUP:
                reloads.start_soon(self._reload, name="reload")
            reloads.cancel_scope.cancel()
        return number

    async def _reload(self) -> None:
        # The error has been logged, and stays in the status; the previous configuration is in force.
        with self.bugs.contained("reload") as containment, suppress(ConfigError):
            await self.reloader.reload()
        if containment.bug:
            self.status.warnings["config"] = (
                f"the changed configuration is not in force: its reload met a bug ({containment.bug})"
            )

    async def _stop_in_order(
        self, first: signal.Signals, signals: AsyncIterator[signal.Signals]
    ) -> None:
        running = self.tracker.count(Phase.RUNNING)
        on_shutdown = self.reloader.current.config.limits.on_shutdown
        self._log.info(
            "stopping", signal=first.name, running=running, on_shutdown=on_shutdown
        )
        self.manager.stopping(f"stopping; {running} running")
        self.loops.run.stop()
        self._pulling.cancel()
        if first is signal.SIGINT and running and await self._another(signals):
            on_shutdown = OnShutdown.CANCEL
        with self.bugs.contained("stop"):
            match on_shutdown:
                case OnShutdown.DETACH:
                    pass
                case OnShutdown.DRAIN:
                    await self._await_runs(signals)
                case OnShutdown.CANCEL:
                    await self._cancel_runs()
        self.last_resort.within(_END_S)
        with self.bugs.contained("stop"), anyio.move_on_after(_UNDO_S):
            await self._pulled.wait()
            await self._until_no_start()
        with self.bugs.contained("stop"), anyio.move_on_after(_REPORT_GRACE_S):
            await self.loops.report.hand_back("the machine is stopping")
            await self._until_none(Phase.RELEASING, Phase.FINISHING)

    async def _another(self, signals: AsyncIterator[signal.Signals]) -> bool:
        self._log.info("stop_requested", within_s=_SECOND_SIGINT_S)
        with anyio.move_on_after(_SECOND_SIGINT_S):
            async for number in signals:
                if number is signal.SIGINT:
                    return True
        return False

    async def _await_runs(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Wait for the end of the runs, or for a second signal, which leaves them alive."""
        async with anyio.create_task_group() as tasks:

            async def give_up_at_signal() -> None:
                async for number in signals:
                    if number is not signal.SIGHUP:
                        self._log.info("runs_left_alive", signal=number.name)
                        tasks.cancel_scope.cancel()

            async def ask_for_time() -> None:
                while True:
                    self.manager.more_time(2 * _ASK_EVERY_S)
                    await anyio.sleep(_ASK_EVERY_S)

            tasks.start_soon(give_up_at_signal, name="second signal")
            tasks.start_soon(ask_for_time, name="more time")
            await self._until_none(Phase.RUNNING)
            tasks.cancel_scope.cancel()

    async def _cancel_runs(self) -> None:
        wait_s = self._longest_grace_s() + _CANCEL_SLACK_S
        self.manager.more_time(wait_s + _REPORT_GRACE_S)
        self.last_resort.within(wait_s + _END_S)
        for record in self.tracker.in_phase(Phase.RUNNING):
            await self.tracker.cancel(
                record.job.id, "Cancelled by the machine's operator."
            )
        with anyio.move_on_after(wait_s):
            await self._until_none(Phase.RUNNING)

    def _longest_grace_s(self) -> float:
        attempts = [record.attempt for record in self.tracker.in_phase(Phase.RUNNING)]
        return max(
            (attempt.kill_grace_s for attempt in attempts if attempt), default=0.0
        )

    async def _until_none(self, *phases: Phase) -> None:
        await self._until(lambda: not self.tracker.in_phase(*phases))

    async def _until_no_start(self) -> None:
        """Wait until each attempt that is left has a process."""
        await self._until(
            lambda: all(
                record.attempt and record.attempt.identity
                for record in self.tracker.in_phase(Phase.RUNNING)
            )
        )

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while True:
            bell = self.tracker.changed.next
            if is_so():
                return
            await bell.wait()
