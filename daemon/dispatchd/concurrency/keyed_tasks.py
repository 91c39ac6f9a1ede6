"""Tasks of a loop, one at most for each key, so that one subject's failures delay no other."""

from collections.abc import Awaitable, Callable, Hashable, Iterator
from typing import Generic, TypeVar

from anyio.abc import TaskGroup
from attrs import define, field

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.protocol.backoff import CAP_S

K = TypeVar("K", bound=Hashable)


@define
class KeyedTasks(Generic[K]):
    """Runs an action for each key, such as a job's id, and repeats it with back-off while it raises."""

    _loop: str
    """Name of the loop that the tasks belong to."""
    _bugs: BugFence
    _longest_s: float = CAP_S
    """Longest pause after a bug (seconds)."""
    _keys: set[K] = field(factory=set, init=False)

    def __contains__(self, key: K) -> bool:
        """Return whether a task with this key is under way."""
        return key in self._keys

    def __len__(self) -> int:
        """Return the number of tasks under way."""
        return len(self._keys)

    def __iter__(self) -> Iterator[K]:
        """Yield the keys of the tasks under way."""
        return iter(self._keys)

    def start(
        self,
        tasks: TaskGroup,
        key: K,
        act: Callable[[], Awaitable[None]],
        *,
        item: str = "",
        on_end: Callable[[], None] | None = None,
        on_pause: Callable[[float], None] | None = None,
    ) -> None:
        """Start a task, unless there is one with this key.

        Args:
            tasks: The task group of the loop.
            key: The subject of the action.
            act: The action.
            item: Name of the subject; by default its key.
            on_end: Called when the task has ended, however, and its key is free again.
            on_pause: Called with the length of a pause after a bug (seconds) before it begins.
        """
        if key in self._keys:
            return
        self._keys.add(key)
        item = item or str(key)

        async def run() -> None:
            try:
                await self._bugs.complete(
                    self._loop,
                    act,
                    item=item,
                    on_pause=on_pause,
                    longest_s=self._longest_s,
                )
            finally:
                self._keys.discard(key)
                if on_end is not None:
                    on_end()

        tasks.start_soon(run, name=f"{self._loop} {item}")
