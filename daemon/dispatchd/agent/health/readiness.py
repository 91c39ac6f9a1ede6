"""Health: this machine takes jobs and reports them, which means more than that its process is alive.

A machine without room for another job is healthy, though it pulls nothing. A machine is unhealthy if it pulls and gets
no answer, or if it can't report how its runs ended.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from attrs import define

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.tracking.activity import NOT_ASKED
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.ports import Permission
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.protocol.times import duration

FAILURES: Final = 3
"""Pulls that have to fail in a row until a machine isn't ready (count): each is an answer, so no wait is needed."""


@define(kw_only=True)
class Health:
    """Judges the activity of the loops."""

    context: Context
    tracker: Tracker
    permissions: Sequence[Permission]

    @property
    def problems(self) -> list[str]:
        """Reasons why this machine is not ready, each in one sentence; empty if it is ready."""
        problems = [permission.blocked_reason for permission in self.permissions]
        problems += [f"the loop is stuck: {who}" for who in self.stuck]
        problems += self.context.bugs.messages
        problems += [self.tracker.disk.error, self._deaf(), self._mute()]
        return [problem for problem in problems if problem]

    @property
    def is_starting(self) -> bool:
        """True until the first pull has ended: it isn't known yet whether this machine is ready."""
        return self.context.activity.endpoint == NOT_ASKED

    @property
    def stuck(self) -> list[str]:
        """Loops that are stuck, sorted. Loops that a disk holds up by refusing writes don't count."""
        return [] if self.tracker.disk.error else self.context.liveness.stuck

    @property
    def last_pull_age_s(self) -> float | None:
        """Seconds since a pull succeeded; None before the first."""
        return self._since_s(self.context.activity.last_pull_s)

    @property
    def last_report_age_s(self) -> float | None:
        """Seconds since a report succeeded; None before the first."""
        return self._since_s(self.context.activity.last_report_s)

    @property
    def outbox(self) -> list[TrackedJob]:
        """Jobs whose accept, release or finish the endpoint doesn't have yet, the longest wait first."""
        owing = self.tracker.in_phase(
            Phase.PENDING_ACCEPT, Phase.RELEASING, Phase.FINISHING
        )
        return sorted(owing, key=lambda record: record.changed_at)

    @property
    def oldest_unreported_age_s(self) -> float:
        """Wait of the first job in the outbox (seconds); 0 if there is none."""
        outbox = self.outbox
        return self._age_s(outbox[0].changed_at) if outbox else 0.0

    def _deaf(self) -> str:
        asking_s = self._since_s(self.context.activity.asking_since_s)
        if asking_s is None:
            return ""
        if self.context.activity.is_revoked:
            return f"the endpoint has revoked this machine: {self.context.activity.endpoint}"
        if self.context.activity.failures >= FAILURES:
            count, why = self.context.activity.failures, self.context.activity.endpoint
            return f"the last {count} pulls have failed: {why}"
        pulled_s = self.last_pull_age_s
        if pulled_s is None:
            return f"no pull has succeeded yet: {self.context.activity.endpoint}"
        silent_s = min(pulled_s, asking_s)
        if silent_s <= self.context.config.patience_s:
            return ""
        return f"no pull has succeeded for {duration(silent_s)}: {self.context.activity.endpoint}"

    def _mute(self) -> str:
        waiting_s = self.oldest_unreported_age_s
        reported_s = self.last_report_age_s
        patience_s = self.context.config.patience_s
        reported_lately = reported_s is not None and reported_s <= patience_s
        if waiting_s <= patience_s or reported_lately:
            return ""
        return f"no report has succeeded while one has waited for {duration(waiting_s)}"

    def _since_s(self, at_s: float | None) -> float | None:
        """Return the age of something that happened at a time since boot (seconds), if it did."""
        return None if at_s is None else self.context.clock.since_boot() - at_s

    def _age_s(self, instant: datetime) -> float:
        return max(0.0, (self.context.clock.now() - instant).total_seconds())
