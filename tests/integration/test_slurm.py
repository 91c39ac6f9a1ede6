"""Jobs through a real Slurm: what comes back, and what a crash at any step of a start leaves."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.cli import command
from support.endpoint import Endpoint, as_json
from support.engine_scene import JOB_ID, LONG, WAITS, hostile_job
from support.slurm import Cluster, booted
from support.slurm_scene import scene
from support.torture import few
from support.until import until

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with booted() as up:
        yield up


async def test_a_job_runs_on_a_node_and_its_end_is_reported(
    cluster: Cluster, tmp_path: Path
) -> None:
    script = 'echo "on $SLURMD_NODENAME"; echo "v=1" >>"$GITHUB_OUTPUT"; exit '
    scripts = {"good": f"{script} 0", "bad": f"{script} 7", "killed": "kill -9 $$"}
    async with scene(tmp_path, cluster, scripts) as at:
        for name in scripts:
            at.hand_out(name, name)
        good, bad, killed = [await at.finished(name) for name in scripts]

    assert good["result_status"] == "succeeded"
    assert good["result_output"].strip().startswith("on n")
    assert good["result_outputs"] == {"v": "1"}
    assert (bad["result_status"], bad["result_cause"]) == ("failed", "exit-code")
    assert "exit code 7" in bad["result_summary"]
    assert (killed["result_status"], killed["result_cause"]) == ("failed", "signal")
    assert not list((at.daemon.state / "slurm").iterdir())


async def test_a_headless_command_is_retried_and_answers(
    cluster: Cluster, tmp_path: Path
) -> None:
    script = (
        'while [ "$1" != --output ]; do shift; done; [ "$DISPATCHD_ATTEMPT" = 2 ] || exit 2; '
        'echo \'{"contract_version":"1","status":"success","summary":"Second time.","exit_reason":"completed"}\' >"$2"'
    )
    limits = 'contract = "headless"\narguments = ["x", "--headless", "--context", "{brief}", "--output", "{result}"]'
    async with scene(tmp_path, cluster, {"it": script}, limits=limits) as at:
        at.hand_out("j", "it")
        end = await at.finished("j")

    assert end["result_status"] == "succeeded", end
    assert end["result_summary"].startswith("Second time.")


async def test_a_running_job_is_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        at.cloud.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
        end = await at.finished("j")

    assert end["result_status"] == "aborted"
    assert (tmp_path / "term").read_text() == "term\n"


async def test_a_job_in_the_queue_is_cancelled_and_never_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=DOWN")
        try:
            at.hand_out("j", "it")
            await at.until_recorded("j")
            at.cloud.hand_out({"id": "c", "command": "cancel", "dag_run_id": "j"})
            end = await at.finished("j")
        finally:
            await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=UP")

    assert (end["result_status"], at.runs) == ("aborted", 0)


async def test_a_job_that_waits_too_long_in_the_queue_is_taken_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(
        tmp_path, cluster, {"it": WAITS}, engine="queue_timeout_s = 3"
    ) as at:
        await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=DOWN")
        try:
            at.hand_out("j", "it")
            end = await at.finished("j")
        finally:
            await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=UP")

    assert (end["result_status"], end["result_cause"]) == ("failed", "queue-timeout")
    assert at.runs == 0


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_job_that_has_begun_waits_in_no_queue_whenever_its_daemon_comes_back(
    cluster: Cluster,
    tmp_path: Path,
    is_over: bool,  # noqa: FBT001  # a column of the table
) -> None:
    async with scene(
        tmp_path, cluster, {"it": WAITS}, engine="queue_timeout_s = 6"
    ) as at:
        at.hand_out("j", "it")
        await at.until_running()
        at.daemon.kill()
        began = datetime.fromisoformat(at.record("j")["attempts"][-1]["started_at"])
        if is_over:
            at.go()
            runs = at.daemon.state / "runs"
            await until(lambda: list(runs.glob("j/attempt-1/dd-*/exit")), 180, "exit")
        await until(
            lambda: datetime.now(UTC) > began + timedelta(seconds=7), 60, "the limit"
        )
        at.daemon.start()
        await at.daemon.until_logged("daemon_ready", pid=at.daemon.process.pid)

        async def is_followed() -> bool:
            shown = await command("show", "j", "--config", str(at.daemon.config))
            return "RUNNING" in shown.stdout

        if not is_over:
            await until(is_followed, 180, "the job in a listing")
            at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert not (tmp_path / "term").exists()
    assert at.runs == 1


@pytest.mark.parametrize(
    "step",
    few(["sbatch.after", "scontrol.before", "sbatch.before", "scontrol.after"], 2),
)
async def test_a_daemon_killed_at_a_step_of_a_start_loses_nothing_and_starts_once(
    cluster: Cluster, tmp_path: Path, step: str
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.steps.hold(step)
        at.hand_out("j", "it")
        await at.steps.until_reached()
        at.daemon.kill()
        # What was on its way arrives while nobody listens.
        at.steps.let_go(step)
        at.daemon.start()
        await at.until_running()
        batch_job = await at.until_recorded("j")
        at.go()
        end = await at.finished("j")
        await at.cluster.unheld(batch_job["name"])

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_submission_that_arrives_after_the_next_daemon_has_begun_never_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.steps.hold("sbatch.before")
        at.hand_out("j", "it")
        await at.steps.until_reached()
        at.daemon.kill()
        (at.steps.folder / "reached").unlink()
        at.daemon.start()
        # The next daemon's own submission waits as well: both arrive now.
        await at.steps.until_reached()
        at.steps.let_go("sbatch.before")
        await at.until_running()
        at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_running_job_outlives_its_daemon(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        at.daemon.kill()
        at.go()
        at.daemon.start()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_lost_answer_to_a_submission_is_found_by_its_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.steps.hold("sbatch.lost")
        at.go()
        at.hand_out("j", "it")
        end = await at.finished("j")
        await at.daemon.until_logged("slurm_answer_lost")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


@pytest.mark.parametrize("length", [0, LONG])
async def test_hostile_values_reach_no_shell_and_secrets_no_listing(
    cluster: Cluster, tmp_path: Path, length: int
) -> None:
    script = "env -0 >{folder}/env; " + WAITS
    (tmp_path / "deploy").write_text("s3cr3t-of-the-run")
    limits = 'secrets = { KEY = "deploy" }'
    secret = '[secrets.deploy]\nfile = "deploy"'
    async with scene(
        tmp_path, cluster, {"it": script}, limits=limits, engine=secret
    ) as at:
        at.hand_out(JOB_ID, "it", **hostile_job(tmp_path, length))
        await at.until_running()
        listing = await at.cluster.run("scontrol", "show", "job", "-o")
        listing += await at.cluster.run("ps", "axww", "-o", "args")
        given = (tmp_path / "env").read_text()
        left = [
            path
            for path in (at.daemon.state / "runs").rglob("*")
            if path.is_file() and "s3cr3t" in path.read_text(errors="replace")
        ]
        at.go()
        await until(lambda: at.cloud.finished, 180, "its end")

    assert "KEY=s3cr3t-of-the-run" in given
    assert "s3cr3t" not in listing
    assert left == []
    for path in at.daemon.written().values():
        assert b"s3cr3t-of-the-run" not in path
    shown = next(line for line in listing.splitlines() if "JobName=dd-" in line)
    assert "PWNED" not in shown
    assert not list(tmp_path.rglob("PWNED"))


async def test_a_job_of_a_fork_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.hand_out("j", "it", from_fork=True)
        end = await at.finished("j")

    assert (end["result_status"], at.runs) == ("rejected", 0)


async def test_an_engine_taken_out_of_the_configuration_leaves_its_runs_followed(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        at.hand_out("j", "it")
        await at.until_running()
        at.daemon.kill()
        text = at.daemon.config.read_text().partition("[engines.hpc]")[0]
        at.daemon.config.write_text(text.replace('engine = "hpc"', ""))
        at.daemon.start()
        at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


async def test_a_job_whose_lease_ends_in_the_queue_asks_again_before_it_begins(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=DOWN")
        try:
            at.hand_out(
                "j",
                "it",
                claim_token="claim",
                lease_seconds=3,
                extensions=["heartbeat"],
            )
            batch_job = await at.until_recorded("j")
            await at.daemon.until_logged("job_attempt_started")
            await until(lambda: list(at.daemon.state.glob("runs/j/*/dd-*/until")))
            # A job that its daemon has not released yet would wait for the next one.
            await at.cluster.unheld(batch_job["name"])
            at.daemon.kill()
            (until_file,) = at.daemon.state.glob("runs/j/attempt-1/dd-*/until")
            await until(lambda: time.time() > int(until_file.read_text()))
        finally:
            await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=UP")

        async def over() -> bool:
            return (until_file.parent.name, "FAILED") in await at.cluster.jobs()

        await until(over, 180, "the end of a job that may not begin")
        assert at.runs == 0
        asked = _questions(at.cloud)
        at.daemon.start()
        await at.until_running()
        assert _questions(at.cloud) > asked
        at.go()
        end = await at.finished("j")

    assert "exit code 4" in end["result_summary"]
    assert at.runs == 1


def _questions(cloud: Endpoint) -> int:
    """Return how often a daemon has asked whether it holds the job; each answer is good for a lease."""
    return len(cloud.calls("accept", "j")) + len(cloud.calls("heartbeat", "j"))


async def test_a_job_whose_claim_is_lost_in_the_queue_is_taken_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=DOWN")
        try:
            at.hand_out(
                "j",
                "it",
                claim_token="claim",
                lease_seconds=6,
                extensions=["heartbeat"],
            )
            batch_job = await at.until_recorded("j")
            gone = as_json({"message": "not yours"}, 409)
            at.cloud.script = lambda each: (
                gone if each.call in ("heartbeat", "accept") else None
            )
            history = at.daemon.state / "history" / "j.json"
            await until(history.exists, 180, "the job in history")

            async def over() -> bool:
                return (batch_job["name"], "CANCELLED") in await at.cluster.jobs()

            await until(over, 180, "the end of the batch job")
        finally:
            await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=UP")

    assert at.runs == 0


async def test_status_show_and_doctor_say_where_a_run_is_and_why_it_waits(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with scene(tmp_path, cluster, {"it": WAITS}) as at:
        ours = ("--config", str(at.daemon.config))
        await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=DOWN")
        try:
            at.hand_out("j", "it")
            await at.until_recorded("j")

            async def explained() -> str:
                status = await command("status", *ours)
                return status.stdout if "PENDING (" in status.stdout else ""

            status = await until(explained, 180, "the reason")
            show = await command("show", "j", *ours)
            doctor = await command("doctor", *ours, env=at.steps.env)
        finally:
            await at.cluster.run("scontrol", "update", "PartitionName=ci", "State=UP")
        at.go()
        await at.finished("j")

    assert re.search(
        r"engine hpc +1 of 100 slots; j: Slurm job [0-9]+: PENDING", status
    )
    assert re.search(r"where +Slurm job [0-9]+: PENDING \(", show.stdout)
    assert re.search(r"Slurm job [0-9]+ on hpc", show.stdout)
    assert "hpc: slurm" in doctor.stdout
    assert "answers" in doctor.stdout
