"""Trouble with the disk is that of the writes that are refused now."""

import errno
import random
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.errors import SpawnFailed, StoreUnavailable


def refusing(name: str, then: Callable[[], None]) -> Callable[[], None]:
    """Return a write that is refused once, and then does something else."""
    refused = False

    def write() -> None:
        nonlocal refused
        if not refused:
            refused = True
            full = OSError(errno.ENOSPC, "No space left on device")
            raise StoreUnavailable(path=Path(name), error=full)
        then()

    return write


def fail() -> None:
    raise SpawnFailed(command="it", reason="its file is gone")


@pytest.mark.parametrize("then", [lambda: None, fail])
async def test_there_is_none_once_the_write_has_ended_in_any_way(
    then: Callable[[], None],
) -> None:
    disk = Disk(random.Random(1))

    try:
        await disk.until_stored(refusing("one", then))
    except SpawnFailed:
        assert then is fail

    assert disk.error == ""


async def test_there_is_none_once_the_write_has_been_given_up() -> None:
    disk = Disk(random.Random(1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(disk.until_stored, refusing("one", fail))
        while not disk.error:
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()

    assert disk.error == ""


async def test_several_that_wait_do_not_hide_each_other() -> None:
    disk = Disk(random.Random(1))
    ready, asked = anyio.Event(), anyio.Event()
    write = refusing("two", lambda: None)

    def second() -> None:
        anyio.from_thread.run_sync(asked.set)
        write()

    async def given_up() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(disk.until_stored, refusing("one", lambda: None))
            await ready.wait()
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(given_up)
        while "one" not in disk.error:
            await anyio.sleep(0.001)
        tasks.start_soon(disk.until_stored, second)
        await asked.wait()
        ready.set()
        while "two" not in disk.error:
            await anyio.sleep(0.001)

    assert disk.error == ""


@pytest.mark.parametrize(
    ("number", "of_the_path"),
    [
        (errno.ENOENT, True),
        (errno.ENOTDIR, True),
        (errno.EEXIST, True),
        (errno.ELOOP, True),
        (errno.EACCES, True),
        (errno.ENOSPC, False),
        (errno.EDQUOT, False),
        (errno.EROFS, False),
        (errno.EIO, False),
        (errno.EMFILE, False),
    ],
)
def test_an_error_is_of_the_disk_or_of_a_path(
    number: int, *, of_the_path: bool
) -> None:
    error = StoreUnavailable(path=Path("x"), error=OSError(number, "it"))

    assert error.is_of_the_path is of_the_path
