"""The hub as a process: stops, kills, a full disk, its keys, its command line."""

import os
import resource
import socket
import sqlite3
import stat
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

from dispatchd.hub.init import init
from dispatchd.hub.storage.database import Database
from dispatchd.protocol.contracts import check
from support.cli import dispatchd
from support.hub import Hub, HubHere
from support.hub_process import hub as hub_process
from support.machine import JOBS, Machine, held_poll, refuses

CI = {"dag_name": "ci"}


FEW, MANY = (20, 41), (50, 87, 140, 171, 230)
"""How many jobs have been taken in at each kill (count)."""


async def test_held_polls_and_watches_are_answered_at_a_stop(
    tmp_path: Path, database_url: str
) -> None:
    async with hub_process(tmp_path, database_url=database_url) as server:
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
    tmp_path: Path, database_url: str
) -> None:
    async with hub_process(tmp_path, database_url=database_url) as server:
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
        assert states == ["claimed", "accepted", "failed", "queued"]
        assert (await claimed.accept()).status_code == 204
        assert (await accepted.finish()).status_code == 204
        assert (await finished.finish("failed")).status_code == 204
        assert '"payload": {"a": 1.50}' in (await machine.pull()).text


@pytest.mark.parametrize(
    "kills", [FEW, pytest.param(MANY, marks=pytest.mark.torture)], ids=["few", "many"]
)
async def test_kills_under_load_lose_no_acknowledged_job(
    tmp_path: Path, database_url: str, kills: tuple[int, ...]
) -> None:
    acknowledged: set[str] = set()

    async with hub_process(tmp_path, database_url=database_url) as server:

        async def submit_for_ever(enough: anyio.Event, wanted: int) -> None:
            while True:
                reply = await server.http.post(JOBS, json=CI)
                acknowledged.add(reply.json()["id"])
                if len(acknowledged) >= wanted:
                    enough.set()

        async def submit_until_the_hub_dies(enough: anyio.Event, wanted: int) -> None:
            with suppress(httpx.TransportError):
                await submit_for_ever(enough, wanted)

        for wanted in kills:
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
    async with hub_process(tmp_path) as server:
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


async def test_a_client_that_leaves_in_the_middle_is_no_failure(
    capfd: pytest.CaptureFixture[str], server: HubHere
) -> None:
    head = (
        f"POST {JOBS} HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n"
        f"Authorization: {server.headers['authorization']}\r\n\r\n{{"
    )
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send(head.encode())

    assert (await server.http.get(JOBS)).json() == {"jobs": []}
    await server.stop()
    assert "Traceback" not in server.log_file.read_text() + capfd.readouterr().err


async def test_a_machine_is_enrolled_once_and_its_token_refreshed(
    server: Hub,
) -> None:
    added = await add_machine(server, "build-1")
    activated = (await activate(server, added["enrolment_key"])).json()
    again = (await activate(server, added["enrolment_key"])).json()
    secret = again["heartbeat_secret"]
    refreshed = (await refresh(server, secret)).json()
    enrolled = Machine(http=server.http, name="box-7", secret=secret)
    assert (await enrolled.ask()).status_code == 204

    check("activate-reply", activated)
    check("license-heartbeat-reply", refreshed)
    for token in (activated["token"], refreshed["token"]):
        claims = jwt.decode(token, added["public_key"], algorithms=["EdDSA"])
        assert claims["jti"] == "lic-test"
    # A lost answer may be asked for again, until the machine has been here.
    for refused in (
        await activate(server, added["enrolment_key"]),
        await activate(server, "other"),
        await refresh(server, activated["heartbeat_secret"]),
        await refresh(server, "other"),
    ):
        refuses(refused, 401)


async def test_an_enrolment_key_is_for_one_machine_and_a_name_for_one_too(
    server: Hub,
) -> None:
    first, second = [await add_machine(server, f"build-{n}") for n in (1, 2)]
    assert (await activate(server, first["enrolment_key"])).status_code == 200

    refuses(await activate(server, first["enrolment_key"], "box-8"), 401)
    refuses(await activate(server, second["enrolment_key"], "box-7"), 409)
    reply = await server.http.post("/api/v1/machines", json={"name": "build-1"})
    refuses(reply, 409)


async def test_a_rotated_key_takes_the_place_of_the_secret_once_it_is_activated(
    server: Hub,
) -> None:
    added = await add_machine(server, "build-1")
    before = (await activate(server, added["enrolment_key"])).json()
    rotated = (await server.http.post("/api/v1/machines/build-1/rotate")).json()
    old = Machine(http=server.http, name="box-7", secret=before["heartbeat_secret"])
    assert (await old.ask()).status_code == 204

    refuses(await activate(server, added["enrolment_key"]), 401)
    after = (await activate(server, rotated["enrolment_key"])).json()

    refuses(await old.ask(), 401)
    new = Machine(http=server.http, name="box-7", secret=after["heartbeat_secret"])
    assert (await new.ask()).status_code == 204


