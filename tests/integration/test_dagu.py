"""Jobs through a real Dagu: what comes back, and what is left of a start when its answer, its server or its daemon is lost."""

import json
import os
import signal
from pathlib import Path

import pytest

from support.cli import command
from support.dagu_scene import scene
from support.engine_scene import JOB_ID, LONG, WAITS, hostile_job
from support.front import Cut, Fault, pages
from support.torture import few
from support.until import until

pytestmark = pytest.mark.host


async def test_a_job_runs_and_its_end_is_reported(tmp_path: Path) -> None:
    script = 'echo "out of $0"; echo "v=1" >>"$GITHUB_OUTPUT"; exit '
    scripts = {"good": f"{script} 0", "bad": f"{script} 7", "killed": "kill -9 $$"}
    async with scene(tmp_path, scripts) as at:
        ends = []
        for name in scripts:
            at.hand_out(name, name)
            ends.append(await at.finished(name))
    good, bad, killed = ends

    assert good["result_status"] == "succeeded", good
    assert good["result_output"].strip().startswith("out of")
    assert good["result_outputs"] == {"v": "1"}
    assert (bad["result_status"], bad["result_cause"]) == ("failed", "exit-code")
    assert "exit code 7" in bad["result_summary"]
    assert (killed["result_status"], killed["result_cause"]) == ("failed", "signal")
    assert not list((at.daemon.state / "dagu").iterdir())


async def test_a_headless_command_is_retried_and_answers(tmp_path: Path) -> None:
    script = (
        'while [ "$1" != --output ]; do shift; done; [ "$DISPATCHD_ATTEMPT" = 2 ] || exit 2; '
        'echo \'{"contract_version":"1","status":"success","summary":"Second time.","exit_reason":"completed"}\' >"$2"'
    )
    limits = 'contract = "headless"\narguments = ["x", "--headless", "--context", "{brief}", "--output", "{result}"]'
    async with scene(tmp_path, {"it": script}, limits=limits) as at:
        at.hand_out("j", "it")
        end = await at.finished("j")

    assert end["result_status"] == "succeeded", end
    assert end["result_summary"].startswith("Second time.")


@pytest.mark.parametrize(
    ("script", "left"),
    [
        (WAITS, "term\n"),
        pytest.param(
            "trap '' TERM; echo ran >>{folder}/ran; while :; do sleep 0.1; done",
            "",
            marks=pytest.mark.torture(least_s=60),
        ),
    ],
    ids=["ends at SIGTERM", "ignores it"],
)
async def test_a_running_job_is_cancelled(
    tmp_path: Path, script: str, left: str
) -> None:
    """One job alone: on a busy machine the scheduler of Dagu 1.30 begins no second run beside one that is alive."""
    async with scene(tmp_path, {"it": script}, limits="kill_grace_s = 1") as at:
        at.hand_out("j", "it")
        await until(lambda: at.runs == 1, 180, "the command")
        at.cloud.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
        end = await at.finished("j")
        states = await at.dagu.runs()

    assert end["result_status"] == "aborted"
    term = tmp_path / "term"
    assert (term.read_text() if term.exists() else "") == left
    assert set(states.values()) == {"aborted"}


async def test_a_run_that_somebody_stops_on_dagus_page_is_aborted(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, {"it": WAITS}, limits="max_retries = 3") as at:
        at.hand_out("j", "it")
        await at.until_running()
        name = (await at.until_recorded("j"))["name"]
        assert await at.dagu.post(f"/dag-runs/dispatchd/{name}/stop") == 200
        end = await at.finished("j")

    assert end["result_status"] == "aborted", end
    assert (tmp_path / "term").read_text() == "term\n"
    assert at.runs == 1


async def test_a_job_in_the_queue_is_cancelled_and_never_runs(tmp_path: Path) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.dagu.kill("scheduler")
        at.hand_out("j", "it")
        name = (await at.until_recorded("j"))["name"]

        async def queued() -> bool:
            return (await at.dagu.runs()).get(name) == "queued"

        await until(queued, 180, "the queue")
        at.cloud.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
        end = await at.finished("j")
        left = await at.dagu.runs()

    assert (end["result_status"], at.runs) == ("aborted", 0)
    assert left.get(name) != "queued"


