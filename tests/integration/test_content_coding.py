"""Answers that unpack to far more than they have, from everyone whom a machine or the hub calls."""

import random
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import anyio
import pytest
from structlog.testing import capture_logs

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.endpoint.caller import Caller
from dispatchd.agent.health.tracing import TraceExporter
from dispatchd.cli.hub.client import HubClient
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import NotReachable, ProtocolError
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.github.api.responses import Unclear
from dispatchd.hub.github.api.transport import Call, transport
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.job import Job
from dispatchd.redaction.known_secrets import KnownSecrets
from support.daemon import running_daemon, write_config
from support.endpoint import Answer, endpoint
from support.outward import client, settings_for
from support.records import NOW
from support.servers import Reply, Request, http_server
from support.torture import few
from support.until import until
from support.waits import finishes

MIB: Final = 1024 * 1024
BESIDE: Final = 16 * MIB
"""What a call may take beside its answer (bytes)."""


@cache
def packed(times: int) -> bytes:
    """Return 200 MiB of zeros, packed by gzip so many times."""
    body: Iterator[bytes] = (bytes(MIB) for _ in range(200))
    for _ in range(times):
        gzip = zlib.compressobj(9, zlib.DEFLATED, 31)
        body = iter([*(gzip.compress(each) for each in body), gzip.flush()])
    return b"".join(body)


TIMES: Final = {"deflate": 1, "gzip": 1, "gzip, gzip": 2}
"""Content coding -> how many times its bombs are packed."""


def bomb_of(coding: str) -> bytes:
    return packed(TIMES[coding])


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if a block takes more than a few MiB."""
    tracemalloc.start()
    try:
        yield
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < BESIDE


@contextmanager
def answering(coding: str, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Answer everything with a bomb; gives the address, and what was accepted by the calls."""
    accepted: list[str] = []
    bomb = bomb_of(coding)
    headers = {"content-type": "application/json", "content-encoding": coding}

    def answer(request: Request) -> Reply:
        accepted.append(request.headers["accept-encoding"])
        return Reply(status, headers, bomb)

    with http_server(answer) as port:
        yield f"http://127.0.0.1:{port}", accepted


@pytest.mark.parametrize("coding", few(TIMES, 1))
async def test_an_endpoint_s_bomb_is_not_unpacked(tmp_path: Path, coding: str) -> None:
    bomb = Answer(
        status=200, body=bomb_of(coding), headers={"content-encoding": coding}
    )
    async with endpoint() as hub:
        hub.script = lambda call: bomb if call.call == "pull" else None
        with little_memory():
            async with running_daemon(write_config(tmp_path, hub.url, {})) as daemon:
                line = await daemon.until_logged("pull_failed")

    assert f"Content-Encoding '{coding}'" in line["error"]
    assert hub.calls("pull")[0].headers["accept-encoding"] == "identity"


async def test_an_error_whose_body_is_packed_proves_nothing_and_is_asked_for_again(
    tmp_path: Path,
) -> None:
    bomb = Answer(
        status=404, body=bomb_of("gzip"), headers={"content-encoding": "gzip, gzip"}
    )
    async with endpoint() as hub:
        hub.script = lambda call: bomb if call.call == "accept" else None
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until(lambda it: len(it.calls("accept")) > 0)
            await daemon.until_logged("report_failed", job_id="j")
            assert not list((daemon.state / "history").glob("*.json"))
            hub.script = None
            (finished,) = await finishes(hub, daemon, "j")

    assert finished["result_status"] == "succeeded"


@pytest.mark.parametrize("coding", TIMES)
async def test_no_call_to_an_endpoint_unpacks_its_answer(
    coding: str, tmp_path: Path
) -> None:
    with answering(coding) as (url, _), little_memory():
        settings = settings_for(url)
        async with client(settings) as http:
            ours = Caller(
                http=http, settings=settings, clock=SteadyClock.open(tmp_path)
            )
            with pytest.raises(ProtocolError, match="isn't unpacked"):
                await ours.post("activate", "/activate", {}, deadline_s=10)


@pytest.mark.parametrize("coding", TIMES)
async def test_github_s_bomb_is_not_unpacked(coding: str) -> None:
    with answering(coding) as (url, accepted), little_memory():
        settings = GithubSettings(app_id=1, api_url=url)
        async with transport(settings, now=lambda: 0, known=KnownSecrets()) as way:
            with pytest.raises(Unclear, match="isn't unpacked"):
                await way.send(Call(name="read the app", path="app"), "")

    assert accepted == ["identity"]


def test_a_hub_s_bomb_is_not_unpacked_by_the_command_line(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    with answering("gzip") as (url, _), little_memory():
        hub = HubClient(tmp_path / "hub.toml", url, token)
        with pytest.raises(NotReachable, match="isn't unpacked"):
            hub.ask("GET", "/api/v1/jobs", cannot="list jobs")


@pytest.mark.parametrize("coding", TIMES)
async def test_a_collector_s_bomb_is_not_unpacked_and_its_status_counts(
    coding: str,
) -> None:
    with answering(coding) as (url, accepted):
        traces = TraceExporter(
            url=url,
            instance_id=lambda: "machine-7",
            random=random.Random(1),
            bugs=BugFence(),
        )
        with little_memory(), capture_logs() as lines:
            async with anyio.create_task_group() as tasks:
                await tasks.start(traces.run)
                traces.export(TrackedJob.received(Job(id="j"), now=NOW))
                await until(lambda: accepted)
                tasks.cancel_scope.cancel()

    assert accepted == ["identity"]
    assert [each["event"] for each in lines] == []
