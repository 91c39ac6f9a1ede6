"""The hub as a process: many callers, held polls, leases, cancels, kills, a full disk, its command line."""

import os
import resource
import socket
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dispatchd.contracts import check
from support.endpoint import SECRET
from support.hub import HubProcess, hub
from support.machine import Machine

JOBS = "/api/v1/jobs"
CI = {"dag_name": "ci"}


async def row(server: HubProcess, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await server.http.get(f"{JOBS}/{job_id}")).json()
    return found


async def test_no_job_goes_to_two_machines(tmp_path: Path) -> None:
    taken: list[str] = []

    async with hub(tmp_path) as server:
        ids = [await server.submit(CI) for _ in range(200)]

        async def take(name: str) -> None:
            machine = Machine(http=server.http, name=name)
            while (reply := await machine.ask()).status_code == 200:
                taken.append(reply.json()["id"])

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(take, f"m{number}")

    assert Counter(taken) == Counter(ids)


async def test_a_held_poll_is_woken_by_a_submit_and_by_a_release(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path) as server:
        first, second = (Machine(http=server.http, name=name) for name in "ab")
        with anyio.fail_after(20):
            async with held_poll(first) as poll:
                await server.submit({"id": "j", **CI})
            held = poll.brought()
            async with held_poll(second) as poll:
                await held.release()

        assert poll.reply.json()["id"] == "j"
        assert poll.reply.json()["claim_token"] != held.token


