"""Intake: carries out the operator's pause, drain or resume.

The mode is durable before it is acted on, so a restart in the middle of a drain continues it. A job
whose pull was under way when the drain began is tracked like any other, and then handed back.
"""

from datetime import datetime, timedelta
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.agent.domain.intake import Intake, Mode
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.loops.report import ReportLoop
from dispatchd.agent.store.intake import IntakeStore
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.errors import RecordUnreadable

BUSY: Final = (
    Phase.PENDING_ACCEPT,
    Phase.ACCEPTED,
    Phase.RELEASING,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
    Phase.FINISHING,
)
"""Phases that a drain waits for. It doesn't wait for parked jobs: a person may take long to decide."""

_ON_ITS_WAY: Final = (Phase.RELEASING, Phase.FINISHING)
"""Phases that only wait for an answer of the endpoint."""


@define(kw_only=True)
class IntakeLoop:
    """Carries out the operator's mode. Implements `tracking.ports.Permission`."""

    store: IntakeStore
    tracker: Tracker
    report: ReportLoop
    context: Context
    intake: Intake = field(factory=Intake, init=False)
    _changing: anyio.Lock = field(factory=anyio.Lock, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @property
    def blocked_reason(self) -> str:
        """Reason why no job may be pulled at the moment; empty if jobs may be pulled."""
        return self.intake.blocked_reason

    @property
    def left(self) -> int:
        """Jobs that a drain waits for (count), and a poll that is under way."""
        return self.tracker.count(*BUSY) + self.context.activity.polling

    async def change(
        self, mode: Mode, reason: str = "", *, deadline_s: float | None = None
    ) -> Intake:
        """Make a new mode durable, and return it. The same mode again changes its reason and deadline.

        Changes come one after the other, so that disk and memory hold the same one.
        """
        async with self._changing:
            now = self.context.clock.now()
            same = mode is self.intake.mode
            until = None if deadline_s is None else now + timedelta(seconds=deadline_s)
            changed = Intake(
                mode=mode,
                reason=reason,
                since=self.intake.since if same and self.intake.since else now,
                until=until if mode is Mode.DRAINING else None,
            )
            await self.tracker.disk.until_stored(lambda: self.store.keep(changed))
            self.intake = changed
            self._log.info("intake_changed", mode=mode, reason=reason)
            self.tracker.changed.notify()
            return changed

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Carry out the mode until cancelled."""
        try:
            self.intake = await to_thread.run_sync(self.store.load)
        except RecordUnreadable as error:
            # It is better to take jobs than to leave them waiting: the drain can be requested again.
            self._log.error("intake_unreadable", error=str(error))
        if self.intake.blocked_reason:
            self._log.info("intake_restored", reason=self.intake.blocked_reason)
        task_status.started()
        await self.context.bugs.rounds("intake", self._round)

    async def _round(self) -> None:
        bell = self.tracker.changed.next
        if self.intake.mode is Mode.DRAINING:
            await self._empty()
        self.context.bugs.worked("intake")
        with anyio.move_on_after(self._until_deadline_s()):
            await bell.wait()

    async def _empty(self) -> None:
        """Hand back the jobs that have not started, and end the others when the deadline has passed."""
        await self.report.hand_back("the machine is draining")
        if self._is_over(self.intake.until):
            for record in self.tracker.in_phase(*BUSY):
                if record.phase not in _ON_ITS_WAY and not record.stop_requested:
                    await self.tracker.cancel(
                        record.job.id,
                        "Ended: the machine was drained, with a deadline.",
                    )

    def _is_over(self, instant: datetime | None) -> bool:
        return instant is not None and instant <= self.context.clock.now()

    def _until_deadline_s(self) -> float | None:
        """Return the seconds until the deadline of a drain, or None if no deadline is pending."""
        until = self.intake.until
        if until is None or self._is_over(until):
            return None
        return (until - self.context.clock.now()).total_seconds()
