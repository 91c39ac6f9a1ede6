"""Publisher of checks: it sends each job's changed state to GitHub until GitHub has accepted it.

Each check is published by a task of its own with its own retries, so that a slow or rejected one delays no other.
No other part of the hub waits for GitHub: what is pending is in the database, in transactions of a few milliseconds.
"""

from functools import partial
from random import Random
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from attrs import define, evolve, field

from dispatchd.concurrency.keyed_tasks import KeyedTasks
from dispatchd.concurrency.notifier import Notifier
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.model import Check
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.api.pacing import Gates
from dispatchd.hub.github.api.responses import (
    GithubError,
    Limited,
    NoCredential,
    NoPermission,
    Unclear,
)
from dispatchd.hub.github.checks.check_run import (
    LookAgain,
    Looks,
    Publication,
    is_published,
)
from dispatchd.hub.storage.jobs.checks import LONGEST_WAIT_S, CheckStore, JobCheck
from dispatchd.protocol.backoff import CAP_S, full_jitter_s

_LOOP: Final = "github checks"

_AT_ONCE: Final = 8
"""Most checks that are published at the same time (count)."""

_LOOK_S: Final = 2.0
"""Interval of looks for changes of other hub processes (seconds)."""

_IDLE_S: Final = 60.0
"""Longest wait without a change (seconds)."""

_PAUSE_S: Final = 0.05
"""Least time between two looks (seconds): jobs change often, and one look sees several changes."""

_BUSY_S: Final = 5.0
"""Pause of a check whose result could not be stored (seconds)."""

_GIVEN_UP_S: Final = 14 * 86_400.0
"""Time after a job's end for which its publication is tried (seconds): after 14 days GitHub itself marks a check stale."""


