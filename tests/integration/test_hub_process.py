"""The hub as a process: stops, kills, a full disk, its keys, its command line."""

import os
import resource
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dispatchd.contracts import check
from support.endpoint import SECRET
from support.hub import hub
from support.machine import JOBS, Machine, held_poll

CI = {"dag_name": "ci"}


async def test_held_polls_and_watches_are_answered_at_a_stop(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        await server.submit({"id": "j", **CI})
        await Machine(http=server.http).pull()
        watched: list[dict[str, Any]] = []

        async def watch() -> None:
            watched.append((await server.http.get(f"{JOBS}/j?wait=60")).json())

        with anyio.fail_after(10):
            async with (
                anyio.create_task_group() as tasks,
                held_poll(Machine(http=server.http)) as poll,
                held_poll(Machine(http=server.http, name="m2")) as other,
            ):
                tasks.start_soon(watch)
                await server.http.get(JOBS)
                code = await to_thread.run_sync(server.stop)

        assert [each.reply.status_code for each in (poll, other)] == [204, 204]
        assert watched[0]["state"] == "claimed"
        assert code == 0


async def test_a_killed_hub_has_kept_everything_that_it_acknowledged(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path) as server:
        machine = Machine(http=server.http)
        ids = [await server.submit(CI, payload='{"a": 1.50}') for _ in range(4)]
        claimed, accepted, finished = [await machine.pull() for _ in range(3)]
        for held in (accepted, finished):
            await held.accept()
        await finished.finish("failed", "No.")
        before = (await server.http.get(JOBS)).json()

        server.kill()
        await server.start()

        after = (await server.http.get(JOBS)).json()
        assert after == before
        assert [job["id"] for job in after["jobs"]] == ids
        states = [job["state"] for job in after["jobs"]]
        assert states == ["claimed", "accepted", "finished", "queued"]
        assert (await claimed.accept()).status_code == 204
        assert (await accepted.finish()).status_code == 204
        assert (await finished.finish("failed")).status_code == 204
        assert '"payload": {"a": 1.50}' in (await machine.pull()).text


async def test_kills_under_load_lose_no_acknowledged_job(tmp_path: Path) -> None:
    acknowledged: set[str] = set()

    async with hub(tmp_path) as server:

        async def submit_for_ever(enough: anyio.Event, wanted: int) -> None:
            while True:
                reply = await server.http.post(JOBS, json=CI)
                acknowledged.add(reply.json()["id"])
                if len(acknowledged) >= wanted:
                    enough.set()

        async def submit_until_the_hub_dies(enough: anyio.Event, wanted: int) -> None:
            with suppress(httpx.TransportError):
                await submit_for_ever(enough, wanted)

        for wanted in (50, 87, 140, 171, 230):
            enough = anyio.Event()
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    for _ in range(4):
                        tasks.start_soon(submit_until_the_hub_dies, enough, wanted)
                    await enough.wait()
                    server.kill()
            await server.start()

        listed = (await server.http.get(JOBS, params={"limit": "1000"})).json()
        assert acknowledged <= {job["id"] for job in listed["jobs"]}


async def test_a_full_disk_is_a_503_and_nothing_is_half_done(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        machine = Machine(http=server.http)
        await server.submit({"id": "j", **CI})
        held = await machine.pull()
        await server.submit({"id": "queued", **CI})
        pid, most = server.process.pid, resource.RLIM_INFINITY

        # A limit on the size of files is to SQLite what a full disk is.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, most))
        refused = [
            await server.http.post(JOBS, json=CI),
            await machine.ask(),
            await machine.ask(wait="5"),
            await held.accept(),
            await held.finish(),
        ]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

        assert [each.status_code for each in refused] == [503] * len(refused)
        assert {each.headers["retry-after"] for each in refused} == {"1"}
        assert all(each.json()["message"] for each in refused)
        listed = (await server.http.get(JOBS)).json()["jobs"]
        assert [job["state"] for job in listed] == ["claimed", "queued"]
        assert (await held.accept()).status_code == 204
        assert (await machine.pull()).id == "queued"


async def test_a_client_that_leaves_in_the_middle_is_no_failure(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n{"
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            await stream.send(head)

        assert (await server.http.get(JOBS)).json() == {"jobs": []}
        assert server.stop() == 0
        assert "Traceback" not in (server.folder / "hub.log").read_text()


async def test_licenses_are_activated_and_refreshed(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:

        async def activate(key: str) -> httpx.Response:
            body = {"key": key, "server_id": "m1", "machine_name": "box"}
            return await server.http.post("/api/v1/licenses/activate", json=body)

        async def refresh(secret: str) -> httpx.Response:
            body = {"license_id": "lic-test", "server_id": "m1"}
            body["heartbeat_secret"] = secret
            return await server.http.post("/api/v1/licenses/heartbeat", json=body)

        activated = (await activate("license-key-1")).json()
        server.kill()
        await server.start()
        refreshed = (await refresh(activated["heartbeat_secret"])).json()

        check("activate-reply", activated)
        check("license-heartbeat-reply", refreshed)
        assert activated["heartbeat_secret"] == SECRET
        for token in (activated["token"], refreshed["token"]):
            assert claims(server.folder / "hub.db", token)["jti"] == "lic-test"
        for refused in (await activate("other"), await refresh("other")):
            assert refused.status_code == 401
            assert refused.json()["message"]


def claims(database: Path, token: str) -> dict[str, Any]:
    """Return what a token says, once its signature has been checked with the hub's own key."""
    with closing(sqlite3.connect(database)) as db:
        (pem,) = db.execute("SELECT value FROM secrets").fetchone()
    key = load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    found: dict[str, Any] = jwt.decode(token, key.public_key(), algorithms=["EdDSA"])
    return found


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--port", "{taken}"], os.EX_UNAVAILABLE, "{taken}"),
        (["--host", "192.0.2.1"], os.EX_UNAVAILABLE, "192.0.2.1"),
        (["--db", "page.html"], os.EX_UNAVAILABLE, "page.html"),
        (["--db", "secret/hub.db"], os.EX_UNAVAILABLE, "secret/hub.db"),
        (["--secret-file", "missing"], os.EX_USAGE, "missing"),
        (["--secret-file", "empty"], os.EX_USAGE, "empty"),
        (["--license-key-file", "empty"], os.EX_USAGE, "empty"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_hub_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    (tmp_path / "page.html").write_text("<html>" * 1000)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [each.replace("{taken}", port) for each in options]
        found = serve(tmp_path, "dispatchd", *given)

    complaint = found.stderr.splitlines()[-1]
    assert found.returncode == code, found.stderr
    assert complaint.startswith("dispatchd: cannot ")
    assert words.replace("{taken}", port) in complaint
    assert "Traceback" not in found.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    # As Python behaves where Starlette is not installed.
    program = "import sys; sys.modules['starlette'] = None; from dispatchd.cli.entry import main; main()"

    found = serve(tmp_path, program)

    assert found.returncode == os.EX_UNAVAILABLE
    assert "dispatchd[hub]" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_listening_beyond_loopback_is_warned_of(tmp_path: Path) -> None:
    found = serve(tmp_path, "dispatchd", "--host", "0.0.0.0", stop_when_ready=True)

    assert found.returncode == 0
    assert "0.0.0.0" in found.stderr
    assert found.stdout.startswith("hub ready http://0.0.0.0:")


def serve(
    folder: Path, program: str, *options: str, stop_when_ready: bool = False
) -> subprocess.CompletedProcess[str]:
    (folder / "secret").write_text("s")
    (folder / "empty").write_text("")
    start = ["-m", program] if program == "dispatchd" else ["-c", program]
    defaults = ["--db", "hub.db", "--port", "0", "--secret-file", "secret"]
    with subprocess.Popen(
        [sys.executable, *start, "hub", "serve", *defaults, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline() if stop_when_ready else ""
        if ready:
            process.terminate()
        stdout, stderr = process.communicate(timeout=30)
    return subprocess.CompletedProcess(
        process.args, process.returncode, ready + stdout, stderr
    )
