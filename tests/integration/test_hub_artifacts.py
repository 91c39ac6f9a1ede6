"""Artifacts at the hub: lists and chunks from machines, who gets at them, limits, retention, backup."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatchd.protocol.contracts import check
from dispatchd.protocol.uploads.artifacts import ArtifactChunk
from support.cli import command
from support.front import Fault, front
from support.hub import ANY_PORT, NO_TLS, Hub, HubHere, hub
from support.hub_page import admin_token, login
from support.machine import JOBS, PATH, PROOF, Held, Machine, refuses

CI = {"dag_name": "ci"}
ODD = "reports/<b>&amp;%00%2e%2e \N{RIGHT-TO-LEFT OVERRIDE}\N{BLACK SUN WITH RAYS}.html"


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def artifact(path: str, content: bytes, **more: Any) -> dict[str, Any]:
    fields = {"path": path, "size": len(content), "sha256": digest(content)}
    return {**fields, **more}


async def running(server: Hub, job_id: str = "j", **fields: Any) -> Held:
    await server.submit({"id": job_id, **CI, **fields})
    held = await Machine(http=server.http).pull()
    await held.accept()
    return held


async def send_list(
    held: Held, *files: dict[str, Any], attempt: int = 1, **more: Any
) -> httpx.Response:
    fields = {"attempt": attempt, "files": [*files], **more}
    return await held.machine.call("artifacts", held.id, **fields)


async def wanted(held: Held, *files: dict[str, Any], **more: Any) -> list[Any]:
    reply = await send_list(held, *files, **more)
    assert reply.status_code == 200, reply.text
    check("artifacts-reply", reply.json())
    answers: list[Any] = reply.json()["files"]
    return answers


async def send(
    held: Held, content: bytes, offset: int = 0, part: bytes | None = None, **more: Any
) -> httpx.Response:
    data = content[offset:] if part is None else part
    chunk = ArtifactChunk(file=digest(content), offset=offset, data=data)
    return await held.machine.call("artifact", held.id, **{**chunk.to_wire(), **more})


async def stored(reply: httpx.Response) -> tuple[int, bool]:
    assert reply.status_code == 200, reply.text
    check("artifact-reply", reply.json())
    return reply.json()["offset"], reply.json()["whole"]


async def listed(server: Hub, job_id: str = "j") -> list[dict[str, Any]]:
    reply = await server.http.get(f"{JOBS}/{job_id}/artifacts")
    assert reply.status_code == 200, reply.text
    rows: list[dict[str, Any]] = reply.json()["artifacts"]
    for row in rows:
        check("hub-artifact", row)
    return rows


async def states(server: Hub, job_id: str = "j") -> dict[str, str]:
    return {row["path"]: row["state"] for row in await listed(server, job_id)}


async def download(server: Hub, path: str, job_id: str = "j") -> httpx.Response:
    return await server.http.get(f"{JOBS}/{job_id}/artifact", params={"path": path})


def files_in(server: Hub) -> list[str]:
    folder = server.folder / "artifacts"
    return sorted(path.name for path in folder.glob("[0-9a-f][0-9a-f]/*"))


async def test_a_file_comes_in_parts_and_continues_where_it_ends(
    each_server: Hub,
) -> None:
    server = each_server
    held = await running(server)
    assert "artifacts" in held.job["extensions"]
    content = b"one two three"
    files = artifact("a/b.txt", content), artifact("empty", b"")

    assert await wanted(held, *files) == [{"offset": 0, "whole": False}] * 2
    assert await stored(await send(held, content, 0, b"one ")) == (4, False)
    assert await stored(await send(held, content, 8, b"three")) == (4, False)
    assert await stored(await send(held, content, 0, b"one t")) == (5, False)
    assert await stored(await send(held, content, 0, b"")) == (5, False)
    assert (await wanted(held, *files))[0] == {"offset": 5, "whole": False}
    assert await states(server) == {"a/b.txt": "waiting", "empty": "waiting"}
    refuses(await download(server, "a/b.txt"), 404)
    for _ in range(2):
        assert await stored(await send(held, content, 5)) == (13, True)
    assert await stored(await send(held, b"", 0)) == (0, True)
    assert await wanted(held, *files) == [
        {"offset": 13, "whole": True},
        {"offset": 0, "whole": True},
    ]

    assert set((await states(server)).values()) == {"stored"}
    reply = await download(server, "a/b.txt")
    assert reply.content == content
    part = await server.http.get(
        f"{JOBS}/j/artifact", params={"path": "a/b.txt", "offset": 4, "limit": 3}
    )
    assert (part.content, part.headers["artifact-size"]) == (b"two", "13")
    assert (await download(server, "empty")).content == b""


async def test_bytes_that_lie_are_never_stored(server: Hub) -> None:
    held = await running(server)
    content = b"what was announced"
    await wanted(held, artifact("a", content))
    other = b"x" * len(content)

    assert await stored(await send(held, content, 0, other)) == (0, False)
    assert files_in(server) == []
    for wrong in (
        {"sha256": "0" * 64},
        {"length": 3},
        {"data": "?"},
        {"length": -1},
        {"file_sha256": "A" * 64},
        {"length": 1 << 21},
    ):
        refuses(await send(held, content, part=content, **wrong), 422)
    refuses(await send(held, content, 5, content), 404)
    refuses(await send(held, b"not listed"), 404)
    assert await stored(await send(held, content)) == (len(content), True)
    assert (await download(server, "a")).content == content


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "..", "a/../../b", "a//b", "a\nb", "a\x7f", "a\0", ".", "", "a/"],
)
async def test_a_path_that_leads_elsewhere_is_refused(server: Hub, path: str) -> None:
    held = await running(server)
    refuses(await send_list(held, artifact(path, b"x")), 422)
    assert await listed(server) == []


async def test_a_list_has_its_limits(server: Hub) -> None:
    held = await running(server)
    refuses(await send_list(held, artifact("a" * 1025, b"x")), 422)
    refuses(await send_list(held, artifact("a", b"x"), artifact("a", b"y")), 422)
    many = [artifact(f"f{number}", b"x") for number in range(1001)]
    refuses(await send_list(held, *many), 422)
    half = {**PROOF, "attempt": 1, "files": [artifact("\ud800", b"x")]}
    url = f"{PATH}/j/artifacts"
    refuses(await server.http.post(url, content=json.dumps(half)), 422)
    long = [artifact(f"{number:04}{'☀' * 1020}", b"x") for number in range(1000)]
    assert len(await wanted(held, *long)) == 1000


async def test_only_a_machine_that_has_had_the_job_sends_and_hashes_prove_nothing(
    server: Hub,
) -> None:
    secret = os.urandom(1000)
    held = await running(server)
    await wanted(held, artifact("s", secret))
    await send(held, secret)
    other = Machine(http=server.http, name="m2")
    call = {"attempt": 1, "files": [artifact("s", secret)]}
    refuses(await other.call("artifacts", "j", **call), 404)
    refuses(await held.machine.call("artifacts", "none", **call), 404)
    refuses(await send(held, secret, secret="wrong"), 401)
    await held.finish()

    await server.submit({"id": "k", **CI})
    taken = await other.pull()
    await taken.accept()
    # It knows the hash alone, so it has to bring the bytes.
    assert await wanted(taken, artifact("s", secret)) == [{"offset": 0, "whole": False}]
    refuses(await download(server, "s", "k"), 404)
    await send(taken, secret)
    assert (await download(server, "s", "k")).content == secret
    assert files_in(server) == [digest(secret)]
    # The machine that has brought it doesn't bring it again.
    await server.submit({"id": "l", **CI})
    third = await held.machine.pull()
    assert await wanted(third, artifact("t", secret)) == [
        {"offset": 1000, "whole": True}
    ]


async def test_the_newest_attempt_has_the_list(server: Hub) -> None:
    held = await running(server)
    await wanted(held, artifact("a", b"one"), attempt=2)
    refuses(await send_list(held, artifact("b", b"two"), attempt=1), 409)
    assert await states(server) == {"a": "waiting"}
    await wanted(held, attempt=3)
    assert await states(server) == {}
    refuses(await send(held, b"one"), 404)


async def test_the_newest_claim_has_the_list_whoever_is_late(server: Hub) -> None:
    await server.submit({"id": "j", **CI})
    first = await Machine(http=server.http).pull()
    await wanted(first, artifact("of-first", b"one"), attempt=7)
    await first.release()
    second = await Machine(http=server.http, name="m2").pull()
    await second.accept()

    await wanted(second, artifact("of-second", b"two"))

    refuses(await send_list(first, artifact("of-first", b"one"), attempt=8), 409)
    refuses(await send(first, b"one"), 404)
    refuses(await send(first, b"two"), 404)
    await send(second, b"two")
    assert await states(server) == {"of-second": "stored"}


async def test_what_is_too_large_is_refused_by_name_and_the_job_ends(
    tmp_path: Path,
) -> None:
    limits = "[artifacts]\njob_mib = 2\nfile_mib = 1"
    async with hub(tmp_path / "hub", more=limits) as server:
        held = await running(server)
        large = artifact("large", b"", size=(1 << 20) + 1)
        files = [artifact(name, b"x", size=1 << 20) for name in "abc"]

        answers = await wanted(held, large, *files, artifact("small", b"x"))

        refused = [answer.get("refused", "") for answer in answers]
        assert "artifacts.file_mib" in refused[0]
        assert refused[1:3] == ["", ""]
        assert "artifacts.job_mib" in refused[3]
        rows = await listed(server)
        assert rows[0]["state"] == "refused"
        assert rows[0]["reason"] == refused[0]
        refuses(await send(held, b"", file_sha256=large["sha256"]), 404)
        assert (await held.finish()).status_code == 204
    async with hub(tmp_path / "none", more="[artifacts]\njob_mib = 0") as server:
        assert "artifacts" not in (await running(server)).job["extensions"]


async def test_who_may_not_read_jobs_reads_no_artifact(server: Hub) -> None:
    held = await running(server)
    await wanted(held, artifact("a", b"private"))
    await send(held, b"private")
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as guest:
        for path in (
            f"{JOBS}/j/artifacts",
            f"{JOBS}/j/artifact?path=a",
            "/artifact?id=j&path=a",
        ):
            reply = await guest.get(path)
            assert "private" not in reply.text
            assert digest(b"private") not in reply.text
            assert reply.status_code in {302, 303, 307, 401}, path
    refuses(await server.http.get(f"{JOBS}/none/artifacts"), 404)
    refuses(await download(server, "../a"), 404)
    await server.submit({"id": "a/artifact", **CI})
    assert (await server.http.get(f"{JOBS}/a%2Fartifact")).json()["id"] == "a/artifact"


async def test_the_page_lists_them_and_no_browser_shows_them(server: Hub) -> None:
    held = await running(server, from_fork=True)
    html = b"<script>alert(document.cookie)</script>"
    await wanted(held, artifact(ODD, html), artifact("later", b"x"))
    await send(held, html)
    async with httpx.AsyncClient(
        base_url=server.url, verify=NO_TLS, follow_redirects=True, timeout=60
    ) as owner:
        page = await login(owner, admin_token(server), "/jobs/j")
        file = await owner.get("/artifact", params={"id": "j", "path": ODD})

    table = page.text.partition('id="artifacts-title"')[2].partition("</section>")[0]
    assert "&lt;b&gt;" in table
    assert "<b>" not in table
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in table
    assert "code from a fork" in table
    assert "its machine has not sent it yet" in table
    assert digest(html)[:12] in table
    assert file.content == html
    assert file.headers["content-type"] == "application/octet-stream"
    assert file.headers["content-disposition"].startswith("attachment; filename*=")
    assert file.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert file.headers["x-content-type-options"] == "nosniff"


async def test_they_go_when_they_are_old_and_nobody_needs_them(
    each_server: HubHere,
) -> None:
    server = each_server
    first, last = await running(server, "j"), await running(server, "k")
    for held in (first, last):
        await wanted(held, artifact("shared", b"shared"), artifact(held.id, b"x"))
        await send(held, b"shared")
        await held.finish()
    store, now = server.context.artifacts, server.context.now()

    assert store.remove_unused(now=now + 10_000) == 0
    await wanted(last, artifact("shared", b"shared"))
    store.prune(before=now - 60)
    assert files_in(server) == [digest(b"shared")]
    store.prune(before=server.context.now() + 1)
    assert store.remove_unused(now=now + 60) == 0
    assert store.remove_unused(now=now + 10_000) == 1
    assert files_in(server) == []
    assert await listed(server) == []
    assert await stored_again(last) == (6, True)


async def stored_again(held: Held) -> tuple[int, bool]:
    await wanted(held, artifact("shared", b"shared"))
    return await stored(await send(held, b"shared"))


async def test_they_go_with_their_job(each_server: HubHere) -> None:
    held = await running(each_server)
    await wanted(held, artifact("a", b"one"))
    await send(held, b"one")
    await held.finish()

    reply = await each_server.http.post("/api/v1/prune", json={"days": 0})

    assert reply.status_code == 200, reply.text
    store = each_server.context.artifacts
    assert store.of_job("j") == []
    assert store.remove_unused(now=each_server.context.now() + 10_000) == 1


async def test_a_folder_in_trouble_stops_nothing_else(server: HubHere) -> None:
    held = await running(server)
    await wanted(held, artifact("a", b"one"), artifact("b", b"two"))
    await send(held, b"one")
    folder = server.folder / "artifacts"
    folder.rename(server.folder / "aside")
    folder.touch()

    for reply in (
        await send(held, b"two"),
        await send_list(held, artifact("c", b"three")),
    ):
        refuses(reply, 503)
        assert reply.headers["retry-after"] == "30"
    assert await states(server) == {"a": "missing", "b": "waiting"}
    refuses(await download(server, "a"), 404)
    assert server.context.artifacts.remove_unused(now=1e12) == 0
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as owner:
        await login(owner, admin_token(server))
        assert (await owner.get("/jobs/j")).status_code == 200
    assert "artifacts_not_stored" in server.log_file.read_text()
    assert (await held.finish()).status_code == 204
    folder.unlink()
    (server.folder / "aside").rename(folder)
    assert await stored(await send(held, b"two")) == (3, True)


async def test_they_are_part_of_a_backup(tmp_path: Path) -> None:
    large = os.urandom(3 << 20)
    async with hub(tmp_path / "hub") as server:
        held = await running(server)
        await wanted(held, artifact("large", large), artifact("never", b"sent"))
        for offset in range(0, len(large), 1 << 19):
            await send(held, large, offset, large[offset : offset + (1 << 19)])
        await held.finish()
        options = ("--config", str(server.folder / "hub.toml"))
        whole, bare = str(tmp_path / "b"), str(tmp_path / "bare")
        assert (await command("hub", "backup", whole, *options)).returncode == 0
        await command("hub", "backup", "--without-artifacts", bare, *options)
    for file, state in ((whole, "stored"), (bare, "missing")):
        folder = tmp_path / f"new-{state}"
        await command("hub", "init", str(folder), *ANY_PORT)
        options = ("--config", str(folder / "hub.toml"))
        done = await command("hub", "restore", file, *options)
        assert done.returncode == 0, done.stderr
        async with hub(folder) as server:
            server.headers["authorization"] = f"Bearer {admin_token(server)}"
            reply = await server.http.get(f"{JOBS}/j/artifacts", headers=server.headers)
            assert [each["state"] for each in reply.json()["artifacts"]] == [
                state,
                "waiting",
            ]
    copied = tmp_path / "new-stored/artifacts" / digest(large)[:2] / digest(large)
    assert copied.read_bytes() == large
    assert copied.stat().st_mode & 0o077 == 0


async def test_the_command_stays_in_its_folder_and_checks_what_comes(
    server: HubHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await running(server, from_fork=True)
    await wanted(held, artifact("d/a", b"text"), artifact("d/late", b"late"))
    await send(held, b"text")
    options = ("--config", str(server.folder / "hub.toml"))
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (out / "d").symlink_to(outside)

    linked = await command("hub", "artifacts", "j", "-y", "-o", str(out), *options)
    assert linked.returncode == 64, linked.stderr
    assert not [*outside.iterdir()]
    (out / "d").unlink()
    done = await command("hub", "artifacts", "j", "-o", str(out), *options)
    assert done.returncode == 1
    assert "no d/late: its machine has not sent it yet" in done.stderr
    assert (out / "d/a").read_text() == "text"
    (out / "d/a").unlink()
    (out / "d/a").symlink_to(outside / "target")
    refused = await command("hub", "artifacts", "j", "-o", str(out), *options)
    assert (refused.returncode, "say --yes" in refused.stderr) == (64, True)
    await command("hub", "artifacts", "j", "-y", "-o", str(out), *options)
    assert not (out / "d/a").is_symlink()
    assert not [*outside.iterdir()]
    table = await command("hub", "artifacts", "j", *options)
    assert "the job ran code from a fork" in table.stderr

    monkeypatch.setenv("DISPATCHD_HUB_TOKEN", admin_token(server))
    (out / "d/a").unlink()
    evil = [{**row, "path": "../evil"} for row in await listed(server)]
    for fault, path, said in (
        (Fault(page=b"<html>Sign in</html>"), "/artifact?", "login page?"),
        (
            Fault(
                page=json.dumps({"artifacts": evil}).encode(),
                content_type="application/json",
            ),
            "/artifacts",
            "",
        ),
    ):
        async with front(server.url) as between:
            between.decide = lambda asked: fault if path in asked else None  # noqa: B023
            done = await command(
                "hub", "artifacts", "j", "-o", str(out), "--url", between.url
            )
        assert done.returncode == 69, done.stderr
        assert said in done.stderr
    assert not [each for each in out.rglob("*") if each.is_file()]
