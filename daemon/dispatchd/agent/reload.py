"""Reload: the configuration is read and checked again, and applied as a whole or not at all.

Live runs keep the settings that they were started under. A change that a running daemon can't apply, such as
another endpoint or state folder, is refused by name: a restart applies it, and runs outlive restarts.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

import anyio
import structlog
from attrs import define, field

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.load import Config
from dispatchd.agent.health.status import Status
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import ConfigError, Problem
from dispatchd.linux.log import set_level
from dispatchd.linux.systemd import ServiceManager

_ABOUT: Final = "config"
"""Key of the warning about a refused configuration."""

_READ_S: Final = 30.0
"""Longest time for reading the configuration and the files that it names (seconds)."""


@define(kw_only=True)
class Reloader:
    """Replaces the configuration in force; `read` returns a new one, checked."""

    current: CurrentConfig
    read: Callable[[], Config]
    tracker: Tracker
    status: Status
    manager: ServiceManager
    _threads: OwnThreads = field(factory=OwnThreads, init=False)
    _reloading: anyio.Lock = field(factory=anyio.Lock, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def reload(self) -> None:
        """Read the configuration and apply it, one reload after the other.

        Raises:
            ConfigError: It can't be used; the previous one stays in force.
        """
        async with self._reloading:
            await self._reload()

    async def _reload(self) -> None:
        self.manager.reloading(time.monotonic())
        try:
            config = await self._read()
        except ConfigError as error:
            self._log.error(
                "reload_refused", problems=[str(problem) for problem in error.problems]
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
                file=self.current.config.file,
                key="",
                expected=f"must be readable, as all files that it names, and gives {error}",
            )
            raise ConfigError([problem]) from error
        problems = list(_fixed(self.current.config, config))
        if problems:
            raise ConfigError(problems)
        return config

    def _take(self, config: Config) -> None:
        self.current.replace(config)
        set_level(config.log.level)
        self.status.warnings.pop(_ABOUT, None)
        self.status.note_reload()
        self._log.info("reloaded", workflows=sorted(config.workflows))
        # The loops look again, with what is in force now.
        self.tracker.changed.notify()


def _fixed(before: Config, after: Config) -> Iterator[Problem]:
    """Yield the changes that a running daemon can't apply."""
    was, now = before.restart_values(), after.restart_values()
    for key, value in now.items():
        if value != was[key]:
            yield Problem(
                file=after.file,
                key=key,
                expected="can't change while the daemon runs: restart it, which leaves runs alive",
            )
