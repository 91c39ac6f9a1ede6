"""Calls at the same time."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def at_once(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Return what calls return that are made at the same time, each by a thread."""
    made = list(calls)
    with ThreadPoolExecutor(len(made)) as threads:
        return [future.result() for future in [threads.submit(call) for call in made]]
