"""Loop that makes the jobs of schedules when they are due. Each hub process runs it; the database decides which one fires.

Comes from `hub/config/schedules.py`, decides by `hub/domain/schedules/`, goes to `hub/queue/submit.py`.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Final

import anyio
import structlog
from attrs import define, evolve, field
from sqlalchemy import Connection

from dispatchd.hub.config.schedules import Schedule
from dispatchd.hub.context import Context
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import QueueFull, StorageBusy
from dispatchd.hub.domain.model import HubJob, Submission
from dispatchd.hub.domain.schedules.plan import Plan
from dispatchd.hub.domain.schedules.progress import (
    LATE_S,
    Due,
    Progress,
    due_now,
    fired,
    job_id_of,
    was_set_back,
)
from dispatchd.hub.queue.submit import Submissions
from dispatchd.protocol.times import iso

_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 5.0
"""Longest wait until the next look (seconds): somebody may set the clock meanwhile."""

_LOOP: Final = "schedules"

_REPLACED: Final = (
    "a hub process that started later has another schedule of this name, or none; "
    "give all of them the same hub.toml, and restart this one"
)


def plan_of(schedule: Schedule) -> Plan:
    """Return the plan of a schedule; a disabled one has an empty expression."""
    cron = schedule.cron if schedule.enabled else ""
    return Plan(cron=cron, timezone=schedule.timezone)


def submission_of(schedule: Schedule, due: Due) -> Submission:
    """Return the submission of a run."""
    job_id = job_id_of(schedule.name, due.at)
    document = JobDocument.of(
        id=job_id,
        workflow=schedule.workflow,
        event="schedule",
        repository=schedule.repository,
        ref=schedule.ref,
        sha=schedule.sha,
    )
    payload = {
        "schedule": schedule.cron,
        "name": schedule.name,
        "timezone": schedule.timezone,
        "due_at": iso(due.at),
        "missed": due.missed,
        "inputs": dict(schedule.inputs),
    }
    return Submission(
        id=job_id,
        document=document.without_empty(),
        payload=json.dumps(payload),
        headers="null",
        priority=schedule.priority,
        supersedes=False,
    )


@define
class Schedules:
    """Makes the jobs of the configured schedules."""

    context: Context
    submissions: Submissions
    _has_begun: bool = field(default=False, init=False)
    _said: dict[str, str] = field(factory=dict, init=False)
    """Reason why a schedule makes no job now, by name: each is logged once."""

    async def run(self) -> None:
        """Run until cancelled."""
        await self.context.bugs.rounds(_LOOP, self._round)

    async def _round(self) -> None:
        wait_s = _LONGEST_S
        try:
            if not self._has_begun:
                await self._begin()
            if not self.context.settings.schedules:
                self.context.bugs.worked(_LOOP)
                await anyio.sleep_forever()
            texts = await self.context.use(self.context.stores.schedules.texts)
            for schedule in self.context.settings.schedules:
                wait_s = min(wait_s, await self._follow(schedule, texts))
        except StorageBusy as error:
            _log_busy(error)
        self.context.bugs.worked(_LOOP)
        await anyio.sleep(max(wait_s, _SHORTEST_S))

    async def _begin(self) -> None:
        """Store which schedules there are, and log what is new about them."""
        plans = {each.name: plan_of(each) for each in self.context.settings.schedules}
        store, now = self.context.stores.schedules, self.context.now()
        if not plans and not await self.context.use(store.texts):
            self._has_begun = True
            return
        changes = await self.context.write(partial(store.begin, plans, now=now))
        self._has_begun = True
        log = structlog.get_logger()
        for name in changes.added:
            log.info("schedule_added", schedule=name)
        for name in changes.changed:
            log.info("schedule_changed", schedule=name, counts_from=iso(now))
        for name in changes.removed:
            log.info("schedule_removed", schedule=name)

    async def _follow(self, schedule: Schedule, texts: Mapping[str, str]) -> float:
        """Make the job of a schedule that is due, and return the wait until the next look (seconds)."""
        wait_s = _LONGEST_S
        if not schedule.enabled:
            return wait_s
        # One that meets a bug keeps no other from its jobs.
        with self.context.bugs.named(_LOOP, schedule.name):
            text = texts.get(schedule.name)
            progress = None if text is None else Progress.read(text)
            if text is None or progress is None or progress.plan != plan_of(schedule):
                self._say_once(schedule, _REPLACED)
                return wait_s
            try:
                wait_s = await self._decide(schedule, text, progress)
            except StorageBusy as error:
                _log_busy(error)
        return wait_s

    async def _decide(self, schedule: Schedule, text: str, progress: Progress) -> float:
        now = self.context.now()
        if was_set_back(progress, now=now):
            await self._count_from(schedule, text, evolve(progress, until=now))
            return 0
        due = await self.context.use(partial(due_now, progress, now=now))
        if due is not None:
            return await self._fire(schedule, text, progress, due)
        self._said.pop(schedule.name, None)
        next_at = await self.context.use(lambda: progress.next_at)
        return _LONGEST_S if next_at is None else next_at - now

    async def _count_from(self, schedule: Schedule, text: str, after: Progress) -> None:
        """Count a schedule from now on: the clock was set back. A run that has a job already gets no second one."""
        database, store = self.context.stores.database, self.context.stores.schedules
        replace = partial(store.replace, name=schedule.name, before=text, after=after)
        if await self.context.write(lambda: database.write(replace)):
            log = structlog.get_logger()
            log.warning(
                "schedule_clock_set_back",
                schedule=schedule.name,
                counts_from=iso(after.until),
            )

    async def _fire(
        self, schedule: Schedule, text: str, progress: Progress, due: Due
    ) -> float:
        """Make the job of a run, unless another hub process does; return the wait until the next look (seconds)."""
        submission = submission_of(schedule, due)
        now = self.context.now()
        after = fired(progress, due, submission.id, now=now)
        database, store = self.context.stores.database, self.context.stores.schedules

        def work(db: Connection) -> tuple[bool, HubJob | None]:
            if not store.replace(db, schedule.name, text, after):
                return False, None
            return True, self.submissions.admit(db, submission)

        try:
            is_ours, job = await self.context.write(lambda: database.write(work))
        except QueueFull as error:
            self._say_once(schedule, str(error))
            return _LONGEST_S
        self._said.pop(schedule.name, None)
        if job is not None:
            self.context.waiting.notify(job)
        if is_ours:
            _log_fired(schedule, due, job, submission.id, now - due.at)
        return 0

    def _say_once(self, schedule: Schedule, reason: str) -> None:
        if self._said.get(schedule.name) != reason:
            self._said[schedule.name] = reason
            log = structlog.get_logger()
            log.warning("schedule_waits", schedule=schedule.name, reason=reason)


def _log_busy(error: StorageBusy) -> None:
    structlog.get_logger().warning("database_busy", error=str(error))


def _log_fired(
    schedule: Schedule, due: Due, job: HubJob | None, job_id: str, late_s: float
) -> None:
    log = structlog.get_logger().bind(
        schedule=schedule.name, job_id=job_id, due_at=iso(due.at)
    )
    if job is None:
        # After a set-back of the clock.
        log.warning("schedule_job_exists")
    elif due.missed or late_s >= LATE_S:
        log.warning("schedule_caught_up", late_s=round(late_s), missed=due.missed)
    else:
        log.info("schedule_fired")
