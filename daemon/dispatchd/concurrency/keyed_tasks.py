"""Tasks of a loop, one at most for each key, so that one subject's failures delay no other."""

from collections.abc import Awaitable, Callable
from functools import partial

from anyio.abc import TaskGroup
from attrs import define, field

from dispatchd.concurrency.bug_fence import BugFence


@define
class KeyedTasks:
    """Runs an action for each key, such as a job's id, and repeats it with back-off while it raises."""

    _loop: str
    """Name of the loop that the tasks belong to."""
    _bugs: BugFence
    _keys: set[str] = field(factory=set, init=False)

    def __contains__(self, key: str) -> bool:
        """Return whether a task with this key is under way."""
        return key in self._keys

    def __len__(self) -> int:
        """Return the number of tasks under way."""
        return len(self._keys)

    def start(
        self,
        tasks: TaskGroup,
        key: str,
        act: Callable[[], Awaitable[None]],
        *,
        on_end: Callable[[], None],
        on_pause: Callable[[float], None] | None = None,
    ) -> None:
        """Start a task, unless there is one with this key.

        Args:
            tasks: The task group of the loop.
            key: The subject of the action.
            act: The action.
            on_end: Called when the task has ended, however, and its key is free again.
            on_pause: Called with the length of a pause after a bug (seconds) before it begins.
        """
        if key not in self._keys:
            self._keys.add(key)
            tasks.start_soon(
                partial(self._run, key, act, on_end=on_end, on_pause=on_pause),
                name=f"{self._loop} {key}",
            )

    async def _run(
        self,
        key: str,
        act: Callable[[], Awaitable[None]],
        *,
        on_end: Callable[[], None],
        on_pause: Callable[[float], None] | None,
    ) -> None:
        try:
            await self._bugs.complete(self._loop, act, item=key, on_pause=on_pause)
        finally:
            self._keys.discard(key)
            on_end()