@pytest.mark.parametrize("cut", few([Cut.AFTER, Cut.BEFORE], 1))
async def test_an_answer_that_is_lost_is_settled_by_another_question(
    tmp_path: Path, cut: Cut
) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.front.decide = pages(1, Fault(cut=cut), "/enqueue")
        at.hand_out("j", "it")
        await at.until_running()
        at.go()
        end = await at.finished("j")
        states = await at.dagu.runs()

    assert "exit code 4" in end["result_summary"]
    assert (at.runs, len(states), len(at.front.faults)) == (1, 1, 1)


async def test_a_request_that_arrives_twice_starts_once(tmp_path: Path) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.front.decide = pages(1, Fault(sent_twice=True), "/enqueue")
        at.hand_out("j", "it")
        await at.until_running()
        at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_proxys_page_about_a_run_decides_nothing(tmp_path: Path) -> None:
    page = b'<html>{"code": "not_found"}</html>'
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        name = at.record("j")["attempts"][0]["dag_run"]["name"]
        at.front.decide = pages(6, Fault(page=page, status=404), name)
        await at.front.until_done(6)
        await at.daemon.until_logged("engine_unreachable")
        at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_run_outlives_its_server_which_decides_nothing_while_it_is_away(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        ours = ("--config", str(at.daemon.config))
        at.hand_out("j", "it")
        await at.until_running()
        at.dagu.kill("server", "scheduler")
        await at.daemon.until_logged("engine_unreachable")
        status = await command("status", *ours)
        at.go()
        at.dagu.start()
        end = await at.finished("j")

    assert "its server doesn't answer" in status.stdout
    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_run_is_cancelled_while_its_server_is_away(tmp_path: Path) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        at.dagu.kill("server", "scheduler")
        at.cloud.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
        end = await at.finished("j")

    assert end["result_status"] == "aborted"
    assert (tmp_path / "term").read_text() == "term\n"


@pytest.mark.parametrize("step", few(["after", "running", "before"], 2))
async def test_a_daemon_that_is_killed_loses_nothing_and_starts_once(
    tmp_path: Path, step: str
) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        if step != "running":
            held = Fault(delay_s=600) if step == "before" else Fault(cut=Cut.AFTER)
            at.front.decide = pages(1, held, "/enqueue")
        at.hand_out("j", "it")
        await (at.until_running() if step == "running" else at.front.until_done(1))
        at.daemon.kill()
        at.daemon.start()
        await at.until_running()
        at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_run_that_its_server_has_forgotten_is_followed_to_its_end(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        name = at.record("j")["attempts"][0]["dag_run"]["name"]
        page = b'{"code": "not_found", "message": "no such run"}'
        fault = Fault(page=page, status=404, content_type="application/json")
        at.front.decide = lambda path: fault if path.endswith(name) else None
        await at.front.until_done(4)
        at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert "doesn't know run" in end["result_summary"]
    assert at.runs == 1


# The daemon notices it 60 s later.
@pytest.mark.torture(least_s=120)
async def test_a_run_that_its_queue_has_lost_is_started_again_and_runs_once(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.dagu.kill("scheduler")
        at.hand_out("j", "it")
        name = (await at.until_recorded("j"))["name"]

        async def queued() -> bool:
            return (await at.dagu.runs()).get(name) == "queued"

        await until(queued, 180, "the queue")
        # As when a worker is killed that has taken it, and has written nothing.
        for item in (at.dagu.folder / "data/queue").rglob("item_*"):
            item.unlink()
        at.dagu.start()
        await at.until_running()
        at.go()
        end = await at.finished("j")
        states = await at.dagu.runs()

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1
    assert states.pop(name) == "queued"
    assert list(states.values()) == ["failed"]


# Dagu notices it 45 s later.
@pytest.mark.torture(least_s=60)
async def test_a_run_that_dagu_has_lost_is_ended_before_its_job_is_tried_again(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        name = at.record("j")["attempts"][0]["dag_run"]["name"]
        # The process that executes this run for Dagu: the parent of the script.
        (claim,) = at.daemon.state.glob(f"runs/j/attempt-1/{name}/claim")
        stat = Path(f"/proc/{claim.read_text().strip()}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
        end = await at.finished("j")

    assert end["result_cause"] == "lost", end
    # Its server may say so before its scheduler has said why.
    assert f"un {name}: " in end["result_summary"]
    assert "its command was terminated" in end["result_summary"]
    assert (tmp_path / "term").read_text() == "term\n"
    assert at.runs == 1


@pytest.mark.parametrize("length", [0, LONG])
async def test_hostile_values_reach_no_shell_and_secrets_no_page(
    tmp_path: Path, length: int
) -> None:
    (tmp_path / "deploy").write_text("s3cr3t-of-the-run")
    limits = 'secrets = { KEY = "deploy" }'
    secret = '[secrets.deploy]\nfile = "deploy"'
    script = "env -0 >{folder}/env; echo $KEY; " + WAITS
    async with scene(tmp_path, {"it": script}, limits=limits, engine=secret) as at:
        at.hand_out(JOB_ID, "it", **hostile_job(tmp_path, length))
        await at.until_running()
        given = (tmp_path / "env").read_text()
        at.go()
        await until(lambda: at.cloud.finished, 180, "its end")
        written = _everything_below(at.dagu.folder)
        (name,) = await at.dagu.runs()
        shown = json.dumps(await at.dagu.get(f"/dag-runs/dispatchd/{name}"))

    assert "KEY=s3cr3t-of-the-run" in given
    assert "DAGU" not in given
    assert at.dagu.key not in given
    assert "s3cr3t" not in written + shown
    assert "PWNED" not in written + shown
    assert not list(tmp_path.rglob("PWNED"))
    for path, content in at.daemon.written().items():
        assert at.dagu.key.encode() not in content
        # The command has printed it.
        assert path.name == "output.log" or b"s3cr3t-of-the-run" not in content


def _everything_below(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(path.read_text(errors="replace") for path in files)


async def test_a_key_that_is_refused_fails_the_start_and_is_named(
    tmp_path: Path,
) -> None:
    limits = "start_retries = 0"
    async with scene(tmp_path, {"it": WAITS}, limits=limits) as at:
        (tmp_path / "dagu-key").write_text("wrong\n")
        at.hand_out("j", "it")
        end = await at.finished("j")

    assert (end["result_status"], end["result_cause"]) == ("failed", "spawn")
    assert "answers 401" in end["result_summary"]
    assert at.runs == 0


async def test_a_dag_that_runs_something_else_is_no_success(tmp_path: Path) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.dagu.lay_out(
            at.daemon.state, "steps:\n  - name: main\n    command: /bin/true\n"
        )
        at.hand_out("j", "it")
        end = await at.finished("j")

    assert (end["result_status"], end["result_cause"]) == ("failed", "lost")
    assert "its script never began" in end["result_summary"]
    assert at.runs == 0


async def test_status_show_and_doctor_say_where_a_run_is(tmp_path: Path) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        ours = ("--config", str(at.daemon.config))
        at.hand_out("j", "it")
        await at.until_running()

        async def seen() -> str:
            status = await command("status", *ours)
            return status.stdout if ": running" in status.stdout else ""

        status = await until(seen, 180, "its state")
        show = await command("show", "j", *ours)
        doctor = await command("doctor", *ours)
        at.go()
        await at.finished("j")

    assert "j: Dagu run dd-" in status
    assert "Dagu run dd-" in show.stdout
    assert "answers and has the DAG dispatchd" in doctor.stdout


async def test_an_engine_taken_out_of_the_configuration_leaves_its_runs_followed(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        at.daemon.kill()
        text = at.daemon.config.read_text().partition("[engines.dags]")[0]
        at.daemon.config.write_text(text.replace('engine = "dags"', ""))
        at.daemon.start()
        await at.daemon.until_logged("engine_unreachable")
        at.go()
        end = await at.finished("j")

    # Nobody has the key any more: the code is the one that the script has left.
    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1
