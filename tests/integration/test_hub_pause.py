"""Pause and resume of the hub's dispatch."""

from dispatchd.hub.config.load import FILE
from support.cli import command
from support.hub import Hub
from support.machine import Machine, held_poll, row

CI = {"dag_name": "ci"}


async def test_a_paused_hub_hands_out_cancel_jobs_alone_until_it_is_resumed(
    each_server: Hub,
) -> None:
    server = each_server
    machine = Machine(http=server.http)
    await server.submit({"id": "running", **CI})
    running = await machine.pull()
    await running.accept()

    paused = await server.http.post("/api/v1/dispatch/pause", json={"reason": "Move."})

    assert paused.json() == (await server.http.get("/api/v1/dispatch")).json()
    assert (paused.json()["paused"], paused.json()["reason"]) == (True, "Move.")
    await server.submit({"id": "waiting", **CI})
    assert (await machine.ask()).status_code == 204
    await server.submit({"id": "stop", "command": "cancel", "dag_run_id": "running"})
    assert (await machine.pull()).id == "stop"
    assert (await running.finish("aborted")).status_code == 204
    async with held_poll(machine) as poll:
        resumed = await server.http.post("/api/v1/dispatch/resume")
    assert resumed.json() == {"paused": False}
    assert poll.reply.json()["id"] == "waiting"


async def test_the_owner_pauses_and_resumes_by_commands_and_sees_it(
    server: Hub, machine: Machine
) -> None:
    config = ("--config", str(server.folder / FILE))

    said = await command("hub", "pause", "--reason", "Look <first>", *config)

    assert (said.returncode, said.stdout) == (0, "dispatch is paused\n"), said.stderr
    await server.submit({"id": "j", **CI})
    assert (await machine.ask()).status_code == 204
    metrics = (await server.http.get("/metrics")).text
    assert "dispatchd_hub_paused 1.0" in metrics
    said = await command("hub", "resume", *config)
    assert (said.returncode, said.stdout) == (0, "jobs are handed out\n")
    assert (await machine.pull()).id == "j"
    assert (await row(server, "j"))["state"] == "claimed"
