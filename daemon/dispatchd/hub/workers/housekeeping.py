"""Loops of the hub: they expire leases and prune old records.

A lease expires only if the hub could have heard its machine (`hub/domain/listening.py`).
"""

from typing import Final

import anyio
import structlog
from attrs import define, field, frozen

from dispatchd.hub.context import Context
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.listening import Listening, Moment
from dispatchd.hub.domain.model import HubJob
from dispatchd.hub.extension import Extension

_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 5.0
"""Longest wait until the next look for expired leases (seconds)."""

_PRUNE_EVERY_S: Final = 3600.0
_SET_S: Final = 60.0
"""Difference between the hub's clock and one that nobody sets from which the former counts as set (seconds)."""

_DAY_S: Final = 86_400.0

_REPEATED_FOR_S: Final = 7 * _DAY_S
"""Time for which the delivery of a webhook beside GitHub's may come again (seconds); services repeat for up to three days."""


@define
class Expiry:
    """Expires the leases of machines that are not heard of any more, and ends cancel jobs without targets."""

    context: Context
    _listening: Listening = field(init=False)
    _waited_s: float = field(default=0.0, init=False)
    """Planned wait of the loop since the round before (seconds)."""
    _has_looked: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Run until cancelled."""
        self._listening = Listening.begun(self._moment())
        await self.context.bugs.rounds("expiry", self._round)

    async def _round(self) -> None:
        log = structlog.get_logger()
        wait_s = _LONGEST_S
        try:
            await self.context.use(self.context.clock.measure)
            self._listen()
            expired, done, wait_s = await self.context.use(self._look)
        except StorageBusy as error:
            log.warning("database_busy", error=str(error))
            self._listening.interrupt()
            expired, done = [], []
        for job in expired:
            log.warning(
                "lease_expired", job_id=job.id, machine=job.machine, state=job.state
            )
        for job in done:
            log.info("cancel_job_ended", job_id=job.id, state=job.state)
        for job in (*expired, *done):
            self.context.waiting.notify(job)
        self.context.bugs.worked("expiry")
        self._waited_s = wait_s
        await anyio.sleep(wait_s)

    def _moment(self) -> Moment:
        return Moment(
            now=self.context.now(),
            since_boot=self.context.clock.since_boot(),
            running=anyio.current_time(),
        )

    def _listen(self) -> None:
        """Record that the hub listens; log if it has not done so since the round before."""
        had_a_break = self._listening.hear(
            self._moment(),
            waited_s=self._waited_s,
            lease_s=self.context.settings.leases.seconds,
        )
        if had_a_break:
            structlog.get_logger().warning(
                "leases_restarted", reason="no machine could be heard for a while"
            )

    def _look(self) -> tuple[list[HubJob], list[HubJob], float]:
        """Return the jobs that expired, the cancel jobs that were ended, and the wait until the next look (seconds)."""
        leases, now = self.context.settings.leases, self._listening.last.now
        since = self._listening.since
        if self._listening.was_set_back or not self._has_looked:
            jobs = self.context.stores.jobs
            jobs.shorten_leases(leases, now=now, also=self._listening.was_set_back)
            self._has_looked = True
            self._listening.leases_are_right()
        expired = self.context.stores.jobs.expire(
            lambda job: claim_rules.expire(job, now=now, most=leases.most_expiries),
            now=now,
            leases=leases,
            heard_since=since,
        )
        done = self.context.stores.jobs.end_cancel_jobs(now=now)
        due_at = self.context.stores.jobs.next_expiry(leases, heard_since=since)
        # A claim made in the meantime lasts for a whole lease.
        wait_s = leases.seconds if due_at is None else min(due_at - now, leases.seconds)
        return expired, done, min(max(wait_s, _SHORTEST_S), _LONGEST_S)


@frozen
class Pruning:
    """Removes records that are older than the retention, after each hour in which nobody has set the clock.

    A clock that is wrong for a moment, as at a start without a battery, would make all records old.
    """

    context: Context
    extension: Extension

    async def run(self) -> None:
        """Prune until cancelled."""
        is_due = False

        async def round_() -> None:
            nonlocal is_due
            if is_due:
                await self._prune_now()
            self.context.bugs.worked("prune")
            is_due = await self._hour_passes()

        await self.context.bugs.rounds("prune", round_)

    async def _hour_passes(self) -> bool:
        """Wait for an hour, and return whether nobody has set the clock in it."""
        before = self._ahead()
        await anyio.sleep(_PRUNE_EVERY_S)
        set_by_s = self._ahead() - before
        if abs(set_by_s) <= _SET_S:
            return True
        structlog.get_logger().warning(
            "pruning_postponed", reason="the clock was set", seconds=set_by_s
        )
        return False

    async def _prune_now(self) -> None:
        try:
            await self.context.use(self._prune)
        except StorageBusy as error:
            structlog.get_logger().warning("database_busy", error=str(error))

    def _ahead(self) -> float:
        """Return the lead of the hub's clock over the one by which loops wait (seconds)."""
        return self.context.now() - anyio.current_time()

    def _prune(self) -> int:
        now = self.extension.handled_until(self.context.now())
        self.context.logs.prune(
            before=self.context.now() - self.context.settings.logs.days * _DAY_S
        )
        self.context.artifacts.prune(
            before=self.context.now() - self.context.settings.artifacts.days * _DAY_S
        )
        retention = self.context.settings.retention
        self.context.stores.audit.prune(
            before=self.context.now() - retention.audit_days * _DAY_S
        )
        days = retention.days
        return prune(self.context, self.extension, days, now=now)


def prune(context: Context, extension: Extension, days: float, *, now: float) -> int:
    """Remove jobs that ended, and deliveries that came, more than `days` ago; return their number. Blocks.

    A delivery that may come again stays, whatever the days: without it the repeat would count as new.
    """
    before = now - days * _DAY_S
    again_since = extension.handled_until(now) - extension.repeated_for_s
    if context.settings.webhooks:
        again_since = min(again_since, now - _REPEATED_FOR_S)
    deliveries = context.stores.deliveries.prune(
        before=before, of_hooks_before=min(before, again_since)
    )
    jobs = context.stores.jobs.prune(before=before)
    context.artifacts.remove_unused(now=context.now())
    return jobs + deliveries
