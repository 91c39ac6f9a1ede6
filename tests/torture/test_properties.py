"""Properties with examples that no run before has had; `make test` tries the same ones each time."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.torture import Torture

pytestmark = pytest.mark.torture(least_s=150)

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(1200)
def test_properties_hold_with_other_examples(torture: Torture) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/property"),
            *(
                "-m",
                "not host and not release and not torture",
                "-p",
                "no:cacheprovider",
            ),
            *("--hypothesis-profile", "others", f"--hypothesis-seed={torture.seed}"),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-16_000:]