@define
class Publisher:
    """Publishes the checks of a database; only one may run for it (leader.py)."""

    context: Context
    settings: GithubSettings
    client: Client
    random: Random
    gates: Gates = field(init=False)
    looks: Looks = field(init=False)
    _store: CheckStore = field(init=False)
    _woken: Notifier = field(factory=Notifier, init=False)
    _work: KeyedTasks[tuple[str, str, str]] = field(init=False)
    """By `JobCheck.key`: one task for each check, so that the newest job's comes last."""

    def __attrs_post_init__(self) -> None:
        self._store = CheckStore(self.context.stores.database)
        self._work = KeyedTasks(_LOOP, self.context.bugs)
        self.looks = Looks(anyio.current_time)
        self.gates = Gates(anyio.current_time, self.settings.writes_per_minute)

    async def run(self) -> None:
        """Publish pending checks until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear_always)
            await self.context.bugs.rounds(_LOOP, partial(self._round, tasks))

    async def _round(self, tasks: TaskGroup) -> None:
        woken = self._woken.next
        wait_s = await self._start_due(tasks)
        self.context.bugs.worked(_LOOP)
        with anyio.move_on_after(wait_s):
            await woken.wait()
        await anyio.sleep(_PAUSE_S)

    async def _hear_always(self) -> None:
        await self.context.bugs.rounds("github news", self._hear)

    async def _hear(self) -> None:
        self.context.bugs.worked("github news")
        await self.context.waiting.changed.next.wait()
        self._woken.notify()

    async def _start_due(self, tasks: TaskGroup) -> float:
        """Start to publish the checks that are due; return the wait until the next look, if nothing changes (seconds)."""
        free = _AT_ONCE - len(self._work)
        if free <= 0:
            return _IDLE_S
        closed, now = self.gates.closed(), self.context.now()
        look = partial(
            self._look, now=now, limit=free, without=[*self._work], closed=[*closed]
        )
        try:
            due, next_at = await self.context.use(look)
        except StorageBusy as error:
            structlog.get_logger().warning("database_busy", error=str(error))
            return _BUSY_S
        for pending in due:
            self._start(tasks, pending)
        waits = [*self.gates.closed().values(), _IDLE_S]
        if next_at is not None:
            waits.append(next_at - now)
        if self.context.stores.database.is_shared:
            waits.append(_LOOK_S)
        return max(min(waits), 0.0)

    def _look(
        self,
        *,
        now: float,
        limit: int,
        without: list[tuple[str, str, str]],
        closed: list[int],
    ) -> tuple[list[JobCheck], float | None]:
        due = self._store.due(now=now, limit=limit, without=without, closed=closed)
        return due, self._store.next_due_at(now=now)

    def _start(self, tasks: TaskGroup, pending: JobCheck) -> None:
        if pending.key in self._work:
            return
        installation = pending.check.installation
        if not is_published(pending, self.settings):
            if not self.gates.is_open(installation):
                return
            self.gates.spend(installation)
        self._work.start(
            tasks,
            pending.key,
            partial(self._publish, pending),
            item=pending.check.job_id,
            on_end=self._woken.notify,
        )

    async def _publish(self, pending: JobCheck) -> None:
        """Publish one check, and store the result."""
        try:
            check = await self._published(pending)
            await self._keep(check, pending.check.state)
        except StorageBusy as error:
            structlog.get_logger().warning("database_busy", error=str(error))
            # A publication may not be stored; the next try finds it at GitHub.
            await anyio.sleep(_BUSY_S)

    async def _published(self, pending: JobCheck) -> Check:
        """Try to publish a check; return it as it is afterwards.

        Raises:
            StorageBusy: A step can't be stored before it is made.
        """
        if is_published(pending, self.settings):
            return _settled(pending.check)
        seen = pending.check.state
        publication = Publication(
            client=self.client,
            settings=self.settings,
            redactor=self.context.known.redactor,
            gates=self.gates,
            looks=self.looks,
            keep=lambda check: self._keep(check, seen),
            pending=pending,
        )
        passing = (LookAgain, GithubError, StorageBusy)
        try:
            with self.context.bugs.contained(
                _LOOP, {"job_id": pending.job.id}, passing=passing
            ) as containment:
                await publication.run()
        except LookAgain as again:
            return evolve(publication.check, retry_at=self.context.now() + again.wait_s)
        except GithubError as error:
            return self._failed(pending, publication.check, error)
        if containment.bug:
            reason = f"a bug: {containment.bug}"
            retry_at = self.context.now() + LONGEST_WAIT_S
            return evolve(publication.check, trouble=reason, retry_at=retry_at)
        if pending.check.trouble:
            structlog.get_logger().info("check_published", job_id=pending.job.id)
        return _settled(publication.check)

    def _failed(self, pending: JobCheck, check: Check, error: GithubError) -> Check:
        now, log = self.context.now(), structlog.get_logger()
        wait_s = self._wait_s(check, error, now)
        job, reason = pending.job, str(error)
        said = {"job_id": job.id, "repository": check.repository, "error": reason}
        gives_up = bool(job.finished_at) and now - job.finished_at > _GIVEN_UP_S
        if gives_up:
            log.error("check_given_up", **said)
        elif reason != pending.check.trouble:
            log.warning("check_not_published", **said, retry_in_s=round(wait_s, 1))
        return evolve(
            check,
            owed=not gives_up,
            failures=check.failures + 1,
            retry_at=now + wait_s,
            trouble=reason,
        )

    def _wait_s(self, check: Check, error: GithubError, now: float) -> float:
        """Return the wait before the next try (seconds)."""
        draw = self.random.random()
        backoff_s = full_jitter_s(check.failures + 1, draw, cap_s=_cap_s(error))
        if isinstance(error, Limited):
            asked_s = max(error.retry_at - now, 0.0)
            # GitHub may name a limit that is already over.
            wait_s = max(asked_s * (1 + draw / 10) + draw, backoff_s)
            self.gates.limit(check.installation, wait_s)
            return wait_s
        return backoff_s

    async def _keep(self, check: Check, seen: str) -> None:
        await self.context.use(lambda: self._store.keep(check, seen_state=seen))


def _cap_s(error: GithubError) -> float:
    """Return the longest wait before the next try (seconds)."""
    if isinstance(error, (Unclear, Limited)):
        # After an outage of any length it is published within a minute.
        return CAP_S
    # A person mends these, and waits for the effect.
    by_a_person = isinstance(error, (NoPermission, NoCredential))
    return 600.0 if by_a_person else LONGEST_WAIT_S


def _settled(check: Check) -> Check:
    """Return a check with nothing pending."""
    return evolve(check, owed=False, failures=0, retry_at=0, trouble="")
