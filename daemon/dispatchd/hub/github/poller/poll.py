"""Polling of GitHub's deliveries, where GitHub can't reach the hub, or where the hub was down: intervals and log.

The App's deliveries are one list without leases, so only one process goes through it: the holder of the lock
(`leader.py`). At worst two of them would fetch the same event; the database stores it once.

Each wait has jitter (`protocol/backoff.py`): many hubs call one GitHub.
"""

import random
from typing import Final

import anyio
import structlog
from attrs import define, field

from dispatchd.hub.config.github import GithubSettings, Ingest
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import QueueFull, StorageBusy
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.api.responses import GithubError, Limited, NotPermitted
from dispatchd.hub.github.poller.sweep import Sweeper
from dispatchd.protocol.backoff import CAP_S, full_jitter_s

RECOVERY_S: Final = 300.0
"""Interval at which a hub with webhooks looks for missed deliveries (seconds)."""

_TROUBLE_S: Final = 5.0
"""Upper bound of the wait after the first failure (seconds)."""


@define(kw_only=True)
class Poller:
    """Loop that fetches an App's deliveries. A hub with a token in place of an App has none to fetch."""

    context: Context
    settings: GithubSettings
    client: Client
    random: random.Random
    _sweeper: Sweeper | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _said: str = field(default="", init=False)
    """Problem that was logged last."""

    async def run(self) -> None:
        """Fetch until cancelled. A new start continues where the last poller stopped, in this process or another."""
        self._sweeper = None
        await self.context.bugs.rounds("github deliveries", self._round)

    async def _round(self) -> None:
        try:
            if self._sweeper is None:
                self._sweeper = await Sweeper.open(
                    self.context, self.settings, self.client
                )
            wait_s, problem = await self._sweep(self._sweeper)
            await self._sweeper.keep(problem)
        except StorageBusy as error:
            wait_s, problem = self._after_failure(), f"the database: {error}"
        self._say(problem, wait_s)
        self.context.bugs.worked("github deliveries")
        await anyio.sleep(wait_s)

    async def _sweep(self, sweeper: Sweeper) -> tuple[float, str]:
        """Sweep once; return the wait until the next sweep (seconds), and the problem in words, if there was one."""
        try:
            is_through = await sweeper.sweep()
        except Limited as error:
            asked_s = max(error.retry_at - self.context.now(), 0.0)
            # Up to a tenth more, so that not all who got the same time come back at once.
            wait_s = asked_s * (1 + self.random.random() / 10)
            # GitHub may name a limit that is already over.
            return max(wait_s, self._after_failure()), str(error)
        except NotPermitted as error:
            return CAP_S * self._around(), str(error)
        except GithubError as error:
            return self._after_failure(), str(error)
        except QueueFull as full:
            problem = str(full)
            return self._after_failure(), problem
        self._failures = 0
        return (self._interval_s * self._around() if is_through else 0.0), ""

    def _after_failure(self) -> float:
        self._failures += 1
        return full_jitter_s(
            self._failures,
            self.random.random(),
            base_s=min(self._interval_s, _TROUBLE_S),
            cap_s=CAP_S,
        )

    def _around(self) -> float:
        """Return a factor from 0.5 to 1.5."""
        return 0.5 + self.random.random()

    @property
    def _interval_s(self) -> float:
        if self.settings.ingest is Ingest.POLL:
            return self.settings.poll_interval_s
        return RECOVERY_S

    def _say(self, problem: str, wait_s: float) -> None:
        """Log the problem, once for each change."""
        if problem == self._said:
            return
        log = structlog.get_logger()
        if problem:
            log.warning(
                "github_deliveries_wait", reason=problem, next_in_s=round(wait_s, 1)
            )
        else:
            log.info("github_deliveries_go_on")
        self._said = problem
