"""A release that `make dist` has built from these sources, or the reason why there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
BESIDE = ("tests/", "bench/", ".ci/")
"""Folders that nothing of a release is built from."""


def built(pattern: str) -> Path:
    """Return the one file of `dist/` that matches; skip where it is missing, or older than what it is built from."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nothing says what dist/ is built from")
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    sources = [ROOT / name for name in listed if not name.startswith(BESIDE)]
    newest = max(file.stat().st_mtime for file in sources if file.exists())
    sums = DIST / "SHA256SUMS"
    if not sums.exists() or sums.stat().st_mtime < newest:
        pytest.skip("dist/ is missing, or older than the sources: run `make dist`")
    found = sorted(DIST.glob(pattern))
    if not found:
        pytest.skip(f"`make dist` built no {pattern} here: it says why")
    [file] = found
    return file


def bare_environment(home: Path | str) -> dict[str, str]:
    """Return the environment of a machine on which nothing was set up."""
    # Not this process's PATH: it leads to Python of the tests.
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": os.fspath(home)}


def fence(heading: str) -> str:
    """Return the commands in the first fence below a heading of docs/install.md."""
    text = (ROOT / "docs/install.md").read_text()
    below = text.partition(f"\n## {heading}\n")[2]
    return below.partition("```sh\n")[2].partition("```\n")[0]
