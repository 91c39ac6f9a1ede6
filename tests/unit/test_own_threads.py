"""Threads that may be left behind."""

import os
import subprocess
import sys
import threading
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import anyio
import pytest

from dispatchd.concurrency.own_threads import OwnThreads
from support.clock import advance, within
from support.until import until


async def test_a_call_gives_its_result_and_its_error() -> None:
    threads = OwnThreads()

    assert await threads.run("a", lambda: 7, within_s=30) == 7
    with pytest.raises(KeyError, match="gone"):
        await threads.run(
            "a", partial(dict[str, int]().__getitem__, "gone"), within_s=30
        )


async def test_a_call_has_the_context_of_its_caller() -> None:
    name = ContextVar[str]("name")
    name.set("caller")

    assert await OwnThreads().run("a", name.get, within_s=30) == "caller"


async def test_calls_in_a_row_share_a_thread_unless_it_hangs() -> None:
    threads, over = OwnThreads(), threading.Event()
    used = {await threads.run("a", threading.get_ident, within_s=30) for _ in range(50)}
    # One that has just ended a call may not be free yet.
    assert len(used) <= 9

    for number in range(20):
        with pytest.raises(TimeoutError):
            await threads.run(number, over.wait, within_s=0)
    assert await threads.run("b", lambda: 7, within_s=30) == 7
    over.set()

    def is_over() -> bool:
        names = [each.name for each in threading.enumerate()]
        # One that ends is idle for a moment.
        return "own thread: 19" not in names and 0 < names.count("idle thread") <= 8

    await until(is_over)


async def test_what_hangs_is_left_behind_after_its_time() -> None:
    threads, over = OwnThreads(), threading.Event()

    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(TimeoutError, match="no answer within 30 s"):
                await threads.run("a", over.wait, within_s=30)
            tasks.cancel_scope.cancel()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await advance(31)
        await anyio.sleep_forever()
    over.set()


async def test_what_hangs_is_left_behind_at_once_by_who_is_cancelled() -> None:
    threads, over = OwnThreads(), threading.Event()

    with within(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(threads.run, "a", over.wait, within_s=None))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    over.set()


async def test_one_place_costs_one_thread_however_often_it_is_asked() -> None:
    threads, over = OwnThreads(), threading.Event()
    calls = 0
    results: list[str] = []

    def hang() -> str:
        nonlocal calls
        calls += 1
        over.wait()
        return "answer"

    async def ask() -> None:
        results.append(await threads.run("a", hang, within_s=30))

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    with within(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            over.set()

    assert (results, calls) == (["answer"] * 3, 1)
    assert await threads.run("a", lambda: "anew", within_s=30) == "anew"


def test_the_end_of_the_program_waits_for_nothing_that_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = f"""
import anyio
from pathlib import Path
from dispatchd.concurrency.own_threads import OwnThreads

async def main():
    with anyio.move_on_after(0.1):
        await OwnThreads().run("a", Path("{tmp_path}/pipe").read_text, within_s=None)

anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

    assert done.returncode == 0


@pytest.mark.parametrize(
    ("call", "code", "output"),
    [('Path("pipe").read_text', 3, ""), ("int", 0, "cleaned up\n")],
)
def test_an_end_that_leaves_a_thread_behind_cleans_up_nothing_that_it_uses(
    tmp_path: Path, call: str, code: int, output: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = f"""
import anyio, atexit
from pathlib import Path
from dispatchd.concurrency.own_threads import OwnThreads, end_if_left

async def main():
    with anyio.move_on_after(0.5):
        await OwnThreads().run("a", {call}, within_s=None)

atexit.register(print, "cleaned up")
anyio.run(main)
end_if_left(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout) == (code, output)
