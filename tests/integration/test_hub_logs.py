"""Logs at the hub: chunks from machines, reading them by API, page and command, quota, retention, backup."""

import gzip
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from dispatchd.hub.domain.model import State
from dispatchd.protocol.contracts import check
from dispatchd.protocol.report import LogChunk
from support.cli import command
from support.clock import advance
from support.front import Fault, front
from support.hub import ANY_PORT, NO_TLS, Hub, HubHere, hub
from support.hub_page import admin_token, form_token, login
from support.machine import JOBS, Held, Machine, held_poll, refuses
from support.until import until

CI = {"dag_name": "ci"}
HOSTILE = (
    b"\x1b[32mgreen\x1b[0m \x1b]0;title\x07 <script>alert(1)</script> &amp;\x00\xff\n"
    b"progress 1%\rprogress 100%\n"
    b"\x1b[2J\x1b[1;31mred\x1b[0m <img src=x onerror=alert(1)>\n"
)


async def running(server: Hub, job_id: str = "j") -> Held:
    await server.submit({"id": job_id, **CI})
    held = await Machine(http=server.http).pull()
    await held.accept()
    await held.beat()
    return held


async def send(
    held: Held, content: bytes = b"", offset: int = 0, **more: Any
) -> httpx.Response:
    whole = sha256(more.pop("whole")).hexdigest() if "whole" in more else ""
    chunk = LogChunk(
        attempt=more.pop("attempt", 1), offset=offset, data=content, whole=whole
    )
    return await held.machine.call("log", held.id, **{**chunk.to_wire(), **more})


async def stored(reply: httpx.Response) -> int:
    assert reply.status_code == 200, reply.text
    check("log-reply", reply.json())
    offset: int = reply.json()["offset"]
    return offset


async def log_of(server: Hub, job_id: str = "j", **query: Any) -> httpx.Response:
    reply = await server.http.get(f"{JOBS}/{job_id}/log", params=query)
    assert reply.status_code == 200, reply.text
    return reply


async def test_chunks_are_stored_once_and_continue_where_they_end(
    server: Hub,
) -> None:
    held = await running(server)
    assert "log" in held.job["extensions"]

    assert await stored(await send(held)) == 0
    assert [await stored(await send(held, b"one\n")) for _ in range(2)] == [4, 4]
    assert await stored(await send(held, b"four\n", 40)) == 4
    assert await stored(await send(held, b"two?\n", 4)) == 9
    assert await stored(await send(held, b"two\n", 4)) == 8
    assert await stored(await send(held, b"three\n", 8)) == 14
    assert (await log_of(server)).content == b"one\ntwo\nthree\n"
    assert await stored(await send(held, b"", 14, whole=b"another")) == 0
    assert await stored(await send(held, b"", 14, whole=b"one\ntwo\nthree\n")) == 14
    # Late, and a part of what was there before.
    assert await stored(await send(held, b"two?\n", 4)) == 14

    part = await log_of(server, part=1, offset=4, limit=3)
    assert part.content == b"two"
    assert part.headers["log-next"] == "7"
    assert part.headers["content-type"] == "text/plain; charset=utf-8"
    await held.finish()
    assert (await log_of(server, offset=14)).headers["log-complete"] == "1"


async def test_only_a_machine_that_has_had_the_job_sends_its_log(server: Hub) -> None:
    held = await running(server)
    other = Machine(http=server.http, name="m2")

    refuses(
        await other.call("log", "j", **LogChunk(attempt=1, offset=0).to_wire()), 404
    )
    refuses(
        await held.machine.call("log", "x", **LogChunk(attempt=1, offset=0).to_wire()),
        404,
    )
    refuses(await send(held, b"x", secret="wrong"), 401)
    await held.finish()

    assert await stored(await send(held, b"late\n")) == 5
    assert (await log_of(server)).content == b"late\n"


async def test_a_chunk_that_lies_is_refused(server: Hub) -> None:
    held = await running(server)
    bomb = b64encode(gzip.compress(b"\0" * 50_000_000)).decode()

    for wrong in (
        {"sha256": "0" * 64},
        {"length": 3},
        {"data": "AAAA"},
        {"data": "?"},
        {"data": bomb},
        {"length": 1 << 21},
        {"offset": -1},
    ):
        refuses(await send(held, b"four", **wrong), 422)

    assert (await log_of(server)).content == b""


