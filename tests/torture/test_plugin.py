"""The options of `make torture`: one seed for the order in all workers, and an end that leaves the rest unrun."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.torture import Sweep, Torture

TESTS = """
import pytest

@pytest.mark.torture
@pytest.mark.parametrize("number", range(12))
def test_torture(number, torture):
    print(f"ran {number}, size {torture.size}")

@pytest.mark.torture(least_s=3600)
def test_long():
    pass

def test_usual():
    pass
"""


def run(folder: Path, *options: str, **variables: str) -> str:
    """Run pytest with the plugin on tests of its own; return what it prints."""
    (folder / "test_some.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n torture: as in ours\n")
    command = (
        *(sys.executable, "-m", "pytest", "-p", "xdist", "-p", "support.torture"),
        *("-rs", "-v", "-m", "torture"),
    )
    # Those of other packages take seconds to load.
    usual = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    usual["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    ended = subprocess.run(
        [*command, *options],
        cwd=folder,
        env={**usual, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_order_is_that_of_the_seed(tmp_path: Path) -> None:
    first, again, other = (
        re.findall(r"test_torture\[(\d+)\] PASSED", run(tmp_path, "--seed", seed))
        for seed in ("7", "7", "8")
    )

    assert first == again != other
    assert sorted(map(int, other)) == list(range(12))


def test_workers_agree_on_a_fresh_seed_and_it_is_printed(tmp_path: Path) -> None:
    printed = run(tmp_path, "-n", "2", DISPATCHD_SEED="0", DISPATCHD_SIZE="3")

    # xdist fails where two workers collect in different orders.
    [header] = re.findall(
        r"^torture: seed (\d+), size 3, until all is done$", printed, re.MULTILINE
    )
    last = rf"^torture: 13 of 13 ran in \d+ s; seed {header}$"
    assert re.search(last, printed, re.MULTILINE), printed


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_has_not_begun_when_the_time_is_over_is_skipped(
    tmp_path: Path, workers: str
) -> None:
    options = ("-n", workers, "--seed", "5", "--duration", "0.001")

    printed = run(tmp_path, *options)

    assert "the 0.001 s of --duration were over before it began" in printed
    last = r"^torture: 0 of 13 ran in \d+ s; seed 5$"
    assert re.search(last, printed, re.MULTILINE), printed


def test_what_takes_longer_than_is_left_is_skipped(tmp_path: Path) -> None:
    printed = run(tmp_path, "-n", "0", "--seed", "5", "--duration", "3000")

    assert "fewer than 3600 s of the 3000 s of --duration were left" in printed
    last = r"^torture: 12 of 13 ran in \d+ s; seed 5$"
    assert re.search(last, printed, re.MULTILINE), printed


def test_the_time_of_a_session_runs_out() -> None:
    assert Torture(seed=1, size=1, began=0, duration_s=1).is_over
    assert not Torture(seed=1, size=1, began=0, duration_s=0).is_over


def test_a_sweep_holds_its_bounds() -> None:
    sweep = Sweep(least=2, most=4)

    for step, killed in ((1, True), (3, True), (3, False), (5, False)):
        sweep.require(step, killed=killed)
    with pytest.raises(AssertionError, match="survived step 2"):
        sweep.require(2, killed=False)
    with pytest.raises(AssertionError, match="killed at step 5"):
        sweep.require(5, killed=True)
    names = [each.id for each in sweep.every_step()]
    assert names == ["sqlite-1", "sqlite-2", "sqlite-3", "sqlite-4", "sqlite-complete"]
