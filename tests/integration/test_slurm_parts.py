"""Parts of the Slurm engine that need no cluster: the script with its claim, states, listings, options."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatchd.agent.config.engines import OURS, unfit_engines, unfit_options
from dispatchd.agent.config.keys import Cloud, EngineEntry, File, WorkflowEntry
from dispatchd.agent.domain.executions.identities import BatchJob
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.slurm.commands import Commands
from dispatchd.agent.engines.slurm.engine import SlurmEngine
from dispatchd.agent.engines.slurm.listing import Listings
from dispatchd.agent.engines.slurm.script import batch_script, launch_text
from dispatchd.agent.engines.slurm.site import Site
from dispatchd.agent.engines.slurm.states import Row, ended, parsed
from dispatchd.agent.engines.start_claims import Claim, Files
from dispatchd.agent.engines.start_script import LAUNCH
from dispatchd.errors import EngineRefused, EngineSilent, SpawnFailed
from dispatchd.linux.clock import MachineTime
from dispatchd.protocol.outcome import Exit, FailureCause, NeverStarted, Unreachable
from support.slurm_stubs import NoSecrets, stub
from support.until import until

SHELLS = [name for name in ("dash", "bash") if Path(f"/bin/{name}").exists()]
shells = pytest.mark.parametrize("shell", SHELLS)


def laid_out(folder: Path, command: list[str], **env: str) -> Files:
    files = Files.create(folder / "dd-start", folder / "links" / "dd-a-1")
    text = launch_text(command, env, folder, folder / "output")
    files.write_launch(text, has_secrets=True)
    return files


def run_script(folder: Path, shell: str = "sh") -> subprocess.Popen[bytes]:
    script = batch_script(folder / "links" / "dd-a-1")
    return subprocess.Popen(
        [shell, "-c", script],
        # As sbatch hands it on.
        env={"PATH": os.defpath, "SLURM_JOB_ID": "7", "LC_ALL": "C"},
        process_group=0,
    )


@shells
def test_a_script_claims_its_attempt_runs_its_command_once_and_leaves_its_code(
    tmp_path: Path, shell: str
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "echo ran ${LC_ALL-}; exit 7"])
    assert (files.folder / LAUNCH).stat().st_mode & 0o777 == 0o600

    assert run_script(tmp_path, shell).wait(20) == 7
    assert run_script(tmp_path, shell).wait(20) == 75

    assert (tmp_path / "output").read_text() == "ran\n"
    assert (files.claim, files.exit_code) == (Claim.JOB, 7)
    assert files.take() is Claim.JOB
    assert files.begun_ns is not None
    assert not (files.folder / LAUNCH).exists()


async def test_the_exit_code_of_a_command_outlives_signals_at_its_end(
    tmp_path: Path,
) -> None:
    command = "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"
    files = laid_out(tmp_path, ["/bin/sh", "-c", command])
    running = run_script(tmp_path)
    output = tmp_path / "output"
    await until(lambda: output.exists() and output.read_text())

    os.killpg(running.pid, 15)
    while running.poll() is None:
        running.send_signal(15)

    assert (running.returncode, files.exit_code) == (9, 9)


@shells
async def test_what_a_command_leaves_in_its_group_is_ended(
    tmp_path: Path, shell: str
) -> None:
    laid_out(tmp_path, ["/bin/sh", "-c", "sleep 600 & echo $! >child; exit 3"])

    assert run_script(tmp_path, shell).wait(20) == 3

    stat = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    await until(lambda: not stat.exists() or ") Z " in stat.read_text())


@shells
def test_a_script_behind_the_daemons_claim_runs_nothing(
    tmp_path: Path, shell: str
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "echo ran"])

    assert files.take() is Claim.DAEMON
    assert run_script(tmp_path, shell).wait(20) == 75

    assert not (tmp_path / "output").exists()
    assert (files.take(), files.last_claim()) == (Claim.DAEMON, Claim.DAEMON)
    assert not (files.folder / LAUNCH).exists()


@shells
@pytest.mark.parametrize(("left_s", "code"), [(60, 0), (-1, 76)])
def test_a_script_begins_within_its_permission_and_not_later(
    tmp_path: Path, shell: str, left_s: int, code: int
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "echo ran"])
    files.permit(int(MachineTime().wall()) - 600)
    files.permit(int(MachineTime().wall()) + left_s)

    assert run_script(tmp_path, shell).wait(20) == code

    assert (tmp_path / "output").exists() is (code == 0)
    assert files.claim is (Claim.JOB if code == 0 else Claim.NOBODY)


@pytest.mark.parametrize("_", range(20))
def test_of_a_script_and_the_daemon_at_once_one_has_the_claim(
    tmp_path: Path, _: int
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "echo ran"])

    script = run_script(tmp_path)
    taken = files.take()
    code = script.wait(20)

    ran = (tmp_path / "output").exists()
    assert (code == 0, ran) == (taken is not Claim.DAEMON,) * 2
    assert files.last_claim() is (Claim.JOB if ran else Claim.DAEMON)


@shells
async def test_a_command_that_catches_sigterm_ends_with_its_own_code(
    tmp_path: Path, shell: str
) -> None:
    command = "trap 'echo term; sleep 0.3; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    files = laid_out(tmp_path, ["/bin/sh", "-c", command])
    script = batch_script(tmp_path / "links" / "dd-a-1")
    env = {"PATH": os.defpath, "SLURM_JOB_ID": "7"}
    running = subprocess.Popen([shell, "-c", script], env=env, start_new_session=True)
    output = tmp_path / "output"
    await until(lambda: output.exists() and output.read_text() == "up\n")

    # Slurm signals every process of a job.
    os.killpg(running.pid, 15)

    assert running.wait(20) == 9
    assert files.exit_code == 9


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=60,
    deadline=None,
)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_value_reaches_the_command_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    folder = tmp_path_factory.mktemp("value")
    laid_out(
        folder,
        ["/bin/sh", "-c", 'printf "%s\\0%s" "$VALUE" "$1"', "x", value],
        VALUE=value,
    )

    assert run_script(folder).wait(20) == 0

    assert (folder / "output").read_bytes() == b"\0".join([value.encode()] * 2)


def test_a_variable_that_no_shell_can_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a shell can't set"):
        launch_text(["/bin/true"], {"A;B": "x"}, tmp_path, tmp_path / "output")


@pytest.mark.parametrize(
    ("state", "status", "left", "expected"),
    [
        ("COMPLETED", 0, 0, Exit(code=0)),
        ("FAILED", 7 << 8, 0, Exit(code=7)),
        ("FAILED", 143 << 8, None, Exit(code=143)),
        ("FAILED", 9, None, Exit(code=137)),
        ("FAILED", 75 << 8, 3, Exit(code=3)),
        ("FAILED", 75 << 8, None, Exit(code=None)),
    ],
)
def test_the_controllers_exit_code_counts(
    state: str, status: int, left: int | None, expected: Exit
) -> None:
    assert ended(Row(job_id=1, name="dd-a", state=state, status=status), left) == (
        expected
    )


@pytest.mark.parametrize(
    ("state", "code", "cause"),
    [
        ("TIMEOUT", 0, FailureCause.MAX_DURATION),
        ("DEADLINE", 0, FailureCause.MAX_DURATION),
        ("CANCELLED", 0, FailureCause.CANCELLED),
        ("OUT_OF_MEMORY", 137, None),
        ("NODE_FAIL", 0, None),
        ("BOOT_FAIL", None, None),
        ("LAUNCH_FAILED", None, None),
        ("PREEMPTED", None, None),
        ("REVOKED", None, None),
    ],
)
def test_an_end_that_slurm_brought_is_named(
    state: str, code: int | None, cause: FailureCause | None
) -> None:
    row = Row(job_id=65, name="dd-a", state=state)

    # What the run's own script has left says nothing, but where a node was lost that had ended it.
    end = ended(row, 0)

    assert row.is_final
    assert (end.code, end.cause) == (code, cause)
    assert "65" in end.note


@pytest.mark.parametrize(
    "state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "NEW_ONE"]
)
def test_a_state_that_is_not_known_as_an_end_decides_nothing(state: str) -> None:
    assert not Row(job_id=1, name="dd-a", state=state).is_final


def test_a_listing_is_read_whatever_a_reason_holds() -> None:
    text = "1|dd-a|PENDING|JobHeldUser|0|\n2|other|RUNNING|None|0|n1\n3|dd-b|FAILED|x|y|1792|n[1-2]\n"

    first, second = parsed(text, "dd-", {}).values()

    assert (first.name, first.is_held) == ("dd-a", True)
    assert (second.reason, second.code, second.nodes) == ("x|y", 7, "n[1-2]")
    assert second.described() == "Slurm job 3: FAILED (x|y) on n[1-2]"


def test_a_name_with_bars_in_it_hides_no_other_job() -> None:
    own = "dd-0123456789ab-0123456789abcdef"
    text = f"1|dd-x|y|z|PENDING|None|0|\n2|dd-x\u2028|q|RUNNING|None|z|\n3|{own}|RUNNING|None|0|n1\n"

    rows = list(parsed(text, "dd-", {}).values())

    assert [row.name for row in rows if row.name == own] == [own]


def test_a_row_of_ours_that_cannot_be_read_is_no_listing() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parsed("1|dd-0123456789ab-0123456789abcdef|RUNNING|None|x|n1\n", "dd-", {})


def test_a_name_with_a_lines_end_in_it_silences_no_listing() -> None:
    own = "dd-0123456789ab-0123456789abcdef"
    text = f"1|x\nzz|{own}|y|PENDING|None|0|\n3|{own}|RUNNING|None|0|n1\n"

    rows = list(parsed(text, "dd-", {}).values())

    assert [(row.job_id, row.name) for row in rows] == [(3, own)]


def engine_of(folder: Path, row: str) -> tuple[SlurmEngine, BatchJob]:
    """Return an engine whose controller lists one row for a job of a laid out start, and obeys no order."""
    stub(folder, "scancel", "exit 0")
    commands = stub(folder, "squeue", row)
    settings = EngineEntry(poll_s=1)
    supplier = NoSecrets(commands.environment)
    engine = SlurmEngine.of(
        "hpc", settings, folder / "state", supplier, set, MachineTime()
    )
    job = BatchJob(
        engine="hpc",
        cluster="",
        name="dd-start",
        job_id=7,
        submitted_at=datetime.now(UTC),
        limit_s=60.0,
    )
    return engine, job


async def test_a_job_that_the_controller_has_failed_itself_ended_as_its_script_says(
    tmp_path: Path,
) -> None:
    """After a crash the controller lacks scripts of jobs: it calls them failed, whatever became of them."""
    command = f"while ! [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 7"
    files = laid_out(tmp_path, ["/bin/sh", "-c", command])
    engine, job = engine_of(tmp_path, "echo '7|dd-start|FAILED|SystemFailure|1|n1'")
    running = run_script(tmp_path)
    await until(lambda: files.claim is Claim.JOB)
    ends = list[Exit | NeverStarted | Unreachable]()

    async def observe() -> None:
        ends.append(await engine.observe(job, tmp_path))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(observe)
        await until(lambda: engine.describe(job).count("SystemFailure"))
        assert not ends
        (tmp_path / "go").touch()

    assert running.wait(20) == 7
    (end,) = ends
    assert isinstance(end, Exit)
    assert (end.code, "its script left" in end.note) == (7, True)


async def test_a_script_does_not_end_by_sighup(tmp_path: Path) -> None:
    command = f"echo up; while ! [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 7"
    laid_out(tmp_path, ["/bin/sh", "-c", command])
    running = run_script(tmp_path)
    output = tmp_path / "output"
    await until(lambda: output.exists() and output.read_text())

    running.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()

    assert running.wait(20) == 7


async def test_a_job_that_is_lost_before_it_began_never_begins(tmp_path: Path) -> None:
    laid_out(tmp_path, ["/bin/sh", "-c", "echo ran"])
    engine, job = engine_of(tmp_path, "echo '7|dd-start|NODE_FAIL|None|0|n1'")

    end = await engine.observe(job, tmp_path)

    assert isinstance(end, Exit)
    assert (end.code, "never began" in end.note) == (None, True)
    # Its node comes back.
    assert run_script(tmp_path).wait(20) == 75
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "row", ["echo '7|dd-start|PENDING|Priority|0|'", "echo timed out >&2; exit 1"]
)
async def test_a_job_that_is_stopped_in_the_queue_never_begins(
    tmp_path: Path, row: str
) -> None:
    laid_out(tmp_path, ["/bin/sh", "-c", "echo ran"])
    engine, job = engine_of(tmp_path, row)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.observe, job, tmp_path)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(engine.stop, job)
        claim = tmp_path / "dd-start" / "claim"
        await until(claim.exists)
        tasks.cancel_scope.cancel()

    assert run_script(tmp_path).wait(20) == 75
    assert not (tmp_path / "output").exists()


async def test_a_job_that_has_begun_is_not_taken_back_though_its_controller_is_away(
    tmp_path: Path,
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "exit 7"])
    engine, job = engine_of(tmp_path, "echo timed out >&2; exit 1")
    assert run_script(tmp_path).wait(20) == 7

    assert await engine.has_begun(job, tmp_path)
    assert not await engine.withdraw(job, tmp_path)
    with anyio.fail_after(20):
        assert await engine.until_begun(job, tmp_path) == files.begun_ns
    assert files.begun_ns is not None


async def test_a_job_in_the_prolog_of_its_node_has_not_begun(tmp_path: Path) -> None:
    """For the controller it runs already; its permission to begin is renewed until its script has the claim."""
    files = laid_out(tmp_path, ["/bin/sh", "-c", "exit 7"])
    engine, job = engine_of(tmp_path, "echo '7|dd-start|RUNNING|None|0|n1'")
    stamps = list[int | None]()

    async def see_begin() -> None:
        stamps.append(await engine.until_begun(job, tmp_path))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.observe, job, tmp_path)
        tasks.start_soon(see_begin)
        await until(lambda: engine.describe(job).count("RUNNING"))
        await anyio.wait_all_tasks_blocked()
        assert not stamps
        assert run_script(tmp_path).wait(20) == 7
        await until(lambda: stamps)
        tasks.cancel_scope.cancel()

    assert stamps == [files.begun_ns]


async def test_a_release_that_is_refused_fails_the_start(tmp_path: Path) -> None:
    """Otherwise it would be submitted, held and taken back again and again."""
    stub(tmp_path, "scontrol", "echo Access/permission denied >&2; exit 1")
    stub(tmp_path, "sbatch", "echo 7")
    engine, _ = engine_of(tmp_path, "echo '7|dd-start|PENDING|JobHeldUser|0|'")
    (tmp_path / "state" / "slurm").mkdir(parents=True)
    recorded = list[BatchJob]()

    async def record(job: BatchJob) -> None:
        recorded.append(job)

    launch = Launch(
        run_id="r",
        command=("/bin/true",),
        env={},
        workspace=tmp_path,
        folder=tmp_path,
        output_file=tmp_path / "output",
        files=tmp_path,
        limit_s=60,
    )
    with pytest.raises(SpawnFailed, match="Access/permission denied"):
        await engine.start(launch, record)
    [job] = recorded
    assert await engine.withdraw(job, tmp_path)
    assert not await engine.has_begun(job, tmp_path)


async def test_a_job_that_was_taken_back_has_ended_while_the_controller_is_away(
    tmp_path: Path,
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "echo ran"])
    engine, job = engine_of(tmp_path, "echo timed out >&2; exit 1")

    assert isinstance(await engine.observe(job, tmp_path), Unreachable)
    files.take()
    assert isinstance(await engine.observe(job, tmp_path), NeverStarted)


async def test_everybody_who_waits_shares_one_listing(tmp_path: Path) -> None:
    commands = stub(tmp_path, "squeue", f"echo asked >>{tmp_path}/asked")
    time = MachineTime()
    listings = Listings(commands, 60.0, time.monotonic)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(listings.news, "dd-a", 1, None, float("-inf"))

    assert (tmp_path / "asked").read_text() == "asked\n"


async def test_silence_is_no_listing(tmp_path: Path) -> None:
    said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    commands = stub(tmp_path, "squeue", f"echo '{said}' >&2; exit 1")
    listings = Listings(commands, 60.0, MachineTime().monotonic)

    listing = await listings.news("dd-a", 1, None, float("-inf"))

    assert said in listing.silence
    assert listing.rows == {}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (
            "Batch job submission failed: Invalid partition name specified",
            EngineRefused,
        ),
        ("Batch job submission failed: Socket timed out on send/recv", EngineSilent),
        ("Unable to contact slurm controller (connect failure)", EngineSilent),
    ],
)
async def test_a_refusal_is_told_from_silence(
    tmp_path: Path, said: str, error: type[Exception]
) -> None:
    commands = stub(tmp_path, "sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1")

    # It has not read its script.
    with pytest.raises(error, match="exit code 1"):
        await commands.run("sbatch", text="x" * 300_000)


async def test_a_commands_settings_of_others_are_not_passed_on(tmp_path: Path) -> None:
    stub(tmp_path, "env", "exec /usr/bin/env")
    commands = Commands({"PATH": str(tmp_path), "SBATCH_HOLD": "no", "SLURM_CONF": "c"})

    said = await commands.run("env")

    assert "SLURM_CONF=c" in said
    assert "SBATCH" not in said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 720.0),
        ("5", 300.0),
        ("5:30", 330.0),
        ("1:00:00", 3600.0),
        ("1-0", 86400.0),
        ("1-2:30", 95400.0),
        ("1-2:30:05", 95405.0),
        ("0", 720.0),
        ("0:00", 720.0),
    ],
)
def test_the_owners_time_limit_is_read_as_sbatch_reads_it(
    tmp_path: Path, text: str, seconds: float
) -> None:
    settings = EngineEntry(time=text)
    site = Site.of("hpc", settings, tmp_path, {}, MachineTime())

    assert site.limit_s(600) == seconds


def content(**engine: tuple[str, ...]) -> File:
    return File(
        cloud=Cloud(url="http://127.0.0.1"),
        engines={"hpc": EngineEntry(**engine)},  # type: ignore[arg-type]  # its lists alone
        workflows={
            "it": WorkflowEntry(command=("/bin/true",), engine="hpc"),
            "other": WorkflowEntry(command=("/bin/true",), engine="nope"),
        },
    )


@pytest.mark.parametrize("name", OURS)
def test_an_option_that_the_daemon_decides_is_refused(name: str) -> None:
    ((key, expected),) = unfit_options(content(options=(f"--{name}=x",)))

    assert key == "engines.hpc.options[0]"
    assert f"--{name}" in expected


@pytest.mark.parametrize(
    "option", ["--hol", "--no-re", "-H", "x.sh", "--", "--nice=1\n", "--nice 1", ""]
)
def test_what_is_no_long_option_or_the_beginning_of_ours_is_refused(
    option: str,
) -> None:
    assert list(unfit_options(content(options=(option,))))


@pytest.mark.parametrize("option", ["--nice=10", "--exclusive", "--mail-user=a@b"])
def test_another_option_is_passed_on(option: str) -> None:
    assert not list(unfit_options(content(options=(option,))))


def test_a_workflow_names_an_engine_that_exists_and_no_key_that_it_ignores() -> None:
    tables = {"it": {"image": "x", "isolation": "sandbox"}, "other": {}}

    problems = dict(unfit_engines(content(), tables))

    assert set(problems) == {
        "workflows.it.image",
        "workflows.it.isolation",
        "workflows.other.engine",
    }


def test_a_daemon_without_engines_loads_nothing_of_them() -> None:
    code = "import sys, dispatchd.agent.serve; print(*sys.modules)"
    said = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert "dispatchd.agent.engines.chosen" in said
    assert "dispatchd.agent.engines.slurm" not in said
