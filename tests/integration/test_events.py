"""What a run says of itself reaches the one who looks at it and the endpoint, and never costs the run."""

import json
import os
from pathlib import Path

from support.cli import command
from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.until import until

JOB = {
    "id": "j",
    "dag_name": "it",
    "claim_token": "t",
    "lease_seconds": 0.6,
    "extensions": ["heartbeat"],
}


def event(kind: str, **facts: object) -> str:
    line = json.dumps({"type": kind, **facts})
    return f"echo '{line}' >>\"$DISPATCHD_EVENTS\"\n"


def progress(done: int) -> str:
    return event("progress", completed=done, in_progress=1, total=3)


def script(tmp_path: Path, *parts: str) -> tuple[list[str], list[Path]]:
    """Return a command that runs parts of a script, and pauses between them at pipes."""
    gates = [tmp_path / f"gate{number}" for number in range(len(parts))]
    text = ""
    for part, gate in zip(parts, gates, strict=True):
        os.mkfifo(gate)
        text += f"{part}\nread -r _ <{gate}\n"
    return ["/bin/sh", "-c", text], gates


def told(hub: Endpoint) -> list[int]:
    """Return the completed steps of each progress that a heartbeat has carried."""
    return [
        beat.body["progress"]["completed"]
        for beat in hub.calls("heartbeat", "j")
        if "progress" in beat.body
    ]


async def beats(hub: Endpoint, count: int) -> None:
    """Wait for some more heartbeats."""
    before = len(hub.calls("heartbeat"))
    await hub.until(lambda it: len(it.calls("heartbeat")) >= before + count)


async def show(daemon: DaemonHere) -> str:
    done = await command("show", "j", "--config", str(daemon.config))
    assert done.returncode == 0
    return done.stdout


async def test_each_progress_is_told_once_also_across_a_restart(
    tmp_path: Path,
) -> None:
    command, gates = script(
        tmp_path,
        progress(1),
        progress(2) + "echo nonsense >>$DISPATCHD_EVENTS",
        progress(2),
    )
    async with endpoint() as hub:
        config = write_config(tmp_path / "machine", hub.url, {"it": command})
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await hub.until(lambda it: told(it) == [1])
            await beats(hub, 3)
            gates[0].write_text("go\n")
            await hub.until(lambda it: told(it) == [1, 2])
            await beats(hub, 2)
            await daemon.crash()
            daemon.log_file.unlink()
            daemon.start()
            await daemon.until_logged("daemon_ready")
            await beats(hub, 3)
            assert told(hub) == [1, 2]
            # The same again is news: the run said so once more.
            gates[1].write_text("go\n")
            await hub.until(lambda it: told(it) == [1, 2, 2])
            shown = await show(daemon)
            gates[2].write_text("go\n")
            finished = (await hub.until_finished("j"))[0]

    assert "2 of 3 done, 1 under way" in shown
    assert "1 lines" in shown
    assert finished["result_status"] == "succeeded"
    assert "1 lines of its events could not be read" in finished["result_summary"]


async def test_a_run_that_hung_is_told_with_where(tmp_path: Path) -> None:
    at = "2026-11-21T10:00:0"
    command = [
        "/bin/sh",
        "-c",
        event("phase", name="build", at=f"{at}0Z")
        + event("phase", name="test", at=f"{at}3Z")
        + event("span", name="unit", started_at=f"{at}3Z", ended_at=f"{at}5Z", ok=True)
        + "sleep 300",
    ]
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": command}, limits="inactivity_s = 60"
        )
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            written = daemon.state / "runs/j/attempt-1/run/events.ndjson"
            await until(lambda: written.exists() and '"span"' in written.read_text())
            await advance(60)
            finished = (await hub.until_finished("j"))[0]
            shown = await show(daemon)

    assert finished["result_cause"] == "inactivity-timeout"
    assert "in phase test" in finished["result_summary"]
    assert "last completed span unit" in finished["result_summary"]
    assert "build 3 s" in finished["result_summary"]
    assert "unit, 2 s, ok" in shown


async def test_hostile_events_cost_nothing(tmp_path: Path) -> None:
    flood = (
        'head -c 30000000 /dev/zero | tr "\\0" "[" >>"$DISPATCHD_EVENTS"; '
        'echo >>"$DISPATCHD_EVENTS"; '
        f"{progress(3)}"
        'rm "$DISPATCHD_EVENTS.none" 2>/dev/null; true'
    )
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {
                "flood": ["/bin/sh", "-c", flood],
                "pipe": ["/bin/sh", "-c", 'mkfifo "$DISPATCHD_EVENTS"'],
                "link": ["/bin/sh", "-c", 'ln -s /dev/zero "$DISPATCHD_EVENTS"'],
                "gone": ["/bin/sh", "-c", 'rm -rf "$(dirname "$DISPATCHD_EVENTS")"/e*'],
            },
        )
        async with running_daemon(config):
            names = ("flood", "pipe", "link", "gone")
            for name in names:
                hub.hand_out({"id": name, "dag_name": name})
            finished = await hub.until_finished(*names)

    assert [each["result_status"] for each in finished] == ["succeeded"] * 4
    assert "1 lines of its events" in finished[0]["result_summary"]


