"""Survivors: processes of past attempts that could not be ended, reported to people, and swept again.

Only this daemon knows them: after a restart they aren't reported.
"""

from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field, frozen

from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.tracking.log_context import job_context
from dispatchd.agent.tracking.ports import Engine
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.notifier import Notifier
from dispatchd.protocol.outcome import Cleared, Survivor

_LOOP: Final = "leftovers"

_SWEEP_S: Final = 60.0
"""Time between two attempts to end them (seconds)."""


@frozen
class _Attempt:
    process: Identity
    folder: Path


@define
class Survivors:
    """Processes left by attempts that were given up, by run."""

    _engine: Engine
    _bugs: BugFence
    _attempts: dict[str, _Attempt] = field(factory=dict, init=False)
    _survivors: dict[str, tuple[Survivor, ...]] = field(factory=dict, init=False)
    _changed: Notifier = field(factory=Notifier, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def clear(
        self, record: TrackedJob, process: Identity, folder: Path
    ) -> Cleared:
        """End what a command has left, and remember what can't be ended."""
        cleared = await self._engine.clear(process, folder)
        if cleared.ended:
            self._log.warning(
                "leftovers_ended", count=cleared.ended, **job_context(record)
            )
        if cleared.survivors:
            self._log.error(
                "leftovers_given_up",
                processes=[str(survivor) for survivor in cleared.survivors],
                **job_context(record),
            )
            self.add(record.run_id, process, folder, cleared.survivors)
        return cleared

    def add(
        self,
        run_id: str,
        process: Identity,
        folder: Path,
        survivors: tuple[Survivor, ...],
    ) -> None:
        """Add the processes that an attempt has left."""
        self._attempts[run_id] = _Attempt(process, folder)
        self._survivors[run_id] = survivors
        self._changed.notify()

    @property
    def warnings(self) -> list[str]:
        """Warnings about them, one line for each run."""
        return [
            f"processes of job {run_id} can't be ended: {', '.join(map(str, survivors))}"
            for run_id, survivors in sorted(self._survivors.items())
        ]

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Sweep until cancelled, whenever there is something to sweep."""
        task_status.started()
        await self._bugs.rounds(_LOOP, self._round)

    async def _round(self) -> None:
        self._bugs.worked(_LOOP)
        if not self._attempts:
            await self._changed.next.wait()
        await anyio.sleep(_SWEEP_S)
        for run_id, attempt in list(self._attempts.items()):
            with self._bugs.contained(_LOOP, {"run_id": run_id}):
                await self._sweep(run_id, attempt)

    async def _sweep(self, run_id: str, attempt: _Attempt) -> None:
        cleared = await self._engine.clear(attempt.process, attempt.folder)
        if cleared.survivors:
            self._survivors[run_id] = cleared.survivors
            return
        self._log.info("survivors_gone", run_id=run_id)
        del self._attempts[run_id], self._survivors[run_id]
