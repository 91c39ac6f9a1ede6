"""The client for programs against a real hub: what the documentation shows, lost answers, and strangers on the way."""

import re
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio import to_thread

from dispatchd import __version__
from dispatchd.client import (
    AnswerLost,
    AsyncHub,
    ClientError,
    Forbidden,
    Hub,
    InvalidSetup,
    NotAHub,
    PathTaken,
    Unauthorized,
    Unreachable,
)
from dispatchd.client.pace import AsyncPace
from dispatchd.hub.config.load import TOKEN_FILE
from dispatchd.protocol.report import LogChunk
from dispatchd.protocol.uploads.artifacts import ArtifactChunk
from support.certificates import Authority
from support.clock import within
from support.front import Cut, Fault, front
from support.hub import Hub as HubUnderTest
from support.hub import hub as hub_under_test
from support.machine import Held, Machine
from support.raw_answers import generated, raw_answers

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE
)

LOG, REPORT = b"all \xff tests\n", b"<report/>"


def token_of(server: HubUnderTest) -> str:
    return (server.folder / TOKEN_FILE).read_text()


@asynccontextmanager
async def client_of(server: HubUnderTest, **options: Any) -> AsyncIterator[AsyncHub]:
    async with AsyncHub(server.url, token_of(server), **options) as hub:
        yield hub


async def carry_out(held: Held) -> None:
    """Do a job as a machine does, with a log and an artifact."""

    def call(name: str, **fields: Any) -> Awaitable[httpx.Response]:
        return held.machine.call(name, held.id, **fields)

    await held.accept()
    await held.beat()
    chunk = LogChunk(attempt=1, offset=0, data=LOG, whole=sha256(LOG).hexdigest())
    await call("log", **chunk.to_wire())
    digest = sha256(REPORT).hexdigest()
    file = {"path": "out/report.xml", "size": len(REPORT), "sha256": digest}
    await call("artifacts", attempt=1, files=[file])
    sent = ArtifactChunk(file=digest, offset=0, data=REPORT)
    reply = await call("artifact", **sent.to_wire())
    assert reply.status_code == 200, reply.text
    await held.finish()


async def carry_out_all(machine: Machine) -> None:
    while True:
        reply = await machine.ask(wait="60")
        if reply.status_code == 200:
            held = Held(machine=machine, job=reply.json(), text=reply.text)
            await carry_out(held)