async def test_a_revoked_machine_is_out_at_every_call(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", **CI})
    held = await machine.pull()
    await server.submit({"id": "k", **CI})
    before = (await server.http.get(f"{JOBS}/j")).json()

    reply = await server.http.post("/api/v1/machines/m1/revoke")

    assert reply.json()["state"] == "revoked"
    refuses(await machine.ask(), 410)
    for call in (held.accept(), held.finish(), held.beat(), held.release()):
        refuses(await call, 401)
    assert (await server.http.get(f"{JOBS}/j")).json() == before
    rotate = await server.http.post("/api/v1/machines/m1/rotate")
    refuses(rotate, 409)


async def add_machine(server: Hub, name: str) -> dict[str, Any]:
    reply = await server.http.post("/api/v1/machines", json={"name": name})
    assert reply.status_code == 201, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def activate(server: Hub, key: str, server_id: str = "box-7") -> httpx.Response:
    body = {"key": key, "server_id": server_id, "machine_name": "box"}
    return await server.http.post("/api/v1/licenses/activate", json=body)


async def refresh(server: Hub, secret: str) -> httpx.Response:
    body = {"license_id": "lic-test", "server_id": "box-7"}
    body["heartbeat_secret"] = secret
    return await server.http.post("/api/v1/licenses/heartbeat", json=body)


WRONG = [
    ("missing.toml", None, os.EX_CONFIG, "hub init"),
    ("bad.toml", "[[[", os.EX_CONFIG, "must be TOML"),
    ("key.toml", "listn = 'x'", os.EX_CONFIG, "listn"),
    ("type.toml", "[leases]\nseconds = '1'", os.EX_CONFIG, "leases.seconds"),
    ("taken.toml", 'listen = "127.0.0.1:{taken}"', os.EX_UNAVAILABLE, "{taken}"),
    ("host.toml", 'listen = "192.0.2.1:0"', os.EX_UNAVAILABLE, "192.0.2.1"),
    ("page.toml", 'database_url = "sqlite:///page.html"', os.EX_UNAVAILABLE, "page.html"),
    ("in.toml", 'database_url = "sqlite:///page.html/x"', os.EX_UNAVAILABLE, "page.html"),
    ("other.toml", 'database_url = "mysql://x/y"', os.EX_CONFIG, "database_url"),
    ("gone.toml", 'database_url = "postgresql://u:pass@127.0.0.1:1/x"', os.EX_UNAVAILABLE, "127.0.0.1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "code", "words"), WRONG, ids=[each[0] for each in WRONG]
)
def test_a_hub_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, name: str, text: str | None, code: int, words: str
) -> None:
    (tmp_path / "page.html").write_text("<html>" * 1000)
    Database.open(f"sqlite:///{tmp_path / 'hub.db'}").close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        if text is not None:
            (tmp_path / name).write_text(text.replace("{taken}", port))
        found = dispatchd("hub", "serve", "--config", str(tmp_path / name))

    [complaint] = found.stderr.splitlines()
    assert found.returncode == code, found.stderr
    assert complaint.startswith("dispatchd: ")
    assert words.replace("{taken}", port) in complaint
    assert "pass" not in complaint


def test_a_database_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    made = init(
        tmp_path / "hub",
        listen="127.0.0.1:0",
        database_url="sqlite:///hub.db",
        license_id="l",
    )
    with closing(sqlite3.connect(tmp_path / "hub" / "hub.db")) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()

    found = dispatchd("hub", "serve", "--config", str(made.settings.file))

    assert found.returncode == os.EX_UNAVAILABLE
    [complaint] = found.stderr.splitlines()
    assert "newer release" in complaint


def test_init_makes_no_second_hub_over_the_first(tmp_path: Path) -> None:
    first, second = [dispatchd("hub", "init", str(tmp_path / "hub")) for _ in range(2)]

    assert first.returncode == 0, first.stderr
    assert "hub serve --config" in first.stdout
    for name in ("hub.toml", "admin-token"):
        mode = (tmp_path / "hub" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    assert second.returncode == os.EX_USAGE
    assert "is there already" in second.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "hub.toml").touch()
    # As Python behaves where Starlette is not installed.
    program = "import sys; sys.modules['starlette'] = None; from dispatchd.cli.main import main; main()"
    config = str(tmp_path / "hub.toml")

    found = subprocess.run(
        [sys.executable, "-c", program, "hub", "serve", "--config", config],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert found.returncode == os.EX_UNAVAILABLE
    assert "wheel with [hub]" in found.stderr
    assert len(found.stderr.splitlines()) == 1
