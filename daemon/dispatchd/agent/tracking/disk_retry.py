"""Waiting for the disk: the only place where a loop waits for a full or failing disk, and reports it."""

import random
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.concurrency.retry import Retry
from dispatchd.errors import StoreUnavailable

T = TypeVar("T")

_RETRY_CAP_S: Final = 5.0
"""Longest wait before a refused write is tried again (seconds): nothing announces new space on a disk."""


@define
class Disk:
    """Repeats writes until the disk takes them."""

    _random: random.Random
    _refused: dict[object, str] = field(factory=dict, init=False)
    """Latest refusals of the disk, by the write that waits."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @property
    def error(self) -> str:
        """Reason why the disk refuses writes at the moment, or an empty string."""
        return next(iter(self._refused.values()), "")

    async def until_stored(
        self, write: Callable[[], T], refused: Callable[[], None] = lambda: None
    ) -> T:
        """Return the result of a blocking write, which is repeated while the disk refuses it.

        `refused` is called at each refusal; it neither waits nor fails.
        """
        waiting = object()
        try:
            return await self._until_stored(write, refused, waiting)
        finally:
            # The write no longer waits, however it ended: only writes that are refused now count as trouble.
            self._refused.pop(waiting, None)

    async def _until_stored(
        self, write: Callable[[], T], refused: Callable[[], None], waiting: object
    ) -> T:
        retry = Retry(self._random, base_s=0.5, cap_s=_RETRY_CAP_S)
        while True:
            try:
                result = await to_thread.run_sync(write)
            except StoreUnavailable as error:
                refused()
                delay_s = retry.failed()
                self._log.error(
                    "store_write_refused",
                    error=str(error),
                    retry_in_s=round(delay_s, 2),
                )
                self._refused[waiting] = str(error)
                await anyio.sleep(delay_s)
            else:
                if retry.failures:
                    self._log.info(
                        "store_write_accepted_again", failures=retry.failures
                    )
                return result
