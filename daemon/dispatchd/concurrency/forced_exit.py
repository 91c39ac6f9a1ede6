"""Forced exit of a stop that hangs: a call that the kernel never ends must not keep the process.

Everything is durable before it is acted on, so a process that is ended here loses nothing: the next one continues.
"""

import threading
from collections.abc import Callable

import structlog
from attrs import define, field


@define
class LastResort:
    """Calls `end`, which ends the process, unless it has ended in time. Does nothing without `end`."""

    end: Callable[[], object] | None
    _timer: threading.Timer | None = field(default=None, init=False)

    def within(self, seconds: float) -> None:
        """Set the time until the process is ended (seconds from now), in place of the time before."""
        if self.end is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, _say_and_end, [self.end, seconds])
        # A daemon thread: it ends with the process, and delays nothing.
        self._timer.daemon = True
        self._timer.start()


def _say_and_end(end: Callable[[], object], seconds: float) -> None:
    structlog.get_logger().error("stop_forced", after_s=seconds)
    end()
