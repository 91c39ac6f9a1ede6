"""Attempts that wait in the queues of engines: each is its record, a row of a table; one task for each engine watches all of its rows.

Comes from `loop.py`, which takes a job up once its attempt doesn't simply wait any more, for whatever reason; then
`attempt.py` follows it. Nothing here is needed after a restart: the table is made of the records.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import anyio
from attrs import define, field

from dispatchd.agent.domain.executions.identities import Remote
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.run_loop.permissions import LONGEST_S, pause_s, renew
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.ports import Engine
from dispatchd.agent.tracking.tracked_jobs import Tracking

_LOOP: Final = "run"

_PERMISSIONS: Final = "permissions"


@define
class Queued:
    """Tells which attempts wait, and watches for the moment from which one doesn't."""

    _tracking: Tracking
    _engine: Engine
    _guard: Callable[[TrackedJob, int], AbstractContextManager[None]]
    """Keeps the files of an attempt usable until it begins."""
    _guarded: dict[tuple[str, int], AbstractContextManager[None]] = field(
        factory=dict, init=False
    )
    """Blocks of those whose files are kept usable, by job and number."""

    def waits(self, record: TrackedJob) -> bool:
        """Return whether a running job's attempt waits in a queue, and nobody has to do anything about it."""
        job_id, remote = record.job.id, _remote(record)
        if remote is None or not self._engine.waits(remote):
            return False
        due_at = self.due_at(record)
        is_overdue = due_at is not None and due_at <= self._tracking.context.clock.now()
        is_wanted = not self._tracking.tracker.is_to_stop(job_id)
        return (
            is_wanted and not is_overdue and not self._tracking.fence.has_lost(record)
        )

    def due_at(self, record: TrackedJob) -> datetime | None:
        """Return the time at which an attempt has waited too long in a queue; None if it may wait."""
        attempt, remote = record.attempt, _remote(record)
        most_s = 0.0 if remote is None else self._engine.queue_timeout_s(remote)
        if attempt is None or not most_s:
            return None
        return attempt.started_at + timedelta(seconds=most_s)

    def guard(self, waiting: Iterable[TrackedJob]) -> None:
        """Keep the files of these attempts usable, and of no others. Blocks for a moment for each new one."""
        wanted = {
            (record.job.id, record.attempts[-1].number): record for record in waiting
        }
        for key in self._guarded.keys() - wanted.keys():
            self._guarded.pop(key).__exit__(None, None, None)
        for key in wanted.keys() - self._guarded.keys():
            with self._tracking.context.bugs.contained(_LOOP, {"job_id": key[0]}):
                guard = self._guard(wanted[key], key[1])
                guard.__enter__()
                self._guarded[key] = guard

    async def watch(self, engine: str) -> None:
        """Have the jobs taken up that leave an engine's queue, and renew permissions, until nothing waits there."""
        rounds = self._tracking.context.bugs.rounds
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rounds, _PERMISSIONS, partial(self._renew, engine))
            while self._waiting(engine):
                await self._engine.until_told(engine)
                # The run loop looks which of them have left the queue.
                self._tracking.tracker.changed.notify()
            tasks.cancel_scope.cancel()

    async def _renew(self, engine: str) -> None:
        """Renew the permissions to begin, with the newest answers about their claims, and wait for the next time."""
        bugs, leased = self._tracking.context.bugs, self._waiting(engine, leased=True)
        for record in leased:
            with bugs.contained(_PERMISSIONS, job_context(record)):
                await renew(self._tracking, self._engine, record)
        bugs.worked(_PERMISSIONS)
        await anyio.sleep(min(map(pause_s, leased), default=LONGEST_S))

    def _waiting(self, engine: str, *, leased: bool = False) -> list[TrackedJob]:
        """Return the jobs that wait in the queue of an engine; with `leased` only those that have a lease."""
        return [
            record
            for record in self._tracking.tracker.in_phase(Phase.RUNNING)
            if (not leased or record.job.lease_s is not None)
            and (remote := _remote(record)) is not None
            and remote.engine == engine
            and self.waits(record)
        ]


def _remote(record: TrackedJob) -> Remote | None:
    return None if record.attempt is None else record.attempt.remote
