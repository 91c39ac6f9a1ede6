"""Notifier: wakes all who wait for a change, each time that there is one."""

import anyio
from attrs import define, field


@define
class Notifier:
    """Event of the next change, again and again. Only for the event loop's thread."""

    _next: anyio.Event = field(factory=anyio.Event, init=False)

    @property
    def next(self) -> anyio.Event:
        """Event of the next change. Take it first, then read the state, then wait for it."""
        return self._next

    def notify(self) -> None:
        """Wake those who wait now."""
        self._next.set()
        self._next = anyio.Event()
