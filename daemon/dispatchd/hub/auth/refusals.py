"""Log of refused calls, with a limited rate for each kind, so that nobody can fill the disk with it."""

from collections.abc import Callable
from typing import Final

import structlog
from attrs import define, field
from starlette.requests import Request

from dispatchd.hub.auth.audit import address_of
from dispatchd.redaction.quoted import quoted

_EVERY_S: Final = 10.0
"""Shortest time between two lines of one kind (seconds)."""

_LONGEST: Final = 200
"""Longest text from a caller in the log (characters)."""


@define
class Refusals:
    """Logs refused calls; `now` is the hub's clock (seconds since the epoch)."""

    now: Callable[[], float]
    _said_at: dict[str, float] = field(factory=dict, init=False)
    _left_out: dict[str, int] = field(factory=dict, init=False)

    def note(self, event: str, request: Request, **about: object) -> None:
        """Log a refusal, with the number of those before it that were left out.

        Args:
            event: The kind, in snake_case.
            request: The refused request.
            about: Further keys, such as the status of the answer; texts are shortened.
        """
        self.note_from(address_of(request), event, **about)

    def note_from(self, address: str, event: str, **about: object) -> None:
        """Log the refusal of a call from an address, with the same limit."""
        now, said_at = self.now(), self._said_at.get(event)
        # A clock that was set back must not silence it.
        if said_at is not None and said_at <= now < said_at + _EVERY_S:
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return
        self._said_at[event] = now
        keys = {
            name: quoted(value, _LONGEST) if isinstance(value, str) else value
            for name, value in about.items()
        }
        left_out = self._left_out.pop(event, 0)
        if left_out:
            keys["left_out"] = left_out
        structlog.get_logger().warning(event, address=address, **keys)
