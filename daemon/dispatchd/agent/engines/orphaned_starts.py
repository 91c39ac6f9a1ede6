"""Janitor: takes back what engines still hold of starts that no record owns. Only where an engine is configured."""

from typing import Final

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define

from dispatchd.agent.engines.chosen import Engines
from dispatchd.concurrency.bug_fence import BugFence

_LOOP: Final = "engines"

_AGAIN_S: Final = 600.0
"""Time between two rounds (seconds)."""


@define
class Janitor:
    """Tidies every configured engine at the start, and then now and again."""

    _engines: Engines
    _bugs: BugFence

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Tidy until cancelled."""
        task_status.started()
        await self._bugs.rounds(_LOOP, self._round)

    async def _round(self) -> None:
        for name in self._engines.current.config.engines:
            with self._bugs.contained(_LOOP, {"engine": name}):
                await self._engines.configured(name).tidy()
        self._bugs.worked(_LOOP)
        await anyio.sleep(_AGAIN_S)
