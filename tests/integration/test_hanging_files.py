"""Files that don't come: a named pipe stands for a file system that hangs. Nothing waits for them for ever."""

import json
import os
import signal
import threading
from collections.abc import AsyncIterator
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from support.clock import advance
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.until import until

FILE_S = 31.0
"""Longer than any file may take (seconds)."""


class Pipes:
    """Named pipes that nobody writes to until the end of a test."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def put(self, file: Path) -> None:
        """Put a pipe in the place of a file."""
        file.unlink(missing_ok=True)
        os.mkfifo(file, 0o600)
        self._made.append(file)

    async def let_go(self) -> None:
        await until(self._have_no_readers)

    def _have_no_readers(self) -> bool:
        for each in self._made:
            # Whoever waits for a writer has one, and then the end of the file (fifo(7)); a thread may come late.
            os.close(os.open(each, os.O_RDWR | os.O_NONBLOCK))
        return not [*chain(*map(readers, self._made))]


@pytest.fixture
async def pipes() -> AsyncIterator[Pipes]:
    made = Pipes()
    yield made
    await made.let_go()


def readers(about: object) -> list[threading.Thread]:
    """Return the threads that read a file, and may have been left behind."""
    return [each for each in threading.enumerate() if str(about) in each.name]


def with_secret_in_a_pipe(tmp_path: Path, url: str, pipes: Pipes) -> Path:
    pipes.put(tmp_path / "pipe")
    config = write_config(
        tmp_path / "machine",
        url,
        {"it": ["/bin/true"]},
        limits='secrets = { TOK = "s" }\nstart_retries = 0',
    )
    config.write_text(f'{config.read_text()}\n[secrets.s]\nfile = "{tmp_path}/pipe"\n')
    return config


async def test_a_secret_that_does_not_come_fails_its_attempt(
    tmp_path: Path, pipes: Pipes
) -> None:
    async with endpoint() as hub:
        config = with_secret_in_a_pipe(tmp_path, hub.url, pipes)
        async with running_daemon(config):
            hub.hand_out({"id": "j", "dag_name": "it"})
            await until(partial(readers, tmp_path / "pipe"))
            await advance(FILE_S)
            [finish] = await hub.until_finished("j")

    assert finish["result_status"] == "failed"
    assert "secret s (its file gave no answer within 30 s)" in finish["result_summary"]


async def test_a_cancel_does_not_wait_for_a_secret(
    tmp_path: Path, pipes: Pipes
) -> None:
    async with endpoint() as hub:
        config = with_secret_in_a_pipe(tmp_path, hub.url, pipes)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await until(partial(readers, tmp_path / "pipe"))
            await call(daemon, "POST", "/v1/jobs/j/cancel", {})
            [finish] = await hub.until_finished("j")

    assert finish["result_status"] == "aborted"


async def test_a_stop_does_not_wait_for_a_secret(tmp_path: Path, pipes: Pipes) -> None:
    async with endpoint() as hub:
        config = with_secret_in_a_pipe(tmp_path, hub.url, pipes)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await until(partial(readers, tmp_path / "pipe"))
            await daemon.stop()
            kept = json.loads((daemon.state / "jobs" / "j.json").read_text())

    # An attempt without a process is none for the next daemon.
    assert kept["phase"] == "accepted"


async def test_a_stop_hands_a_job_back_whose_secret_is_being_read(
    tmp_path: Path, pipes: Pipes
) -> None:
    job = {
        "id": "j",
        "dag_name": "it",
        "claim_token": "claim",
        "lease_seconds": 600,
        "extensions": ["heartbeat", "release"],
    }
    async with endpoint() as hub:
        config = with_secret_in_a_pipe(tmp_path, hub.url, pipes)
        async with running_daemon(config) as daemon:
            hub.hand_out(job)
            await until(partial(readers, tmp_path / "pipe"))
            await daemon.stop()
            [released] = hub.calls("release", "j")

    assert released.body["claim_token"] == "claim"
    assert not hub.finished


async def test_a_machine_secret_that_does_not_come_is_a_reason_and_holds_up_no_stop(
    tmp_path: Path, pipes: Pipes
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            await hub.until(lambda it: len(it.calls("pull")) == 2)
            pipes.put(tmp_path / "secret")
            hub.cut_held_polls()

            async def is_told() -> bool:
                await advance(1)
                status = await call(daemon, "GET", "/v1/status")
                return "no answer within 10 s" in status["endpoint"]["state"]

            await until(is_told)
            await daemon.stop()

    assert not daemon.alive


async def test_a_configuration_that_does_not_come_is_refused(
    tmp_path: Path, pipes: Pipes
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            pipes.put(config)
            daemon.send(signal.SIGHUP)
            await until(partial(readers, "own thread: config"))
            await advance(FILE_S)
            refused = await daemon.until_logged("reload_refused")
            status = await call(daemon, "GET", "/v1/status")
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until_finished("j")

    assert "no answer within 30 s" in refused["problems"][0]
    assert "the changed configuration is not in force" in status["warnings"][0]


async def test_a_stop_does_not_wait_for_a_reload(tmp_path: Path, pipes: Pipes) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            pipes.put(config)
            daemon.send(signal.SIGHUP)
            await until(partial(readers, "own thread: config"))
            await daemon.stop()

    assert not daemon.alive
