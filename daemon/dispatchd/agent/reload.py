"""Reload: the configuration is read and checked again, and applied as a whole or not at all.

Live runs keep the settings that they were started under. A change that a running daemon can't apply, such as
another endpoint or state folder, is refused by name: a restart applies it, and runs outlive restarts.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

import anyio
import attrs
import structlog
from attrs import define, field

from dispatchd.agent.config.load import Config
from dispatchd.agent.health.status import Status
from dispatchd.agent.loops.prune import PruneLoop
from dispatchd.agent.loops.pull import PullLimits, PullLoop
from dispatchd.agent.runs.run import RunLoop
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import ConfigError, Problem
from dispatchd.process.log import set_level
from dispatchd.process.systemd import ServiceManager

_ABOUT: Final = "config"
"""Key of the warning about a refused configuration."""

_READ_S: Final = 30.0
"""Longest time for reading the configuration and the files that it names (seconds)."""

_CHANGEABLE_IN_CLOUD: Final = frozenset({"hold_s", "poll_interval_s"})


@define(kw_only=True)
class Reloader:
    """Applies a changed configuration to the loops; `read` returns it, checked."""

    config: Config
    read: Callable[[], Config]
    pull: PullLoop
    run_loop: RunLoop
    prune: PruneLoop
    status: Status
    manager: ServiceManager
    _threads: OwnThreads = field(factory=OwnThreads, init=False)
    _reloading: anyio.Lock = field(factory=anyio.Lock, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def reload(self) -> None:
        """Read the configuration and apply it, one reload after the other.

        Fails with ConfigError: It can't be used; the previous one stays in force.
        """
        async with self._reloading:
            await self._reload()

    async def _reload(self) -> None:
        self.manager.reloading(time.monotonic())
        try:
            config = await self._read()
        except ConfigError as error:
            self._log.error(
                "reload_refused", problems=[str(each) for each in error.problems]
            )
            self.status.warnings[_ABOUT] = (
                f"the changed configuration is not in force: {error.problems[0]}"
            )
            raise
        else:
            self._take(config)
        finally:
            self.manager.ready(self.status.line())

    async def _read(self) -> Config:
        try:
            config = await self._threads.run("config", self.read, within_s=_READ_S)
        except TimeoutError as error:
            problem = Problem(
                file=self.config.file,
                key="",
                expected=f"must be readable, as all files that it names, and gives {error}",
            )
            raise ConfigError([problem]) from error
        problems = list(_fixed(self.config, config))
        if problems:
            raise ConfigError(problems)
        return config

    def _take(self, config: Config) -> None:
        self.config = config
        self.pull.workflows = self.run_loop.workflows = config.workflows
        self.pull.limits = pull_limits(config)
        self.run_loop.slots = config.limits.slots
        self.run_loop.concluder.retry_wait_s = config.limits.retry_wait_s
        self.prune.history_days = config.history_days
        self.status.health.patience_s = patience_s(config)
        set_level(config.log.level)
        self.status.warnings.pop(_ABOUT, None)
        self.status.reloaded_at = self.status.clock.now()
        self._log.info("reloaded", workflows=sorted(config.workflows))
        self.pull.tracker.ring()


def pull_limits(config: Config) -> PullLimits:
    """Return the limits of pulls."""
    return PullLimits(
        room=config.limits.slots + config.limits.queue_ahead,
        min_free_bytes=config.min_free_bytes,
        folder=config.state_folder,
        hold_s=config.cloud.hold_s,
        poll_interval_s=config.cloud.poll_interval_s,
        call_timeout_s=config.cloud.call_timeout_s,
    )


def patience_s(config: Config) -> float:
    """Return the seconds without a pull after which a machine that pulls isn't ready: the time of two polls."""
    return 2 * max(config.cloud.hold_s, config.cloud.poll_interval_s)


def _fixed(before: Config, after: Config) -> Iterator[Problem]:
    """Yield the changes that a running daemon can't apply."""
    was, now = _unchangeable(before), _unchangeable(after)
    for key, value in now.items():
        if value != was[key]:
            yield Problem(
                file=after.file,
                key=key,
                expected="can't change while the daemon runs: restart it, which leaves runs alive",
            )


def _unchangeable(config: Config) -> dict[str, object]:
    tables: dict[str, attrs.AttrsInstance] = {
        "cloud": config.cloud,
        "checkout": config.checkout,
        "license": config.license,
        "metrics": config.metrics,
        "telemetry": config.telemetry,
    }
    found: dict[str, object] = {
        f"{table}.{each.name}": getattr(content, each.name)
        for table, content in tables.items()
        for each in attrs.fields(type(content))
        if table != "cloud" or each.name not in _CHANGEABLE_IN_CLOUD
    }
    return {
        **found,
        "store.folder": config.state_folder,
        "control.folder": config.control_folder,
        "log.format": config.log.format,
    }
