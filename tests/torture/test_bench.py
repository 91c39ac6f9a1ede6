"""Each benchmark runs to its end against the programs as they are; its figures are for people."""

import subprocess
import sys
from types import ModuleType

import pytest
from bench.__main__ import MODULES


@pytest.mark.torture(least_s=150)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_benchmark_prints_its_figures(module: ModuleType) -> None:
    command = [sys.executable, "-m", module.__name__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
