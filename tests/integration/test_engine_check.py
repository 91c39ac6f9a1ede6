"""`dispatchd engine check`: our engines and the toy of the examples pass, and each mutation of the toy breaks its rule."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from subprocess import PIPE, Popen
from types import MappingProxyType

import pytest

from dispatchd.agent.config.load import Places, load
from dispatchd.agent.engine_check.bench import Commands
from dispatchd.agent.engine_check.child import AT_RECORD
from dispatchd.agent.engine_check.place import make_place
from dispatchd.agent.engine_check.rules import RULES
from dispatchd.agent.engine_check.run import Settings, run_check
from dispatchd.errors import UsageError
from dispatchd.judging.judgement import Judgement, Verdict
from support.cli import command, dispatchd
from support.daemon import write_config
from support.dagu import dagu_config, running_dagu
from support.slurm import booted, slurm_config
from support.toy import installed, toy_config
from support.until import until

NOTHING: Mapping[str, str] = MappingProxyType({})

SOON = 30.0
"""Patience of a trial (seconds): a machine of tests is busy."""


async def checked(
    file: Path,
    name: str,
    numbers: tuple[str, ...] = (),
    *,
    commands: Commands | None = None,
    patience_s: float = SOON,
    variables: Mapping[str, str] = NOTHING,
) -> list[Judgement]:
    environment = {**os.environ, **variables}
    places = Places(state_folder=file.parent, control_folder=file.parent)
    settings = Settings(
        config=load(file, defaults=places, search_path=environment["PATH"]),
        name=name,
        environment=environment,
        patience_s=patience_s,
        commands=commands or Commands(),
        rules=tuple(each for each in RULES if not numbers or each.number in numbers),
    )
    judgements = await run_check(settings)
    assert not list((file.parent / "state").glob("engine-check-*"))
    return judgements


def verdicts(judgements: list[Judgement]) -> dict[str, Verdict]:
    return {each.rule.number: each.verdict for each in judgements}


def broken(judgements: list[Judgement]) -> dict[str, str]:
    return {
        each.rule.number: each.reason
        for each in judgements
        if each.verdict is Verdict.BROKEN
    }


def skipped(judgements: list[Judgement]) -> set[str]:
    return {each.rule.number for each in judgements if each.verdict is Verdict.SKIPPED}


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = installed(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    return site


def local_config(folder: Path) -> Path:
    return write_config(folder, "http://127.0.0.1:9", {})


def away(folder: Path) -> Commands:
    spool = folder / "spool"
    return Commands(down=f"mv {spool} {spool}.away", up=f"mv {spool}.away {spool}")


@pytest.mark.usefixtures("site")
async def test_the_toy_keeps_the_first_rules(tmp_path: Path) -> None:
    file = toy_config(tmp_path)

    judgements = await checked(file, "toy", ("1.3", "1.9"))

    assert verdicts(judgements) == {"1.3": Verdict.KEPT, "1.9": Verdict.KEPT}


SLOW = ("wait $!\necho $?", "wait $!\ncode=$?; sleep 2; echo $code")


async def test_an_engine_that_writes_the_exit_code_late_keeps_its_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path, *SLOW)))

    judgements = await checked(toy_config(tmp_path), "toy", ("1.3",))

    assert verdicts(judgements) == {"1.3": Verdict.KEPT}


CODES = ("code=code,", "code=code and 1,")


async def test_a_wrong_exit_code_breaks_its_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path, *CODES)))

    judgements = await checked(toy_config(tmp_path), "toy", ("1.4",))

    assert "exit code is 1 in place of 7" in broken(judgements)["1.4"]


async def test_what_an_engine_prints_is_no_answer_of_a_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printing = ("import os\n", "import os\nprint('hello')\n")
    monkeypatch.syspath_prepend(str(site := installed(tmp_path, *printing)))
    monkeypatch.setenv("PYTHONPATH", str(site))

    judgements = await checked(toy_config(tmp_path), "toy", ("2.1",))

    assert verdicts(judgements) == {"2.1": Verdict.KEPT}


def test_a_daemon_of_a_trial_ends_with_its_trial(tmp_path: Path) -> None:
    (tmp_path / "attempt-1").mkdir()
    document = {
        "config": str(local_config(tmp_path)),
        "state": str(tmp_path),
        "control": str(tmp_path),
        "engine": "local",
        "folder": str(tmp_path),
        "script": "exit 0",
        "env": {},
        "stop_at": AT_RECORD,
    }
    module = [sys.executable, "-m", "dispatchd.agent.engine_check.child"]
    with Popen(module, stdin=PIPE, stdout=PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{json.dumps(document)}\n".encode())
        child.stdin.flush()

        child.stdin.close()

        assert child.wait(60) == 1


def test_a_trial_removes_what_a_killed_one_has_left_and_disturbs_none(
    tmp_path: Path,
) -> None:
    (tmp_path / "engine-check-killed").mkdir()

    with ExitStack() as held:
        folder = make_place(tmp_path, held)
        assert list(tmp_path.glob("engine-check-*")) == [folder]
        with pytest.raises(UsageError, match="another check is under way"):
            make_place(tmp_path, held)
    with ExitStack() as held:
        assert make_place(tmp_path, held) != folder
        assert not folder.exists()


async def test_a_signal_ends_a_trial_and_all_that_it_has_started(
    tmp_path: Path, site: Path
) -> None:
    file, junit = toy_config(tmp_path), tmp_path / "junit.xml"
    line = ["engine", "check", "toy", "--config", str(file), "--junit", str(junit)]
    state = tmp_path / "state"

    with Popen(
        [sys.executable, "-m", "dispatchd", *line],
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=PIPE,
    ) as running:
        await until(lambda: list(state.glob("engines/*")), 60, "a start")
        running.send_signal(SIGTERM)
        assert running.wait(60) == 143

    assert not list(state.glob("engine-check-*"))
    assert not list(state.glob("engines/*"))
    assert "SIGTERM has ended it" in junit.read_text()


@pytest.mark.torture(least_s=120)
async def test_the_toy_keeps_every_rule(tmp_path: Path, site: Path) -> None:
    judgements = await checked(
        toy_config(tmp_path),
        "toy",
        commands=away(tmp_path),
        variables={"PYTHONPATH": str(site)},
    )

    assert (broken(judgements), skipped(judgements)) == ({}, set())


KILLS = "os.kill(pid, signal.SIGTERM)"
ASKS = "if not folder.is_dir():\n            return None"
RUNS = '/bin/sh "$1" &'

MUTATIONS = {
    "it takes starts and executes none": (
        "1.1",
        ('f"({_EXECUTE}) &"', '"exit 0"'),
    ),
    "its exit codes are wrong": ("1.4", CODES),
    "it lists what the script reads": (
        "1.8",
        (
            RUNS,
            f'x=$(cat "$(dirname "$1")/launch.sh"); sh -c "sleep 20; true" "$x" &\n{RUNS}',
        ),
    ),
    "it sends SIGKILL": ("1.9", (KILLS, KILLS.replace("SIGTERM", "SIGKILL"))),
    "it ends nothing": ("1.13", (KILLS, "pass")),
    "it knows its own starts alone": (
        "2.3",
        (ASKS, ASKS.replace("not folder.is_dir()", "name not in self.__dict__")),
    ),
    "it calls ended what runs": (
        "2.3",
        ("if code is None and alive:", "if code is None and pid is None:"),
    ),
    "it executes a name as often as it is asked": (
        "2.5",
        ('mkdir "$2" 2>/dev/null || exit 0', 'mkdir -p "$2"'),
    ),
    "it calls ended what it never got": (
        "2.6",
        (ASKS, ASKS.replace("None", "Found(state=State.ENDED, code=0)")),
    ),
    "it knows nothing while it is away": (
        "2.7",
        ('raise EngineSilent(f"{self._spool} is not there")', "pass"),
    ),
    "it lists nothing": (
        "2.8",
        ("for each in folders if", "for each in folders[:0] if"),
    ),
}


@pytest.mark.torture
@pytest.mark.parametrize("fault", MUTATIONS)
async def test_each_mutation_of_the_toy_breaks_its_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    number, mutation = MUTATIONS[fault]
    site = installed(tmp_path, *mutation)
    monkeypatch.syspath_prepend(str(site))

    judgements = await checked(
        toy_config(tmp_path),
        "toy",
        (number,),
        commands=away(tmp_path),
        patience_s=10,
        variables={"PYTHONPATH": str(site)},
    )

    assert list(broken(judgements)) == [number]


ON_A_REAL_ONE = pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(("1.8", "1.11", "2.8"), id="a few"),
        pytest.param((), id="all", marks=pytest.mark.torture(least_s=180)),
    ],
)
"""A few rules whose subject differs from engine to engine, and all, which mostly wait."""


@pytest.mark.host
@ON_A_REAL_ONE
async def test_slurm_keeps_the_rules(tmp_path: Path, numbers: tuple[str, ...]) -> None:
    with booted() as cluster:
        file = slurm_config(tmp_path, "http://127.0.0.1:9", {})
        conf = cluster.folder / "slurm.conf"
        down = f"mv {conf} {conf}.away; echo 'ClusterName=x' >{conf}; echo 'SlurmctldHost=x(127.0.0.1)' >>{conf}"
        judgements = await checked(
            file,
            "hpc",
            numbers,
            commands=Commands(
                down=down,
                up=f"mv {conf}.away {conf}",
                listing="scontrol show jobs; squeue -a -t all -O all; for job in $(squeue -h -o %i); do scontrol write batch_script $job -; done",
            ),
            patience_s=60,
            variables=cluster.env,
        )

    assert broken(judgements) == {}
    assert skipped(judgements) == (set() if numbers else {"1.13", "2.5"})


@pytest.mark.host
@ON_A_REAL_ONE
async def test_dagu_keeps_the_rules(tmp_path: Path, numbers: tuple[str, ...]) -> None:
    async with running_dagu(tmp_path / "dagu", tmp_path / "state") as dagu:
        file = dagu_config(tmp_path, "http://127.0.0.1:9", {}, dagu.origin, dagu.key)
        judgements = await checked(
            file,
            "dags",
            numbers,
            commands=Commands(
                down=f"kill -STOP {dagu.pid('server')}",
                up=f"kill -CONT {dagu.pid('server')}",
                listing=f"curl -s -H 'Authorization: Bearer {dagu.key}' {dagu.origin}/api/v2/dag-runs; grep -r '' {tmp_path}/dagu",
            ),
            patience_s=90,
        )

    assert broken(judgements) == {}
    assert skipped(judgements) == set()


async def test_the_command_prints_each_rule(tmp_path: Path) -> None:
    file = toy_config(tmp_path, kind="nobodys")

    done = await command("engine", "check", "local", "--config", str(file))

    assert done.returncode == os.EX_CONFIG
    assert "no package here has an entry point nobodys" in done.stderr


@pytest.mark.usefixtures("site")
def test_an_engine_that_is_not_configured_is_named(tmp_path: Path) -> None:
    file = toy_config(tmp_path)

    done = dispatchd("engine", "check", "other", "--config", str(file))

    assert done.returncode == os.EX_USAGE
    assert "known are: local, toy" in done.stderr


@pytest.mark.torture(least_s=90)
async def test_our_own_processes_keep_every_rule(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"

    done = await command(
        *("engine", "check", "local", "--config", str(local_config(tmp_path))),
        *("--json", "--junit", str(junit)),
    )

    rules = json.loads(done.stdout)["rules"]
    left_out = [each["number"] for each in rules if each["verdict"] != "kept"]
    assert left_out == ["1.3", "1.13", "2.5", "2.7", "2.8"], rules
    assert done.returncode == 0
    assert [each["number"] for each in rules] == [each.number for each in RULES]
    assert 'classname="engine.level2"' in junit.read_text()