async def test_a_machine_that_hung_up_is_given_nothing(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        for _ in range(20):
            with anyio.move_on_after(0.05):
                await Machine(http=server.http, name="gone").ask(wait="60")
            await server.submit(CI)

            assert (await Machine(http=server.http).pull()).job["claimed_by"] == "m1"


async def test_held_polls_are_answered_at_a_stop(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        await server.submit({"id": "j", **CI})
        await Machine(http=server.http).pull()
        with anyio.fail_after(10):
            async with (
                held_poll(Machine(http=server.http)) as poll,
                held_poll(Machine(http=server.http, name="m2")) as other,
            ):
                code = await anyio.to_thread.run_sync(server.stop)

        assert [each.reply.status_code for each in (poll, other)] == [204, 204]
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

        async def submit_for_ever() -> None:
            while True:
                reply = await server.http.post(JOBS, json=CI)
                acknowledged.add(reply.json()["id"])

        async def submit_until_the_hub_dies() -> None:
            with pytest.raises(httpx.TransportError):
                await submit_for_ever()

        for kill in range(1, 6):
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    for _ in range(4):
                        tasks.start_soon(submit_until_the_hub_dies)
                    while len(acknowledged) < kill * 37:
                        await anyio.sleep(0.001)
                    server.kill()
            await server.start()

        listed = (await server.http.get(JOBS, params={"limit": "1000"})).json()
        assert acknowledged <= {job["id"] for job in listed["jobs"]}


async def test_a_claim_that_nobody_accepts_is_handed_out_again(tmp_path: Path) -> None:
    async with hub(tmp_path, lease_s=0.4) as server:
        await server.submit({"id": "j", **CI})
        first = await Machine(http=server.http).pull()

        with anyio.fail_after(10):
            again = await Machine(http=server.http, name="m2").pull(wait="30")

        for stale in (first.accept(), first.finish(), first.beat(), first.release()):
            assert (await stale).status_code == 409
        assert (await again.accept()).status_code == 204
        assert (await row(server, "j"))["deliveries"] == 2


async def test_a_late_result_is_taken_until_the_job_is_handed_out_again(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path, lease_s=0.2) as server:
        machine = Machine(http=server.http)
        await server.submit({"id": "a", **CI})
        await server.submit({"id": "b", **CI})
        first, second = await machine.pull(), await machine.pull()

        # The lease of both is over then; only the older one is handed out again.
        again = await Machine(http=server.http, name="m2").pull(wait="30")

        assert again.id == "a"
        assert (await first.finish("rejected")).status_code == 409
        assert (await second.finish("rejected")).status_code == 204
        assert (await row(server, "b"))["result_status"] == "rejected"


async def test_an_accepted_job_stays_with_its_machine(tmp_path: Path) -> None:
    async with hub(tmp_path, lease_s=0.3) as server:
        await server.submit({"id": "j", **CI})
        held = await Machine(http=server.http).pull()
        await held.accept()
        in_time = (await row(server, "j"))["lease_expired"]

        nothing = await Machine(http=server.http, name="m2").ask(wait="1")
        late = (await row(server, "j"))["lease_expired"]
        await held.beat()
        beaten = (await row(server, "j"))["lease_expired"]

        assert nothing.status_code == 204
        assert (in_time, late, beaten) == (False, True, False)
        assert (await held.finish()).status_code == 204


async def test_an_accept_and_a_heartbeat_extend_the_lease(tmp_path: Path) -> None:
    async with hub(tmp_path, lease_s=1) as server:
        machine, other = (Machine(http=server.http, name=name) for name in "ab")
        await server.submit({"id": "j", **CI})
        held = await machine.pull()
        for _ in range(3):
            assert (await other.ask(wait="1")).status_code == 204 or True
            break
        await held.beat()
        assert (await held.accept()).status_code == 204


async def test_cancel_closes_a_queued_job_at_once(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        target = {"repository_name": "o/r", "pull_request_number": 7, **CI}
        await server.submit({"id": "other", **target, "pull_request_number": 8})
        await server.submit({"id": "target", **target})

        await server.submit({"id": "stop", **target, "command": "cancel"})

        found = await row(server, "target")
        assert (found["state"], found["result_status"]) == ("finished", "aborted")
        machine = Machine(http=server.http)
        assert [(await machine.pull()).id for _ in range(2)] == ["stop", "other"]
        assert (await machine.ask()).status_code == 204


async def test_cancel_reaches_a_running_job_through_its_heartbeat(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path) as server:
        machine = Machine(http=server.http)
        for name in ("target", "other"):
            await server.submit({"id": name, **CI})
        target, other = await machine.pull(), await machine.pull()
        await target.accept("run-7")
        await other.accept("run-8")

        await server.submit({"command": "cancel", "dag_run_id": "run-7"})

        replies = [await target.beat(), await other.beat()]
        for reply in replies:
            check("heartbeat-reply", reply.json())
        assert [r.json()["cancel_requested"] for r in replies] == [True, False]
        assert (await target.finish("aborted")).status_code == 204


async def test_cancel_reaches_the_oldest_of_many_jobs(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        await server.submit({"id": "oldest", **CI})
        async with anyio.create_task_group() as tasks:
            for _ in range(1100):
                tasks.start_soon(server.submit, {"dag_name": "other"})

        await server.submit({"command": "cancel", **CI})

        assert (await row(server, "oldest"))["result_status"] == "aborted"


async def test_a_full_disk_is_a_503_and_nothing_is_half_done(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        machine = Machine(http=server.http)
        await server.submit({"id": "j", **CI})
        held = await machine.pull()
        await server.submit({"id": "queued", **CI})
        pid, unlimited = server.process.pid, resource.RLIM_INFINITY

        # A limit on the size of files is to SQLite what a full disk is.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, unlimited))
        refused = [
            await server.http.post(JOBS, json=CI),
            await machine.ask(),
            await machine.ask(wait="5"),
            await held.accept(),
            await held.finish(),
        ]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))

        assert [each.status_code for each in refused] == [503] * len(refused)
        assert {each.headers["retry-after"] for each in refused} == {"1"}
        assert all(each.json()["message"] for each in refused)
        listed = (await server.http.get(JOBS)).json()["jobs"]
        assert [job["state"] for job in listed] == ["claimed", "queued"]
        assert (await held.accept()).status_code == 204
        assert (await machine.pull()).id == "queued"


async def test_licenses_are_activated_and_refreshed(tmp_path: Path) -> None:
    async with hub(tmp_path) as server:
        identity = {"license_id": "lic-test", "server_id": "m1"}

        async def activate(key: str) -> httpx.Response:
            body = {"key": key, "server_id": "m1", "machine_name": "box"}
            return await server.http.post("/api/v1/licenses/activate", json=body)

        async def refresh(secret: str) -> httpx.Response:
            body = {**identity, "heartbeat_secret": secret}
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


def test_the_command_line_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "empty").write_text("")
    (tmp_path / "page.html").write_text("<html>" * 1000)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        assert refused(tmp_path, "--port", port) == (os.EX_UNAVAILABLE, port)
    assert refused(tmp_path, "--host", "nowhere.invalid")[0] == os.EX_UNAVAILABLE
    assert refused(tmp_path, "--db", "page.html")[0] == os.EX_UNAVAILABLE
    assert refused(tmp_path, "--secret-file", "missing")[0] == os.EX_USAGE
    assert refused(tmp_path, "--secret-file", "empty")[0] == os.EX_USAGE


def refused(folder: Path, *options: str) -> tuple[int, str]:
    raise NotImplementedError


def claims(database: Path, token: str) -> dict[str, Any]:
    """Return what a token says, once its signature has been checked with the hub's own key."""
    with sqlite3.connect(database) as db:
        (pem,) = db.execute("SELECT value FROM secrets").fetchone()
    db.close()
    key = load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    found: dict[str, Any] = jwt.decode(token, key.public_key(), algorithms=["EdDSA"])
    return found
