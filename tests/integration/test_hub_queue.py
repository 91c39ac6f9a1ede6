"""Which job goes out next, to whom, and what takes one out of the queue, on a real hub."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from attrs import evolve
from sqlalchemy import delete, select

from dispatchd.hub.config.load import FILE, load
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.schema import MARKS, TEXTS
from support.clock import advance, within
from support.daemon import running_daemon, write_config
from support.hub import Hub, HubHere, hub
from support.machine import JOBS, Machine, held_poll, refuses, row
from support.until import until

HOUR_S, DAY_S = 3600.0, 86_400.0
CI = {"dag_name": "ci"}
PUSHED = {
    "dag_name": "ci",
    "event_name": "pull_request",
    "repository_name": "o/r",
    "pull_request_number": 7,
}


async def order(machine: Machine) -> list[str]:
    """Return the ids of all that is queued, in the order in which it goes out."""
    found = []
    while (reply := await machine.ask()).status_code == 200:
        found.append(reply.json()["id"])
    return found


async def test_a_higher_priority_goes_first_then_age(
    server: Hub, machine: Machine
) -> None:
    for job_id, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", None)]:
        await server.submit({"id": job_id, "priority": priority, **CI})

    assert await order(machine) == ["b", "d", "a", "e", "c"]


async def test_repositories_take_turns(server: Hub, machine: Machine) -> None:
    for number in range(5):
        await server.submit({"id": f"many-{number}", "repository_name": "o/many", **CI})
    await server.submit({"id": "few-0", "repository_name": "o/few", **CI})
    first = (await machine.pull()).id
    await server.submit({"id": "late-0", "repository_name": "o/late", **CI})
    await server.submit({"id": "few-1", "repository_name": "o/few", **CI})

    assert [first, *await order(machine)] == [
        *("many-0", "few-0", "late-0"),
        *("many-1", "few-1"),
        *("many-2", "many-3", "many-4"),
    ]


async def test_a_machine_that_takes_no_jobs_is_woken_by_cancel_jobs_alone(
    server: Hub,
) -> None:
    machine = Machine(http=server.http, name="m1", workflows=["ci"])
    full = evolve(machine, workflows=[])
    await server.submit({"id": "j", "dag_name": "ci"})
    held = await machine.pull()
    await held.accept()
    with within(20):
        async with held_poll(full) as poll:
            await server.submit({"id": "more", "dag_name": "ci"})
            await server.submit({"id": "c", "command": "cancel", "dag_run_id": "j"})
    listed = (await server.http.get("/api/v1/machines")).json()["machines"]

    assert "capabilities" in held.job["extensions"]
    assert poll.reply.json()["id"] == "c"
    assert (await full.ask()).status_code == 204
    # To have no room is not to have no workflows.
    assert [each["workflows"] for each in listed if each["name"] == "m1"] == [["ci"]]


async def test_a_machine_is_offered_only_what_it_declares(
    server: Hub, machine: Machine
) -> None:
    for name in ("ci", "deploy", "docs"):
        await server.submit({"id": name, "dag_name": name})
    await server.submit({"id": "stop", "command": "cancel", "dag_run_id": "other"})

    deployer = Machine(http=server.http, name="m2", workflows=["deploy", "gpu"])
    nothing = Machine(http=server.http, name="m3", workflows=[])

    assert await order(nothing) == ["stop"]
    assert await order(deployer) == ["deploy"]
    assert await order(machine) == ["ci", "docs"]
    listed = (await server.http.get("/api/v1/machines")).json()["machines"]
    declared = {each["name"]: each["workflows"] for each in listed}
    assert declared["m2"] == ["deploy", "gpu"]
    assert declared["m1"] is None


async def test_only_a_poll_that_can_use_a_job_is_woken(server: Hub) -> None:
    other = Machine(http=server.http, name="m2", workflows=["docs"])
    machine = Machine(http=server.http, workflows=["ci"])
    with within(20):
        async with held_poll(other) as waits:
            async with held_poll(machine) as poll:
                await server.submit({"id": "j", **CI})
            await server.submit({"id": "k", "dag_name": "docs"})

    assert poll.reply.json()["id"] == "j"
    assert waits.reply.json()["id"] == "k"


async def test_a_real_daemon_declares_its_workflows(
    server: Hub, tmp_path: Path
) -> None:
    await server.submit({"id": "other", "dag_name": "not-here"})
    await server.submit({"id": "mine", "dag_name": "it"})
    config = write_config(
        tmp_path, server.url, {"it": ["/bin/true"]}, cloud="declare_workflows = true"
    )

    async with running_daemon(config):
        assert (await server.result("mine"))["state"] == "succeeded"

    assert (await row(server, "other"))["state"] == "queued"


async def test_a_daemon_whose_list_of_workflows_is_too_long_gets_its_jobs_without_it(
    server: Hub, tmp_path: Path
) -> None:
    await server.submit({"id": "mine", "dag_name": "it"})
    others = {f"{number}-{'x' * 1000}": ["/bin/true"] for number in range(70)}
    config = write_config(
        tmp_path,
        server.url,
        {"it": ["/bin/true"], **others},
        cloud="declare_workflows = true",
    )

    async with running_daemon(config):
        assert (await server.result("mine"))["state"] == "succeeded"


async def test_a_newer_commit_takes_older_queued_jobs_of_its_pull_request_out(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "running", "sha": "1" * 40, **PUSHED})
    held = await machine.pull()
    await server.submit({"id": "old", "sha": "2" * 40, **PUSHED})
    others: dict[str, dict[str, Any]] = {
        "other-pull-request": {"pull_request_number": 8},
        "other-repository": {"repository_name": "o/other"},
        "other-workflow": {"dag_name": "docs"},
        "comment": {"event_name": "issue_comment"},
        "other-rule": {"binding_id": "rule-2"},
    }
    for name, fields in others.items():
        await server.submit({"id": name, "sha": "2" * 40, **PUSHED, **fields})
    await server.submit({"id": "same", "sha": "2" * 40, **PUSHED, "supersede": False})

    await server.submit({"id": "new", "sha": "3" * 40, **PUSHED})

    for name in ("old", "same"):
        found = await row(server, name)
        assert found["state"] == "superseded"
        assert "new" in found["result_summary"]
    assert set(await order(machine)) == {"new", *others}
    assert (await held.finish()).status_code == 204


async def test_superseding_can_be_turned_off(tmp_path: Path) -> None:
    async with hub(tmp_path, more="[queue]\nsupersede = false") as server:
        for number in (1, 2):
            await server.submit({"id": f"j{number}", "sha": str(number) * 40, **PUSHED})

        assert await order(Machine(http=server.http)) == ["j1", "j2"]


async def until_state(server: Hub, job_id: str, state: str) -> None:
    """Return once a job has reached a state, waiting by real time."""

    async def has_it() -> bool:
        return bool((await row(server, job_id))["state"] == state)

    await until(has_it)


async def test_a_job_that_nobody_finishes_fails_after_some_leases(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "j", **CI})
    first = await machine.pull()

    for _ in range(3):
        await advance(server.lease_s)
        with within(20):
            await machine.pull(wait="20")
    await advance(server.lease_s)
    await until_state(server, "j", "failed")

    found = await row(server, "j")
    assert found["result_cause"] == "lease-expired"
    assert "4 times" in found["result_summary"]
    assert "m1" in found["result_summary"]
    outcomes = [each["outcome"] for each in found["attempts"]]
    assert outcomes == ["expired"] * 3 + ["failed"]
    refuses(await first.finish(), 410)


async def test_an_accepted_job_of_a_silent_machine_goes_to_another_one(
    each_server: Hub,
) -> None:
    server = each_server
    await server.submit({"id": "j", **CI})
    silent = await Machine(http=server.http).pull()
    await silent.accept()
    await silent.beat("running")

    await advance(server.lease_s + server.patience_s)
    with within(20):
        taken = await Machine(http=server.http, name="m2").pull(wait="20")

    assert taken.id == "j"
    for stale in (silent.accept(), silent.finish(), silent.beat()):
        refuses(await stale, 409)
    await taken.accept()
    assert (await taken.finish()).status_code == 204
    found = await row(server, "j")
    assert [each["outcome"] for each in found["attempts"]] == ["expired", "succeeded"]


@pytest.mark.parametrize("call", ["accept", "beat", "finish"])
async def test_a_machine_that_is_late_keeps_its_job_until_another_one_has_it(
    server: Hub, machine: Machine, call: str
) -> None:
    await server.submit({"id": "j", **CI})
    late = await machine.pull()
    await late.accept()
    await late.beat("accepted")
    await advance(server.lease_s + server.patience_s)
    await until_state(server, "j", "queued")

    assert (await getattr(late, call)()).is_success

    found = await row(server, "j")
    states = {"accept": "accepted", "beat": "running", "finish": "succeeded"}
    assert found["state"] == states[call]
    assert (await Machine(http=server.http, name="m2").ask()).status_code == 204


async def test_a_machine_without_heartbeats_has_more_time(
    server: Hub, machine: Machine
) -> None:
    for job_id in ("quiet", "beating"):
        await server.submit({"id": job_id, **CI})
    quiet, beating = await machine.pull(), await machine.pull()
    for held in (quiet, beating):
        await held.accept()
    await beating.beat("accepted")

    await advance(server.lease_s + server.patience_s)
    await until_state(server, "beating", "queued")
    kept = (await row(server, "quiet"))["state"]
    await advance(server.unheard_s)
    await until_state(server, "quiet", "queued")

    assert kept == "accepted"


async def test_of_a_machine_that_was_revoked_nothing_is_waited_for(
    each_server: Hub,
) -> None:
    server = each_server
    await server.submit({"id": "j", **CI})
    gone = await Machine(http=server.http).pull()
    await gone.accept()
    await server.submit({"id": "stop", "command": "cancel", "dag_run_id": "other"})
    reply = await server.http.post("/api/v1/machines/m1/revoke")
    assert reply.status_code == 200

    await advance(server.lease_s + server.patience_s)
    await until_state(server, "j", "queued")

    other = Machine(http=server.http, name="m2")
    assert {await order_of_one(other) for _ in range(2)} == {"stop", "j"}


async def order_of_one(machine: Machine) -> str:
    return (await machine.pull()).id


async def test_heartbeats_say_how_a_job_stands(server: Hub, machine: Machine) -> None:
    await server.submit({"id": "j", **CI})
    held = await machine.pull()
    await held.accept()
    seen = []

    for phase in ("accepted", "running", "retry_wait", "needs_attention", "finishing"):
        await held.beat(phase)
        seen.append((await row(server, "j"))["state"])

    assert seen == ["accepted", "running", "running", "needs_attention", "running"]


async def test_a_cancel_job_goes_to_the_machine_that_has_the_run(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "target", **CI})
    held = await machine.pull()
    await held.accept("run-7")

    await server.submit({"id": "stop", "command": "cancel", "dag_run_id": "run-7"})

    assert await order(Machine(http=server.http, name="m2")) == []
    assert await order(machine) == ["stop"]


async def test_an_owner_cancels_and_submits_again(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "held", **CI}, payload='{"a": 1.50}')
    held = await machine.pull()
    await server.submit({"id": "queued", "priority": 3, **CI})

    async def ask(job_id: str, what: str) -> Any:
        return await server.http.post(f"{JOBS}/{job_id}/{what}")

    refuses(await ask("held", "requeue"), 409)
    assert (await ask("queued", "cancel")).json()["state"] == "aborted"
    assert (await ask("held", "cancel")).json()["cancel_requested"] is True
    assert (await held.beat()).json()["cancel_requested"] is True
    await held.finish("aborted")
    refuses(await ask("held", "cancel"), 410)
    first = (await ask("held", "requeue?new_id=held-2")).json()["id"]
    again = (await ask("held", "requeue?new_id=held-2")).json()["id"]
    refuses(await ask("held", "requeue?new_id=queued"), 409)
    refuses(await ask("held", "requeue?new_id=" + "x" * 513), 422)
    refuses(await ask("unknown", "requeue"), 404)
    refuses(await ask("unknown", "cancel"), 404)

    assert first == again == "held-2"
    repeated = await machine.pull()
    assert repeated.id == again
    assert '"payload": {"a": 1.50}' in repeated.text
    assert (await row(server, "held"))["state"] == "aborted"


async def test_a_requeue_under_the_id_of_a_job_that_is_no_requeue_of_it_is_refused(
    server: Hub, machine: Machine
) -> None:
    same = {"dag_name": "ci", "repository_name": "o/r"}

    async def ended(job_id: str, **other: str) -> None:
        await server.submit({"id": job_id, **same, **other})
        held = await machine.pull()
        await held.accept()
        await held.finish("failed")

    async def requeue(job_id: str, new_id: str) -> httpx.Response:
        query = {"new_id": new_id}
        return await server.http.post(f"{JOBS}/{job_id}/requeue", params=query)

    for job_id in ("first", "second", "third"):
        await ended(job_id)

    for taken in ("first", "second", "third"):
        assert taken in refuses(await requeue("second", taken), 409)
    assert await order(machine) == []

    made = await requeue("second", "again")
    assert (made.status_code, made.json()) == (201, {"id": "again"})
    refuses(await requeue("first", "again"), 409)
    held = await machine.pull()
    await held.accept()
    await held.finish("failed")
    # Its answer was lost.
    repeated = await requeue("second", "again")
    assert (repeated.status_code, repeated.json()) == (201, {"id": "again"})
    refuses(await requeue("again", "again"), 409)
    assert (await requeue("again", "once more")).status_code == 201
    assert await order(machine) == ["once more"]


async def test_the_origin_of_a_requeued_job_goes_with_it(
    server: Hub, machine: Machine
) -> None:
    await server.submit({"id": "old", **CI})
    for job_id in ("old", "new"):
        held = await machine.pull()
        await held.accept()
        await held.finish("failed")
        if job_id == "old":
            await server.http.post(f"{JOBS}/old/requeue?new_id=new")
    database = Database.open(load(server.folder / FILE).database_url)
    of_new = select(MARKS.c.value).where(MARKS.c.name.contains("new"))

    def noted() -> list[str]:
        with database.snapshot() as db:
            return list(db.execute(of_new).scalars())

    before = noted()
    pruned = await server.http.post("/api/v1/prune", json={"days": 0})

    assert before == ["old"]
    assert pruned.json() == {"removed": 2}
    assert noted() == []
    database.close()


async def test_deliveries_are_kept_and_can_be_made_again(
    server: Hub, machine: Machine
) -> None:
    event = {"event_name": "push", "delivery_id": "d-1", "installation_id": 5}
    await server.submit({"id": "j", "repository_name": "o/r", **event, **CI}, "[1.50]")
    await server.submit({"id": "without", **CI})

    [kept] = (await server.http.get("/api/v1/deliveries")).json()["deliveries"]
    again = await server.http.post("/api/v1/deliveries/d-1/redeliver")
    refuses(await server.http.post("/api/v1/deliveries/d-2/redeliver"), 404)

    assert (kept["id"], kept["event"], kept["installation"]) == ("d-1", "push", 5)
    assert (kept["repository"], kept["job_ids"]) == ("o/r", ["j"])
    assert (kept["state"], kept["routing"]) == ("queued", "workflow ci")
    assert len(kept["payload_hash"]) == 64
    [after] = (await server.http.get("/api/v1/deliveries")).json()["deliveries"]
    assert after["state"] == "redelivered"
    assert after["job_ids"] == again.json()["ids"] == [again.json()["id"]]
    assert set(await order(machine)) == {"j", "without", *after["job_ids"]}


async def test_a_full_queue_takes_no_more_and_says_when_to_come_again(
    tmp_path: Path,
) -> None:
    more = "[queue]\nmost = 2"
    async with hub(tmp_path, more=more) as server:
        for _ in range(2):
            await server.submit(CI)

        full = await server.http.post(JOBS, json=CI)
        cancel = {"command": "cancel", "dag_run_id": "x"}
        urgent = await server.http.post(JOBS, json=cancel)

        assert "queue.most" in refuses(full, 503)
        assert full.headers["retry-after"] == "10"
        assert urgent.status_code == 201
        held = await Machine(http=server.http).pull()
        await Machine(http=server.http).pull()
        assert held.job["command"] == "cancel"
        assert (await server.http.post(JOBS, json=CI)).status_code == 201


async def test_pruning_forgets_what_ended_and_nothing_else(
    server: Hub, machine: Machine
) -> None:
    for job_id in ("done", "held", "queued"):
        await server.submit({"id": job_id, "delivery_id": f"d-{job_id}", **CI})
    done, _ = await machine.pull(), await machine.pull()
    await done.finish()

    nothing = (await server.http.post("/api/v1/prune", json={"days": 1})).json()
    removed = (await server.http.post("/api/v1/prune", json={"days": 0})).json()

    assert nothing == {"removed": 0}
    # The job, and three deliveries.
    assert removed == {"removed": 4}
    listed = (await server.http.get(JOBS)).json()["jobs"]
    assert [each["id"] for each in listed] == ["held", "queued"]


async def test_nothing_is_pruned_before_an_hour_in_which_the_clock_was_right(
    tmp_path: Path,
) -> None:
    more = "[retention]\ndays = 1"
    async with hub(tmp_path / "hub", more=more) as server:

        def postponed() -> int:
            return server.log_file.read_text().count("pruning_postponed")

        async def status() -> int:
            return (await server.http.get(f"{JOBS}/done")).status_code

        async def is_gone() -> bool:
            return await status() == 404

        await server.submit({"id": "done", **CI})
        await (await Machine(http=server.http).pull()).finish()
        server.time.wall_set_by_s += 60 * DAY_S
        await advance(HOUR_S + 1)
        await until(lambda: postponed() == 1)
        server.time.wall_set_by_s -= 60 * DAY_S
        await advance(HOUR_S + 1)
        await until(lambda: postponed() == 2)
        assert await status() == 200

        await advance(DAY_S)

        await until(is_gone)


async def test_what_waits_is_limited_in_bytes_too(
    tmp_path: Path, database_url: str
) -> None:
    more = "[queue]\nmost_mib = 1"
    async with hub(tmp_path / "hub", database_url=database_url, more=more) as server:
        machine = Machine(http=server.http)
        half = f'"{"ü" * 300_000}"'

        async def submit(payload: str) -> int:
            body = f'{{"dag_name": "ci", "payload": {payload}}}'
            reply = await server.http.post(JOBS, content=body.encode())
            if reply.status_code == 503:
                assert "queue.most_mib = 1" in reply.json()["message"]
                assert reply.headers["retry-after"] == "10"
            return reply.status_code

        # One by itself may always wait.
        assert await submit(f'"{"x" * (2 << 20)}"') == 201
        assert await submit("null") == 503
        await (await machine.pull()).finish()
        # 600,000 bytes each, as they are written.
        assert await submit(half) == 201
        assert await submit(half) == 503
        assert await submit("null") == 201
        cancel = {"command": "cancel", "dag_run_id": "none"}
        assert (await server.http.post(JOBS, json=cancel)).status_code == 201
        held = await machine.pull()
        if held.job.get("command") == "cancel":
            held = await machine.pull()
        # What is given back waits again.
        assert await submit(half) == 201
        assert (await held.release()).status_code in {200, 204}
        assert await submit(half) == 503


async def test_all_who_ask_at_the_same_time_whether_it_is_ready_get_one_answer(
    server: Hub,
) -> None:
    replies: list[int] = []

    async def ask(answered: anyio.Event) -> None:
        replies.append((await server.http.get("/readyz")).status_code)
        answered.set()

    with closing(sqlite3.connect(server.folder / "hub.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            answered = anyio.Event()
            for _ in range(20):
                tasks.start_soon(ask, answered)
            await answered.wait()
            other.rollback()

    # Each one by itself would have met a database that is free again.
    assert replies == [503] * 20
    assert (await server.http.get("/readyz")).status_code == 200


async def test_the_hub_says_how_it_is(server: HubHere, machine: Machine) -> None:
    await server.submit({"id": "j", **CI})
    await server.submit({"id": "k", **CI})
    await machine.pull()

    health, ready = [await server.http.get(f"/{n}") for n in ("healthz", "readyz")]
    async with held_poll(Machine(http=server.http, name="m2", workflows=["x"])) as poll:
        text = (await server.http.get("/metrics")).text
        await server.stop()

    assert (health.status_code, ready.status_code) == (200, 200)
    assert poll.reply.status_code == 204
    for line in (
        'dispatchd_hub_jobs{state="claimed"} 1.0',
        'dispatchd_hub_jobs{state="queued"} 1.0',
        'dispatchd_hub_answers_total{call="pull",status="200"} 1.0',
        'dispatchd_hub_machines{state="active"} 2.0',
        'dispatchd_hub_machines{state="away"} 9.0',
        "dispatchd_hub_held_polls 1.0",
    ):
        assert line in text.splitlines()


async def test_a_submitted_job_that_poses_as_a_command_waits_for_no_github(
    server: Hub, machine: Machine
) -> None:
    posing = {"event_name": "issue_comment", "binding_id": "b", "comment_id": 1}
    await server.submit({"id": "j", **posing, **CI})
    await server.http.post(f"{JOBS}/j/cancel")

    again = await server.http.post(f"{JOBS}/j/requeue")

    assert (await machine.pull()).id == again.json()["id"]


async def refused_redelivery(server: Hub) -> dict[str, Any]:
    """Return the refusal of a redelivery; fail if something has changed by it."""
    shown = (await server.http.get("/api/v1/deliveries")).json()
    reply = await server.http.post("/api/v1/deliveries/d-1/redeliver")

    assert (await server.http.get("/api/v1/deliveries")).json() == shown
    queued = (await server.http.get(f"{JOBS}?state=queued")).json()["jobs"]
    assert [job["id"] for job in queued] == ["waits"]
    return {"status": reply.status_code, **reply.json()}


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[HubHere]:
    """A hub with room for one more job than waits, and a delivery with two that have ended."""
    async with hub(tmp_path / "hub", more="[queue]\nmost = 2\n") as server:
        machine = Machine(http=server.http)
        for job_id in ("one", "two"):
            await server.submit({"id": job_id, "delivery_id": "d-1", **CI})
            held = await machine.pull()
            await held.accept()
            await held.finish("failed")
        await server.submit({"id": "waits", **CI})
        yield server


async def test_a_delivery_for_which_there_is_no_room_is_not_redelivered_in_part(
    narrow: HubHere,
) -> None:
    refused = await refused_redelivery(narrow)

    assert refused["status"] == 503
    await Machine(http=narrow.http).pull()
    reply = await narrow.http.post("/api/v1/deliveries/d-1/redeliver")
    assert reply.status_code == 201
    [delivery] = (await narrow.http.get("/api/v1/deliveries")).json()["deliveries"]
    assert delivery["state"] == "redelivered"
    assert delivery["job_ids"] == reply.json()["ids"]
    assert len(delivery["job_ids"]) == 2


async def test_a_delivery_with_a_payload_that_is_gone_is_not_redelivered_in_part(
    narrow: HubHere,
) -> None:
    database = Database.open(load(narrow.folder / FILE).database_url)
    with database.transaction() as db:
        db.execute(delete(TEXTS).where(TEXTS.c.id == "two"))
    database.close()

    refused = await refused_redelivery(narrow)

    assert (refused["status"], "two" in refused["message"]) == (410, True)