async def test_a_log_over_the_quota_is_refused_and_the_job_ends(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub", more="[logs]\njob_mib = 1") as server:
        held = await running(server)
        piece = os.urandom(512 << 10)
        assert await stored(await send(held, piece)) == 512 << 10
        assert await stored(await send(held, piece, 512 << 10)) == 1 << 20

        message = refuses(await send(held, b"more", 1 << 20), 413)

        assert "logs.job_mib" in message
        refuses(await send(held, b"other attempt", attempt=2), 413)
        assert (await held.finish()).status_code == 204


async def test_a_watcher_is_told_to_the_machine_at_once(server: Hub) -> None:
    held = await running(server)
    assert "watching" not in (await held.beat()).json()

    async with (
        held_poll(held.machine, "60") as poll,
        anyio.create_task_group() as tasks,
    ):

        async def watch() -> None:
            assert (await log_of(server, wait=30)).content == b"first\n"

        tasks.start_soon(watch)
        await until(lambda: poll.has_ended)
        beaten = (await held.beat()).json()
        check("heartbeat-reply", beaten)
        assert beaten["watching"] is True
        assert (await send(held, b"first\n")).json()["watching"] is True

    assert poll.reply.status_code == 204


async def test_who_may_not_read_jobs_reads_no_log(server: Hub) -> None:
    held = await running(server)
    await send(held, b"private\n")
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as guest:
        for path in (f"{JOBS}/j/log", "/log?id=j", "/log/events?id=j"):
            reply = await guest.get(path)
            assert "private" not in reply.text
            assert reply.status_code in {302, 303, 307, 401}, path
        refuses(await server.http.get(f"{JOBS}/none/log"), 404)


async def test_an_id_that_ends_like_the_route_is_a_job(server: Hub) -> None:
    await server.submit({"id": "a/log", **CI})

    job = (await server.http.get(f"{JOBS}/a%2Flog")).json()

    assert job["id"] == "a/log"
    refuses(await server.http.get(f"{JOBS}/a/log"), 404)


async def test_the_page_shows_a_hostile_log_as_text(server: Hub) -> None:
    held = await running(server)
    await send(held, HOSTILE)
    async with httpx.AsyncClient(
        base_url=server.url, verify=NO_TLS, follow_redirects=True, timeout=60
    ) as owner:
        token = server.headers["authorization"].removeprefix("Bearer ")
        page = await login(owner, token, "/jobs/j")
        whole = await owner.get("/log?id=j")

    assert page.status_code == 200
    log = page.text.partition('<pre id="log"')[2].partition("</pre>")[0]
    assert '<span class="f2">green</span>' in log
    assert '<span class="b f1">red</span>' in log
    assert "<script" not in log
    assert "<img" not in log
    assert "&lt;script&gt;" in log
    assert "\\x1b]0;title\\x07" in log
    assert "progress 100%" in log
    assert "progress 1%" not in log
    assert not any(character in log for character in "\x1b\x00\x07")
    assert whole.content == HOSTILE
    assert whole.headers["content-disposition"].startswith("attachment")
    assert whole.headers["x-content-type-options"] == "nosniff"


async def followed(server: Hub) -> AsyncIterator[str]:
    """Yield the lines of the stream of job `j`'s log, as its page gets them."""
    token = server.headers["authorization"].removeprefix("Bearer ")
    async with httpx.AsyncClient(
        base_url=server.url, verify=NO_TLS, timeout=60
    ) as owner:
        await login(owner, token)
        async with owner.stream("GET", "/log/events?id=j&from=1-0-") as events:
            async for line in events.aiter_lines():
                yield line


async def test_a_page_follows_the_log_to_its_end(server: Hub) -> None:
    held = await running(server)
    await send(held, b"one\n")
    lines: list[str] = []
    async for line in followed(server):
        lines.append(line)
        if line.startswith("data:") and "one" in line:
            await send(held, b"\x1b[31mtwo\n", 4)
        if line.startswith("data:") and "two" in line:
            await send(held, b"end", 13, whole=b"one\n\x1b[31mtwo\nend")
            await held.finish()
    data = [
        json.loads(line.removeprefix("data: "))
        for line in lines
        if line.startswith("data: ")
    ]
    assert data == [
        '<i id="L1" data-n="1"></i>one\n',
        '<i id="L2" data-n="2"></i><span class="f1">two</span>\n',
        '<i id="L3" data-n="3"></i><span class="f1">end</span>',
    ]
    assert "event: end" in lines


async def test_a_stream_ends_with_its_job(server: Hub) -> None:
    held = await running(server)
    await send(held, b"one\n")
    await held.finish()
    lines: list[str] = []
    async for line in followed(server):
        lines.append(line)
        if line.startswith("data:") and "one" in line:
            gone = await server.http.post("/api/v1/prune", json={"days": 0})
            assert gone.json()["removed"]
            await advance(60)
    assert "event: end" not in lines


async def test_the_command_follows_all_attempts(server: HubHere) -> None:
    held = await running(server)
    await send(
        held, b"first \x1b[31mtry\x1b[0m\x07\n", whole=b"first \x1b[31mtry\x1b[0m\x07\n"
    )
    options = ("--config", str(server.folder / "hub.toml"))

    shown = await command("hub", "logs", "j", *options)
    assert shown.stdout == "first \x1b[31mtry\x1b[0m\\x07\n"

    ended = {}
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            ended["f"] = await command("hub", "logs", "-f", "j", *options)

        tasks.start_soon(follow)
        await send(held, b"second\n", attempt=2)
        await send(held, b"", 7, attempt=2, whole=b"second\n")
        await held.finish("failed")
    assert ended["f"].returncode == 1
    assert ended["f"].stdout == "first \x1b[31mtry\x1b[0m\\x07\nsecond\n"
    assert ended["f"].stderr == "dispatchd: attempt 2 of job j:\n"


async def test_a_page_in_place_of_a_log_is_no_log(
    server: HubHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running(server)
    monkeypatch.setenv("DISPATCHD_HUB_TOKEN", admin_token(server))
    login_page = Fault(page=b"<html>Sign in</html>")
    async with front(server.url) as between:
        between.decide = lambda path: login_page if "/log?" in path else None
        done = await command("hub", "logs", "j", "--url", between.url)

    assert done.returncode == 69
    assert done.stdout == ""
    assert "cannot show the log of j: " in done.stderr
    assert "a login page?" in done.stderr


async def test_logs_are_removed_when_they_are_old(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub", more="[logs]\ndays = 2") as server:
        held = await running(server)
        await send(held, b"old\n")
        store, now = server.context.logs, server.context.now()

        assert store.prune(before=now - 2 * 86_400) == 0
        assert store.prune(before=now + 1) == 1

        assert (await log_of(server)).content == b""
        assert not store.files.of_job("j").exists()
        assert await stored(await send(held, b"new\n")) == 4


async def test_a_folder_in_trouble_keeps_only_its_own_log(server: HubHere) -> None:
    for job_id in ("a", "b"):
        await send(await running(server, job_id), b"text\n")
    store = server.context.logs
    folder = store.files.of_job("a")
    [file] = folder.iterdir()
    file.unlink()
    file.mkdir()

    assert (await log_of(server, "a")).content == b""
    assert (await log_of(server, "b")).content == b"text\n"
    assert store.prune(before=server.context.now() + 60) == 1
    file.rmdir()
    folder.rmdir()
    folder.touch()
    assert (await log_of(server, "a")).headers["log-parts"] == "0"
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as owner:
        await login(owner, admin_token(server))
        assert (await owner.get("/jobs/a")).status_code == 200
    assert "logs_not_read" in server.log_file.read_text()


async def test_logs_are_part_of_a_backup(tmp_path: Path) -> None:
    large = os.urandom(3 << 20)
    async with hub(tmp_path / "hub") as server:
        held = await running(server)
        for offset in range(0, len(large), 1 << 19):
            await send(held, large[offset : offset + (1 << 19)], offset)
        await send(held, b"", len(large), whole=large)
        await send(held, b"", attempt=2, whole=b"")
        await held.finish()
        options = ("--config", str(server.folder / "hub.toml"))
        await command("hub", "backup", str(tmp_path / "b"), *options)
        bare = str(tmp_path / "bare")
        await command("hub", "backup", "--without-logs", bare, *options)
    await command("hub", "init", str(tmp_path / "new"), *ANY_PORT)
    options = ("--config", str(tmp_path / "new/hub.toml"))
    await command("hub", "restore", str(tmp_path / "b"), *options)

    old, new = tmp_path / "hub/logs", tmp_path / "new/logs"
    logs = [path.relative_to(old) for path in sorted(old.glob("*/*/*.*"))]
    assert len(logs) == 4
    assert [path.relative_to(new) for path in sorted(new.glob("*/*/*.*"))] == logs
    for path in logs:
        assert (new / path).read_bytes() == (old / path).read_bytes()
        assert (new / path).stat().st_mode & 0o077 == 0
    assert (tmp_path / "bare").stat().st_size < 1 << 20


async def test_one_log_that_cannot_be_read_keeps_no_backup_from_being_made(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub") as server:
        held = await running(server)
        for attempt in (1, 2):
            await send(held, b"", attempt=attempt, whole=b"text")
        logs = [*(server.folder / "logs").glob("*/*/*.log")]
        first, second = sorted(logs)
        first.unlink()
        # Fails for root too.
        first.symlink_to(first)
        options = ("--config", str(server.folder / "hub.toml"))
        done = await command("hub", "backup", str(tmp_path / "b"), *options)
    await command("hub", "init", str(tmp_path / "new"), *ANY_PORT)
    options = ("--config", str(tmp_path / "new/hub.toml"))
    restored = await command("hub", "restore", str(tmp_path / "b"), *options)

    assert done.returncode == os.EX_IOERR
    assert f"b lacks {first}: Too many levels" in done.stderr
    assert "rows" in done.stdout
    assert restored.returncode == 0, restored.stderr
    found = [*(tmp_path / "new/logs").glob("*/*/*.log")]
    assert [path.name for path in found] == [second.name]


@pytest.mark.parametrize("state", [State.FAILED])
async def test_a_machine_without_logs_leaves_the_end_of_the_output(
    server: HubHere, state: State
) -> None:
    await server.submit({"id": "j", **CI})
    machine = Machine(http=server.http, extensions=("claim", "heartbeat", "report"))
    held = await machine.pull()
    assert "log" not in held.job["extensions"]
    await held.accept()
    await machine.call(
        "finish",
        "j",
        claim_token=held.token,
        result_status=state.value,
        result_summary="No.",
        result_output="the end\n",
    )

    shown = await command(
        "hub", "logs", "j", "--config", str(server.folder / "hub.toml")
    )

    assert shown.stdout == "the end\n\n"


async def test_the_log_of_an_attempt_that_was_cut_off_does_not_hide_the_next_one(
    server: HubHere,
) -> None:
    held = await running(server)
    await send(held, b"one\n")
    [file] = (server.folder / "logs").glob("*/*/*.log")
    await send(held, b"two\n", attempt=2)
    assert (await log_of(server, part=1, offset=4)).headers["log-complete"] == "0"

    os.utime(file, (0, 0))

    reply = await log_of(server, part=1, offset=4, wait=60)
    assert reply.headers["log-complete"] == "1"
    assert (await log_of(server, part=2)).headers["log-complete"] == "0"


async def test_a_logout_ends_a_log_that_grows(server: Hub) -> None:
    held = await running(server)
    await send(held, b"line\n")
    token = server.headers["authorization"].removeprefix("Bearer ")
    async with httpx.AsyncClient(
        base_url=server.url, verify=NO_TLS, timeout=60
    ) as owner:
        await login(owner, token)
        form = {"form_token": form_token(await owner.get("/"))}
        seen = 0
        async with owner.stream("GET", "/log/events?id=j&from=1-0-") as events:
            async for line in events.aiter_lines():
                if line.startswith("data:"):
                    seen += 1
                    assert seen < 20, "it is still shown"
                    if seen == 1:
                        await owner.post("/logout", data=form)
                    await send(held, b"line\n", 5 * seen)
