"""`dispatchd config check --portable`: files for other machines, as a repository has them and pre-commit checks them."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.cli import dispatchd

ROOT = Path(__file__).parents[2]

GOOD = """
[cloud]
url = "https://dispatch.example.com"
license_id = "lic-1"
server_id = "build-1"
secret_file = "/etc/dispatchd/secret"
ca_file = "/etc/dispatchd/ca.pem"

[workflows.build]
command = ["./build.sh"]

[workflows.deploy]
command = ["a-program-of-that-machine"]
"""
BAD = GOOD.replace("https:", "http:")
UNKNOWN = GOOD + "\n[workflows.x]\ncomand = []\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dispatchd").mkdir()
    return tmp_path / "dispatchd"


def test_a_file_for_another_machine_is_judged_by_itself(folder: Path) -> None:
    file = folder / "config.toml"
    file.write_text(GOOD)

    here = dispatchd("config", "check", "--config", str(file))
    portable = dispatchd("config", "check", "--portable", str(file))

    assert here.returncode == os.EX_CONFIG
    assert "cloud.secret_file" in here.stderr
    assert (portable.returncode, portable.stderr) == (0, "")
    good, left_out = portable.stdout.splitlines()
    assert good == f"{file} has no mistakes; workflows: build, deploy"
    assert left_out.startswith("left out, since only its machine can answer: the ma")


def test_every_mistake_of_every_file_is_told(folder: Path) -> None:
    for name, text in {"good": GOOD, "bad": BAD, "unknown": UNKNOWN}.items():
        (folder / f"{name}.toml").write_text(text)
    (folder / "none.toml").write_text("[cloud\n")
    files = [
        str(folder / f"{name}.toml") for name in ("good", "bad", "unknown", "none")
    ]

    said = dispatchd("config", "check", "--portable", *files)
    shown = dispatchd("config", "check", "--portable", "--json", *files)

    assert said.returncode == shown.returncode == os.EX_CONFIG
    assert "bad.toml: cloud.url: must be https" in said.stderr
    assert "unknown.toml: workflows.x" in said.stderr
    assert "none.toml: " in said.stderr
    assert "good.toml has no mistakes" in said.stdout
    document = json.loads(shown.stdout)
    assert document["files"] == files
    assert len(document["left_out"]) == 4
    named = {Path(each["file"]).name for each in document["problems"]}
    assert named == {"bad.toml", "unknown.toml", "none.toml"}


def test_files_are_for_portable_checks_alone(folder: Path) -> None:
    done = dispatchd("config", "check", str(folder / "config.toml"))

    assert done.returncode == os.EX_USAGE
    assert "they are for --portable" in done.stderr


def hook(name: str) -> str:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    [found] = re.findall(rf"^(?:- |  ){name}: (.*)$", text, re.MULTILINE)
    return str(found)


def test_the_hook_calls_the_command_for_the_files_that_it_names(folder: Path) -> None:
    (folder / "config.toml").write_text(GOOD)
    program, *words = hook("entry").split()

    done = dispatchd(*words, str(folder / "config.toml"))

    assert (program, done.returncode) == ("dispatchd", 0)
    wanted = re.compile(hook("files"))
    for path in (
        "dispatchd/config.toml",
        "a/dispatchd/m1/config.toml",
        "dispatchd.toml",
    ):
        assert wanted.search(path), path
    for path in (
        "config.toml",
        "dispatchd/config.toml.d/50-join.toml",
        "pyproject.toml",
    ):
        assert not wanted.search(path), path


@pytest.mark.torture(least_s=60)
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not shutil.which("pre-commit"), reason="needs pre-commit")
def test_pre_commit_takes_the_hook(folder: Path) -> None:
    """It installs this package from its own checkout, and runs the hook on a good and on a bad file."""
    git = ("git", "-C", str(folder.parent))
    subprocess.run([*git, "init", "-q"], check=True)
    (folder.parent / ".gitignore").write_text("home\n")
    for text, code, words in (
        (GOOD, 0, "Passed"),
        (BAD, 1, "cloud.url: must be https"),
    ):
        (folder / "config.toml").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        done = subprocess.run(
            ["pre-commit", "try-repo", str(ROOT), "dispatchd-config", "--all-files"],
            cwd=folder.parent,
            env={**os.environ, "PRE_COMMIT_HOME": str(folder.parent / "home")},
            capture_output=True,
            text=True,
            check=False,
            timeout=580,
        )
        assert (done.returncode, words in done.stdout) == (code, True), done.stdout