@pytest.fixture
def environment(server: HubUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHD_HUB_URL", server.url)
    monkeypatch.setenv("DISPATCHD_HUB_TOKEN", token_of(server))


@pytest.mark.usefixtures("environment")
async def test_every_example_of_the_documentation_runs(
    server: HubUnderTest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    machine = Machine(http=server.http, workflows=["tests"])
    said: list[bytes] = []
    with within(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(carry_out_all, machine)
            for number, example in enumerate(EXAMPLES):
                code = compile(example, f"{PAGE.name}, example {number}", "exec")
                await to_thread.run_sync(exec, code, {"__name__": "example"})
                said.append(capfdbinary.readouterr().out)
            tasks.cancel_scope.cancel()

    assert len(said) == 8
    assert b"succeeded Done." in said[0]
    assert b"succeeded" in said[1]
    assert LOG in said[4]
    assert (tmp_path / "results/out/report.xml").read_bytes() == REPORT
    assert said[5].count(b"succeeded") == 3
    assert said[6] == b"still waiting for a machine\n"
    assert b"m1 active" in said[7]


async def test_a_job_is_done_step_by_step(
    server: HubUnderTest, machine: Machine, tmp_path: Path
) -> None:
    with within(60):
        async with client_of(server) as hub:
            job_id = await hub.submit("ci", repository="o/r", ref="refs/heads/x")
            seen: list[str] = []
            async for job in hub.watch(job_id):
                seen.append(job.state)
                if len(seen) == 1:
                    await carry_out(await machine.pull())
            found = await hub.get(job_id)
            [artifact] = await hub.artifacts(job)
            (tmp_path / "out").mkdir()
            (tmp_path / "out/report.xml").write_text("mine")
            with pytest.raises(PathTaken):
                await hub.download(job, artifact, tmp_path)
            kept = (tmp_path / "out/report.xml").read_text()
            path = await hub.download(job, artifact, tmp_path, replace=True)
            listed = [job.id async for job in hub.jobs(workflow="ci")]
            log = await hub.log(job, attempt=1)

    assert (seen[0], seen[-1]) == ("queued", "succeeded")
    assert (found.repository, found.ref, found.machine) == ("o/r", "refs/heads/x", "m1")
    assert (found.succeeded, found.summary, listed) == (True, "Done.", [job_id])
    assert log == LOG.decode(errors="replace")
    assert kept == "mine"
    assert path.read_bytes() == REPORT
    assert [each.name for each in path.parent.iterdir()] == ["report.xml"]


@pytest.mark.parametrize(
    "fault", [Fault(cut=Cut.AFTER), Fault(page=b"gateway", status=502, arrives=True)]
)
async def test_a_submit_whose_answer_is_lost_is_one_job(
    server: HubUnderTest, fault: Fault
) -> None:
    left = [fault] * 2
    pace = AsyncPace(sleep=lambda _: anyio.lowlevel.checkpoint())
    async with front(server.url) as way:
        way.decide = lambda path: (
            left.pop() if path == "/api/v1/jobs" and left else None
        )
        async with AsyncHub(way.url, token_of(server), pace=pace) as hub:
            job_id = await hub.submit("ci", key="once")
            again = await hub.submit("ci", key="once")

    async with client_of(server) as hub:
        listed = [job.id async for job in hub.jobs()]
    assert [again] == listed == [job_id]
    assert not left


async def test_who_has_no_right_is_told_in_the_hubs_words(server: HubUnderTest) -> None:
    made = await server.http.post(
        "/api/v1/tokens", json={"name": "ci", "scopes": ["submit"]}
    )
    async with AsyncHub(server.url, made.json()["token"]) as hub:
        job_id = await hub.submit("ci", key="once")
        assert await hub.submit("ci", key="once") == job_id
        with pytest.raises(Forbidden) as caught:
            await hub.get(job_id)
    async with AsyncHub(server.url, "wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.get(job_id)

    assert caught.value.status == 403
    assert "wrong" not in repr(vars(stranger))


async def test_a_hub_is_known_by_its_certificate_or_its_authority(
    tmp_path: Path,
) -> None:
    ours, others = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    named, foreign = ours.issue("127.0.0.1"), others.issue("127.0.0.1")
    misnamed = ours.issue("hub.example")
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "tls.pem").write_bytes(misnamed.read_bytes())
    with within(60):
        async with hub_under_test(folder, keys='tls_cert_file = "tls.pem"') as server:
            url = f"https://127.0.0.1:{server.port}"

            async def answers(**trust: Any) -> bool:
                async with AsyncHub(url, token_of(server), retries=0, **trust) as hub:
                    try:
                        return [job async for job in hub.jobs()] == []
                    except Unreachable as error:
                        return "certificate" not in error.reason.lower()

            pinned = await answers(certificate_file=misnamed)
            found = [
                await answers(certificate_file=named),
                await answers(ca_file=ours.file),
                await answers(ca_file=foreign),
                await answers(),
            ]

    assert pinned
    assert found == [False] * 4


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("", {}, "no address of a hub"),
        ("hub.example", {}, "http:// or https://"),
        ("ftp://hub.example", {}, "http:// or https://"),
        ("https://a..b", {}, "Invalid hostname"),
        ("https://h", {"ca_file": "/none.pem"}, "No such file"),
        ("https://h", {"certificate_file": __file__}, "read "),
        ("https://h", {"certificate_file": "a", "ca_file": "b"}, "exclude each other"),
        ("https://h", {"token": "se\ncret"}, "not one line of ASCII"),
        ("https://h", {"token": "s\xe9cret"}, "not one line of ASCII"),
        ("https://h", {"token": " "}, "not one line of ASCII"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_sent(
    url: str, options: dict[str, Any], words: str
) -> None:
    for kind in (Hub, AsyncHub):
        with pytest.raises(InvalidSetup) as caught:
            kind(url, **{"token": "t", **options})
        assert words in str(caught.value)
        assert "cret" not in str(caught.value)


async def test_nothing_but_its_own_errors_comes_out_whatever_is_answered() -> None:
    pace = AsyncPace(sleep=lambda _: anyio.lowlevel.checkpoint())
    async with (
        raw_answers(generated(7)) as server,
        AsyncHub(server.url, "t", retries=1, pace=pace) as hub,
    ):
        for _ in range(6):
            for call in (
                hub.get("j"),
                hub.submit("ci"),
                hub.cancel("j"),
                hub.log("j"),
                hub.artifacts("j"),
            ):
                with within(60), pytest.raises(ClientError):
                    await call


async def test_a_call_says_who_it_is_and_takes_no_coding_and_no_other_way() -> None:
    heard: list[bytes] = []
    lines = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0"
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heard.append(await stream.receive())
            await stream.send(lines + b"\r\nSet-Cookie: a=b\r\n\r\n")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with AsyncHub(f"http://127.0.0.1:{port}", "t") as hub:
            for _ in range(2):
                with pytest.raises(NotAHub, match="answers 302"):
                    await hub.get("a/../b")
        tasks.cancel_scope.cancel()
    await listener.aclose()

    assert len(heard) == 2
    for request in heard:
        head = request.decode().lower()
        assert head.startswith("get /api/v1/jobs/a%2f%2e%2e%2fb http/1.1")
        assert f"user-agent: dispatchd/{__version__}" in head
        assert "accept-encoding: identity" in head
        assert "cookie" not in head


async def test_a_hub_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, within(60):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with AsyncHub(url, "t", timeout_s=0.2, retries=0) as hub:
            with pytest.raises(AnswerLost):
                await hub.get("j")
            with pytest.raises(TimeoutError, match="not ended within 0"):
                await hub.wait("j", timeout_s=0)
