"""Loop that makes the jobs of schedules when they are due. Each hub process runs it; the database decides which one fires.

Comes from `hub/config/schedules.py`, decides by `hub/domain/schedules/`, goes to `hub/queue/submit.py`.
"""

import json
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from math import inf
from typing import Final

import anyio
import structlog
from attrs import asdict, define, field
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
    is_right_again,
    job_id_of,
    right_again,
    set_back,
    was_set_back,
)
from dispatchd.hub.queue.submit import Submissions
from dispatchd.protocol.times import iso

_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 5.0
"""Longest wait until the next look (seconds): somebody may set the clock meanwhile."""

_AT_ONCE: Final = 16
"""Most schedules that are followed at the same time (count). Their changes share a commit, and leave threads to requests."""

_LOOP: Final = "schedules"

_OF_PLAN: Final = frozenset({"name", "cron", "timezone", "enabled"})
"""Keys of a schedule that say nothing about its jobs, or belong to its plan."""

_DIGITS: Final = 16
"""Length of a digest (characters)."""

_REPLACED: Final = (
    "a hub process that started later has another schedule of this name, or none; "
    "give all of them the same hub.toml, and restart this one"
)


def plan_of(schedule: Schedule) -> Plan:
    """Return the plan of a schedule; a disabled one has an empty expression."""
    cron = schedule.cron if schedule.enabled else ""
    return Plan(cron=cron, timezone=schedule.timezone)


def terms_of(schedule: Schedule) -> str:
    """Return the digest of what the jobs of a schedule are."""
    terms = asdict(schedule, filter=lambda field, _: field.name not in _OF_PLAN)
    text = json.dumps(terms, sort_keys=True)
    return sha256(text.encode()).hexdigest()[:_DIGITS]


def goes_by(schedule: Schedule, progress: Progress) -> bool:
    """Return whether the hub process that started last has the same schedule as this one."""
    has_terms = progress.terms in {"", terms_of(schedule)}
    return has_terms and progress.plan == plan_of(schedule)


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
class _Known:
    """Stored progress of a schedule, read once for as long as nothing changes."""

    text: str
    progress: Progress
    is_ours: bool
    """True if this process makes its jobs."""
    next_at: float = 0.0
    """Next due time, once it was looked for (seconds since the epoch)."""

    def rest_until(self, next_at: float) -> None:
        """Note the next due time."""
        self.next_at = next_at


@define
class Schedules:
    """Makes the jobs of the configured schedules."""

    context: Context
    submissions: Submissions
    _has_begun: bool = field(default=False, init=False)
    _known: dict[str, _Known] = field(factory=dict, init=False)
    """Progress of each schedule, by name."""
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
            wait_s = await self._follow_all(texts)
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
        terms = {each.name: terms_of(each) for each in self.context.settings.schedules}
        changes = await self.context.write(
            partial(store.begin, plans, now=now, terms=terms)
        )
        self._has_begun = True
        log = structlog.get_logger()
        for name in changes.added:
            log.info("schedule_added", schedule=name)
        for name in changes.changed:
            log.info("schedule_changed", schedule=name, counts_from=iso(now))
        for name in changes.removed:
            log.info("schedule_removed", schedule=name)

    async def _follow_all(self, texts: Mapping[str, str]) -> float:
        """Make all jobs that are due, and return the wait until the next look (seconds)."""
        waits, turns = [_LONGEST_S], anyio.Semaphore(_AT_ONCE)
        now = self.context.now()

        async def follow(schedule: Schedule) -> None:
            async with turns:
                waits.append(await self._follow(schedule, texts))

        async with anyio.create_task_group() as tasks:
            for schedule in filter(_is_enabled, self.context.settings.schedules):
                rest_s = self._rest_s(schedule, texts.get(schedule.name), now)
                if rest_s > 0:
                    waits.append(rest_s)
                else:
                    tasks.start_soon(follow, schedule)
        return min(waits)

    def _rest_s(self, schedule: Schedule, text: str | None, now: float) -> float:
        """Return for how long a schedule needs no look (seconds); 0 or less if it needs one now."""
        known = self._known.get(schedule.name)
        if known is None or known.text != text:
            return 0
        return 0 if was_set_back(known.progress, now=now) else known.next_at - now

    async def _follow(self, schedule: Schedule, texts: Mapping[str, str]) -> float:
        """Make the job of a schedule that is due, and return the wait until the next look (seconds)."""
        wait_s = _LONGEST_S
        # One that meets a bug keeps no other from its jobs.
        with self.context.bugs.named(_LOOP, schedule.name):
            known = self._read(schedule, texts)
            if known is None or not known.is_ours:
                self._say_once(schedule, _REPLACED)
                return wait_s
            try:
                wait_s = await self._decide(schedule, known)
            except StorageBusy as error:
                _log_busy(error)
        return wait_s

    def _read(self, schedule: Schedule, texts: Mapping[str, str]) -> _Known | None:
        """Return the progress of a schedule; None if it has none."""
        text, known = texts.get(schedule.name), self._known.get(schedule.name)
        if text is None:
            return None
        if known is None or known.text != text:
            progress = Progress.read(text)
            known = _Known(text, progress, goes_by(schedule, progress))
            self._known[schedule.name] = known
        return known

    async def _decide(self, schedule: Schedule, known: _Known) -> float:
        now, progress = self.context.now(), known.progress
        if was_set_back(progress, now=now):
            after = set_back(progress, now=now)
            await self._count_from(
                schedule, known.text, after, "schedule_clock_set_back"
            )
            return 0
        if is_right_again(progress, now=now):
            after = right_again(progress)
            await self._count_from(
                schedule, known.text, after, "schedule_clock_right_again"
            )
            return 0
        due, next_at = await self.context.use(partial(_look, progress, now))
        if due is not None:
            return await self._fire(schedule, known.text, progress, due)
        self._said.pop(schedule.name, None)
        known.rest_until(next_at)
        return next_at - now

    async def _count_from(
        self, schedule: Schedule, text: str, after: Progress, why: str
    ) -> None:
        """Count a schedule from another time on. A run that has a job already gets no second one."""
        database, store = self.context.stores.database, self.context.stores.schedules
        replace = partial(store.replace, name=schedule.name, before=text, after=after)
        if await self.context.write(lambda: database.write(replace)):
            log = structlog.get_logger()
            log.warning(
                why,
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


def _is_enabled(schedule: Schedule) -> bool:
    return schedule.enabled


def _look(progress: Progress, now: float) -> tuple[Due | None, float]:
    """Return the run that is due, and else the next due time (seconds since the epoch), infinite for none."""
    due = due_now(progress, now=now)
    next_at = None if due is not None else progress.next_at
    return due, inf if next_at is None else next_at


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
