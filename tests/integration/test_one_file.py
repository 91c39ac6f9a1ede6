"""The program as one file: it starts itself again, and so it has to find itself in there."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

import bundle
from support.release import bare_environment, built, fence

pytestmark = [pytest.mark.release, pytest.mark.timeout(600)]


def test_it_plays_the_demo_and_reports_a_bug(tmp_path: Path) -> None:
    file = built("*.pex")
    if not Path(f"/usr/bin/python{bundle.PYTHON}").exists():
        pytest.skip(f"the machine has no /usr/bin/python{bundle.PYTHON}")
    # Without the mode that a download doesn't have.
    shutil.copyfile(file, tmp_path / file.name)

    done = subprocess.run(
        ["sh", "-euc", fence("The one file")],
        cwd=tmp_path,
        env=bare_environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )

    assert done.returncode == 0, done
    assert "8 jobs, each started at most once and reported." in done.stdout
    [report] = tmp_path.glob("dispatchd-bug-report-*.tar.gz")
    with tarfile.open(report) as tar:
        member = tar.extractfile("dispatchd-bug-report/config-check.json")
        assert member is not None
        check = json.load(member)
    # The program's own words about a configuration that isn't there, and none of Python's.
    assert "No module named" not in json.dumps(check)
    assert "config.toml" in json.dumps(check)
