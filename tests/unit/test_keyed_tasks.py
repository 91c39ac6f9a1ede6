"""One task at most for each key, each by itself, and repeated after a bug."""

import random
from functools import partial

import anyio
from typing_extensions import override

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.keyed_tasks import KeyedTasks
from support.clock import within


class AtOnce(random.Random):
    """Jitter that draws nothing, so that no back-off takes time."""

    @override
    def random(self) -> float:
        return 0.0


def keyed() -> KeyedTasks[str]:
    return KeyedTasks("loop", BugFence(AtOnce()))


async def test_a_key_has_one_task_until_that_has_ended() -> None:
    work, begun, ended = keyed(), list[str](), list[str]()
    gate = anyio.Event()

    async def act(key: str) -> None:
        begun.append(key)
        await gate.wait()

    def start(key: str) -> None:
        work.start(tasks, key, partial(act, key), on_end=partial(ended.append, key))

    with within(20):
        async with anyio.create_task_group() as tasks:
            start("a")
            start("a")
            start("b")
            await anyio.wait_all_tasks_blocked()
            assert sorted(begun) == ["a", "b"]
            assert len(work) == 2
            gate.set()
            await anyio.wait_all_tasks_blocked()
            assert len(work) == 0
            start("a")
    assert sorted(begun) == ["a", "a", "b"]
    assert sorted(ended) == ["a", "a", "b"]


async def test_a_key_is_free_when_its_end_is_heard_of() -> None:
    work, free = keyed(), list[bool]()

    async def act() -> None:
        await anyio.lowlevel.checkpoint()

    with within(20):
        async with anyio.create_task_group() as tasks:
            work.start(tasks, "a", act, on_end=lambda: free.append("a" not in work))
    assert free == [True]


async def test_a_task_that_meets_a_bug_is_repeated_and_delays_no_other() -> None:
    work, tries, pauses = keyed(), list[str](), list[float]()
    ended = list[str]()

    async def fail_twice() -> None:
        tries.append("a")
        if len(tries) < 3:
            raise ZeroDivisionError

    async def pass_at_once() -> None:
        await anyio.lowlevel.checkpoint()

    with within(20):
        async with anyio.create_task_group() as tasks:
            work.start(
                tasks,
                "a",
                fail_twice,
                on_end=partial(ended.append, "a"),
                on_pause=pauses.append,
            )
            work.start(tasks, "b", pass_at_once, on_end=partial(ended.append, "b"))
    assert tries == ["a", "a", "a"]
    assert pauses == [0.0, 0.0]
    assert ended == ["b", "a"]


async def test_the_end_of_a_cancelled_task_is_heard_of_too() -> None:
    work, ended = keyed(), list[str]()

    with within(20):
        async with anyio.create_task_group() as tasks:
            work.start(
                tasks, "a", anyio.sleep_forever, on_end=partial(ended.append, "a")
            )
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert ended == ["a"]
    assert "a" not in work
