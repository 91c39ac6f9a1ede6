"""Steps of an operation: what a client has to do for it, one after the other. Pure.

An operation is a generator. It yields a `Call`, and is sent the `Answer` or thrown the ClientError; it yields a `Pause`,
and continues after it; a stream also yields an `Item` for each of its values. So the synchronous and the asynchronous
client share every decision, and differ in how they send and wait alone.
"""

from collections.abc import Generator, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from attrs import field, frozen

from dispatchd.client.errors import ClientError

T = TypeVar("T")

_MIB: Final = 1 << 20

LARGEST_ANSWER: Final = 256 * _MIB
"""Largest answer that is read (bytes): a list of 1,000 jobs with fields of 64 KiB each, and their escapes."""


@frozen(kw_only=True)
class Call:
    """One request to the hub, and what proves an answer to be a hub's."""

    name: str
    """Purpose of the call, in words that follow "cannot"."""
    path: str
    """Path and query, encoded."""
    method: str = "GET"
    body: object = None
    """The body, as a JSON value; None for no body."""
    contract: str = ""
    """Contract that the answer keeps."""
    has: str = ""
    """Member of the answer, for one without a contract of its own."""
    counts: tuple[str, ...] = ()
    """Headers of an answer that is no JSON, each a whole number."""
    held_s: float = 0.0
    """Time for which the hub may hold it (seconds)."""
    left_s: float | None = None
    """Time after which nobody waits for the answer any more (seconds); None for no such time."""


@frozen(kw_only=True)
class Answer:
    """Answer of whoever is at the hub's address."""

    url: str
    """Address of the hub."""
    status: int
    headers: Mapping[str, str]
    """Headers by names in lower case."""
    content: bytes = field(repr=False)


@frozen
class Pause:
    """A wait before the next call (seconds)."""

    seconds: float


@frozen
class Item(Generic[T]):
    """A value of a stream."""

    value: T


@frozen
class Ended(Generic[T]):
    """The end of an operation, with its result."""

    value: T


NOTHING: Final = Answer(url="", status=0, headers={}, content=b"")
"""Sent to an operation after a pause and an item."""

Operation: TypeAlias = Generator[Call | Pause, Answer, T]
Stream: TypeAlias = Generator[Call | Pause | Item[T], Answer, None]
Document: TypeAlias = dict[str, Any]

Step = TypeVar("Step")


def begun(steps: Generator[Step, Answer, T]) -> Step | Ended[T]:
    """Return the first step of an operation."""
    try:
        return next(steps)
    except StopIteration as end:
        return Ended(end.value)


def resumed(
    steps: Generator[Step, Answer, T], outcome: Answer | ClientError
) -> Step | Ended[T]:
    """Return the next step of an operation, after the outcome of the one before."""
    try:
        if isinstance(outcome, ClientError):
            return steps.throw(outcome)
        return steps.send(outcome)
    except StopIteration as end:
        return Ended(end.value)


def in_query(**values: str | float | None) -> str:
    """Return a query with those of the values that are neither None nor empty."""
    pairs = [
        f"{name}={quote(_text(value), safe='', errors='surrogatepass')}"
        for name, value in values.items()
        if value not in {None, ""}
    ]
    return f"?{'&'.join(pairs)}" if pairs else ""


def _text(value: str | float | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