HOSTILE = {
    "report is a folder": 'mkdir "$A/output.report"; echo x',
    "report is a link": 'ln -s "$W/victim" "$A/output.report"; echo x',
    "output is a pipe": 'rm "$A/output.log"; mkfifo "$A/output.log"',
    "output is gone": 'echo x; rm "$A/output.log"',
    "everything is gone": 'rm -rf "$A"',
    "as if it had never begun": 'rm "$A/started"; kill -KILL $PPID',
    "exit is a pipe": 'mkfifo "$A/exit"; kill -KILL $PPID',
    "exit is a folder": 'mkdir "$A/exit"; kill -KILL $PPID',
    "note of the group is a pipe": 'rm -f "$A/cgroup"; mkfifo "$A/cgroup"',
    "result is a pipe": 'mkfifo "$A/result.json"',
}


async def test_events_without_end_hold_up_neither_the_verdict_nor_others(
    tmp_path: Path,
) -> None:
    flood = "yes '{}' | head -c 67108864 >\"$DISPATCHD_EVENTS\""
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/sh", "-c", flood], "two": ["/bin/true"]}
        )
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            [finish] = await hub.until_finished("j")
            hub.hand_out({"id": "k", "dag_name": "two"})
            await hub.until_finished("k")
            shown = await show(daemon)

    assert finish["result_status"] == "succeeded"
    assert "22,269,622 lines were left out" in finish["result_summary"]
    assert "22,269,622 lines" in shown


FLOODS = (
    "yes '{}' | head -c 67108864 >\"$DISPATCHD_EVENTS\"; touch flooded; "
    "while :; do echo '{}'; done >>\"$DISPATCHD_EVENTS\""
)
"""Goes on until it is ended."""


async def floods(hub: Endpoint, daemon: DaemonHere) -> None:
    """Hand a job out, and return once it floods its events and beats all the same."""
    hub.hand_out(JOB)
    await until((daemon.state / "runs/j/workspace/flooded").exists, 60)
    await beats(hub, 1)


async def test_a_run_that_floods_its_events_is_cancelled(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/sh", "-c", FLOODS]})
        async with running_daemon(config) as daemon:
            await floods(hub, daemon)
            done = await command("cancel", "j", "--config", str(daemon.config))
            [finish] = await hub.until_finished("j")

    assert done.returncode == 0
    assert finish["result_status"] == "aborted"


async def test_a_run_that_floods_its_events_is_cancelled_by_the_endpoint(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/sh", "-c", FLOODS]})
        async with running_daemon(config) as daemon:
            await floods(hub, daemon)
            hub.cancelled.add("j")
            [finish] = await hub.until_finished("j")

    assert finish["result_status"] == "aborted"


async def test_a_daemon_is_stopped_while_a_run_floods_its_events(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/sh", "-c", FLOODS]})
        async with running_daemon(config) as daemon:
            await floods(hub, daemon)
            await daemon.stop()
            assert not daemon.alive
            # The next one reads it from the start, and ends it as well.
            daemon.log_file.unlink()
            daemon.start()
            await daemon.until_logged("daemon_ready")
            done = await command("cancel", "j", "--config", str(daemon.config))
            [finish] = await hub.until_finished("j")

    assert done.returncode == 0
    assert finish["result_status"] == "aborted"


async def test_whatever_a_command_does_to_its_folder_its_job_ends(
    tmp_path: Path,
) -> None:
    head = "A=$DISPATCHD_ATTEMPT_FOLDER; W=$DISPATCHD_WORKSPACE; "
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {
                name.replace(" ", "-"): ["/bin/sh", "-c", head + script]
                for name, script in HOSTILE.items()
            },
            runs="slots = 4\nqueue_ahead = 10",
        )
        async with running_daemon(config) as daemon:
            names = [name.replace(" ", "-") for name in HOSTILE]
            for name in names:
                hub.hand_out({"id": name, "dag_name": name})
            finished = dict(zip(names, await hub.until_finished(*names), strict=True))

    assert {each["result_status"] for each in finished.values()} <= {
        "succeeded",
        "failed",
    }
    for name in ("exit-is-a-pipe", "exit-is-a-folder", "as-if-it-had-never-begun"):
        assert finished[name]["result_cause"] == "lost"
    assert finished["everything-is-gone"]["result_status"] == "succeeded"
    assert finished["report-is-a-link"]["result_output"] == "x\n"
    assert not (daemon.state / "runs/report-is-a-link/workspace/victim").exists()


async def test_the_end_of_the_output_is_reported_with_what_was_cut(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", "seq 1 100000; echo the end"]},
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            finished = (await hub.until_finished("j"))[0]
    whole = (daemon.state / "runs/j/attempt-1/output.log").read_text()

    first, _, rest = finished["result_output"].partition("\n")
    assert whole.endswith(rest)
    assert 15_000 < len(rest) <= 16_000
    assert f"{len(whole) - len(rest):,}" in first


async def test_an_owner_keeps_the_output_at_home(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", "echo private"]},
            limits="report_output = false",
        )
        async with running_daemon(config):
            hub.hand_out({"id": "j", "dag_name": "it"})
            finished = (await hub.until_finished("j"))[0]

    assert "result_output" not in finished
