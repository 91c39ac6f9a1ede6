"""Waiting for the disk: the one place where a full or failing disk makes a loop wait, and says so."""

import random
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.domain.backoff import full_jitter_s
from dispatchd.errors import StoreUnavailable

T = TypeVar("T")

_RETRY_CAP_S: Final = 5.0
"""Longest wait before a refused write is tried again (seconds): room on a disk comes back unannounced."""


@define
class Disk:
    """Repeats writes until the disk takes them."""

    _random: random.Random
    _refused: dict[object, str] = field(factory=dict, init=False)
    """What the disk has told those who wait for it now."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @property
    def trouble(self) -> str:
        """Why the disk refuses writes at the moment, or empty."""
        return next(iter(self._refused.values()), "")

    async def until_stored(
        self, write: Callable[[], T], refused: Callable[[], None] = lambda: None
    ) -> T:
        """Return what a blocking write returns, repeating it for as long as the disk refuses it.

        `refused` is called at each refusal, and neither waits nor fails.
        """
        waiting = object()
        try:
            return await self._until_stored(write, refused, waiting)
        finally:
            # However it ends, nobody waits any more: trouble is that of writes that are refused now.
            self._refused.pop(waiting, None)

    async def _until_stored(
        self, write: Callable[[], T], refused: Callable[[], None], waiting: object
    ) -> T:
        failures = 0
        while True:
            try:
                result = await to_thread.run_sync(write)
            except StoreUnavailable as error:
                failures += 1
                refused()
                delay_s = full_jitter_s(
                    failures,
                    self._random.random(),
                    base_s=0.5,
                    cap_s=_RETRY_CAP_S,
                )
                self._log.error(
                    "store_write_refused",
                    error=str(error),
                    retry_in_s=round(delay_s, 2),
                )
                self._refused[waiting] = str(error)
                await anyio.sleep(delay_s)
            else:
                if failures:
                    self._log.info("store_write_accepted_again", failures=failures)
                return result
