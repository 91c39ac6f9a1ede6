"""Repetition of calls: which failures are worth another try, and when. Pure."""

from collections.abc import Callable
from typing import Final, TypeVar

from attrs import define, field, frozen

from dispatchd.client.answers import document
from dispatchd.client.errors import (
    AnswerLost,
    ClientError,
    NotAHub,
    Unavailable,
    Unreachable,
)
from dispatchd.client.steps import Answer, Call, Document, Operation, Pause
from dispatchd.protocol.backoff import after_asked_s, full_jitter_s

T = TypeVar("T")

_BASE_S: Final = 0.5
_CAP_S: Final = 8.0
"""Upper bounds of the first wait, and of every wait that the hub didn't ask for (seconds)."""

_LONGEST_ASKED_S: Final = 60.0
"""Longest wait that the hub may ask for (seconds): after a longer one the call fails, and the caller decides."""

_AWAY_TRIES: Final = 60
_AWAY_CAP_S: Final = 2.0
"""Tries, and upper bound of a wait (seconds), while something is followed: the hub may be away for a minute, as in an upgrade."""

QUIET_S: Final = 0.5
"""Pause after an answer with nothing new to a question that was to be held (seconds): who never holds one isn't asked without end."""

_SUBMIT_TRIES: Final = 3
"""Repetitions of a submit that may have been carried out, whatever the rule (count): else nobody knows of the job."""

_SHORT_S: Final = 2.0
"""Longest wait that is no reason to give such a submit up (seconds)."""

_NOT_CARRIED_OUT: Final = (Unreachable, Unavailable)
_SAFE: Final = (*_NOT_CARRIED_OUT, AnswerLost)
_FOLLOWED: Final = (*_SAFE, NotAHub)
"""Failures after which a call is repeated: any call, one without effects, and one of something that is followed."""


@define(kw_only=True)
class Tries:
    """Tries of one call."""

    _kinds: tuple[type[ClientError], ...]
    _most: int
    """Most repetitions (count)."""
    _draw: Callable[[], float]
    _cap_s: float = _CAP_S
    _most_if_lost: int = 0
    """Most repetitions of a call that may have been carried out, if that is more (count)."""
    _failures: int = field(default=0, init=False)
    was_lost: bool = field(default=False, init=False)
    """True if one of the calls may have been carried out without an answer."""

    def after(self, error: ClientError) -> Pause:
        """Return the wait before the next try.

        Raises:
            ClientError: The error itself, if there is to be no other try.
        """
        self.was_lost |= isinstance(error, AnswerLost)
        self._failures += 1
        asked_s = error.retry_after_s or 0.0
        is_short = isinstance(error, _SAFE) and asked_s <= _SHORT_S
        may_repeat = self.was_lost or (is_short and not isinstance(error, Unreachable))
        most = max(self._most, self._most_if_lost) if may_repeat else self._most
        if (
            not isinstance(error, self._kinds)
            or self._failures > most
            or asked_s > _LONGEST_ASKED_S
        ):
            raise error
        wait_s = full_jitter_s(
            self._failures, self._draw(), base_s=_BASE_S, cap_s=self._cap_s
        )
        if asked_s:
            wait_s = max(wait_s, after_asked_s(asked_s, self._draw()))
        return Pause(wait_s)


@frozen(kw_only=True)
class Retries:
    """The client's rule: most repetitions of a call (count), and randomness from [0, 1)."""

    most: int
    draw: Callable[[], float]

    @property
    def of_any(self) -> Tries:
        """Tries of a call that may have an effect: repeated only if it surely had none."""
        return Tries(kinds=_NOT_CARRIED_OUT, most=self.most, draw=self.draw)

    @property
    def of_safe(self) -> Tries:
        """Tries of a call that may be carried out twice."""
        return Tries(kinds=_SAFE, most=self.most, draw=self.draw)

    @property
    def of_submit(self) -> Tries:
        """Tries of a call with an id of its own, of which one that is lost leaves a job that nobody knows of."""
        return Tries(
            kinds=_SAFE,
            most=self.most,
            draw=self.draw,
            most_if_lost=_SUBMIT_TRIES,
        )

    @property
    def of_followed(self) -> Tries:
        """Tries of a call by which something is followed."""
        return Tries(
            kinds=_FOLLOWED,
            most=max(self.most, _AWAY_TRIES),
            draw=self.draw,
            cap_s=_AWAY_CAP_S,
        )


def asked(call: Call, tries: Tries, judge: Callable[[Call, Answer], T]) -> Operation[T]:
    """Make a call until it is answered as a hub does, and return what the judge finds in the answer.

    Raises:
        ClientError: The hub refuses, or isn't to be reached.
    """
    while True:
        try:
            return judge(call, (yield call))
        except ClientError as error:
            yield tries.after(error)


def asked_document(call: Call, tries: Tries) -> Operation[Document]:
    """Make a call until it is answered as a hub does, and return the JSON object.

    Raises:
        ClientError: The hub refuses, or isn't to be reached.
    """
    return (yield from asked(call, tries, document))
