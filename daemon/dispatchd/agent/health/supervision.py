"""Supervision: reports the daemon's status to the service manager, the log and the collector of metrics.

The watchdog is fed only while no loop is stuck: a process that is alive but stuck is restarted, which costs
nothing, because runs outlive it.
"""

from pathlib import Path
from typing import Final

import anyio
import prometheus_client
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.agent.health.metrics import Metrics
from dispatchd.agent.health.status import Status
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.linux.systemd import ServiceManager

_LONGEST_LOOK_S: Final = 15.0
"""Longest time between two looks (seconds): on a machine where nothing happens they are half of all that wakes it."""

_FED_IN_TIME: Final = 3
"""Feeds of a watchdog within its time (count); sd_watchdog_enabled(3) wants at least two."""

_SHORTEST_FEED_S: Final = 0.05
"""Shortest time between two feeds (seconds): a watchdog that needs more is mistaken, and would take a processor."""

_START_S: Final = 5.0
"""Longest start (seconds); until then a machine isn't reported as not ready."""

_LOOKS_IN_PATIENCE: Final = 4
"""Looks at the status in the time after which a machine isn't ready (count)."""


@define(kw_only=True)
class SupervisionLoop:
    """Looks at the status every few seconds; metrics are written to `textfile` (None: nowhere)."""

    status: Status
    manager: ServiceManager
    metrics: Metrics
    bugs: BugFence
    textfile: Path | None
    _problems: tuple[str, ...] = field(default=(), init=False)
    _line: str = field(default="", init=False)
    _error: str = field(default="", init=False)
    _began_at: float = field(default=0.0, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        self._began_at = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            task_status.started()
            if self.manager.watchdog_s:
                # In a task of its own: a bug in a look must not starve the watchdog.
                tasks.start_soon(self._feed_watchdog, name="watchdog")
            await self.bugs.rounds("supervision", self._look)

    async def _look(self) -> None:
        self._report()
        self._write_metrics()
        patience_s = self.status.context.config.patience_s
        await anyio.sleep(min(_LONGEST_LOOK_S, patience_s / _LOOKS_IN_PATIENCE))

    @property
    def _feed_s(self) -> float:
        return max(_SHORTEST_FEED_S, self.manager.watchdog_s / _FED_IN_TIME)

    async def _feed_watchdog(self) -> None:
        await self.bugs.rounds("watchdog", self._feed, longest_s=self._feed_s)

    async def _feed(self) -> None:
        if not self.status.health.stuck:
            self.manager.is_well()
        await anyio.sleep(self._feed_s)

    def _report(self) -> None:
        line = self.status.line()
        if line != self._line:
            self.manager.status(line)
            self._line = line
        problems = tuple(self.status.health.problems)
        if self._is_starting():
            return
        if problems and not self._problems:
            self._log.warning("not_ready", reasons=list(problems))
        elif self._problems and not problems:
            self._log.info("ready_again")
        self._problems = problems

    def _is_starting(self) -> bool:
        """Return whether it is too early to report a machine as not ready: nothing is known of its endpoint yet."""
        in_time = anyio.current_time() < self._began_at + _START_S
        return in_time and self.status.health.is_starting

    def _write_metrics(self) -> None:
        if self.textfile is None:
            return
        try:
            prometheus_client.write_to_textfile(
                str(self.textfile), self.metrics.registry
            )
        except OSError as error:
            self._log_once(f"{self.textfile}: {error.strerror}")
        else:
            self._error = ""

    def _log_once(self, error: str) -> None:
        if error != self._error:
            self._log.error("metrics_not_written", error=error)
        self._error = error
