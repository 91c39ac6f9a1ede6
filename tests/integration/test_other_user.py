"""A daemon that isn't root works with what a change of users has left it: PATH, HOME and files of somebody else."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import daemon_process
from support.daemon import write_config
from support.endpoint import endpoint
from support.git_server import git_server
from support.other_user import NOBODY, USER, as_nobody, python
from support.until import until

IT = {"it": ["/bin/sh", "-c", "id -u"]}

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody may enter, with one that only root may."""
    with tempfile.TemporaryDirectory(prefix="dispatchd-other-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        tool = folder / "closed" / "tools" / "bin" / "tool"
        tool.parent.mkdir(parents=True)
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
        (folder / "closed").chmod(0o700)
        yield folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "{place}/closed/tools/bin:/usr/bin:/bin"),
        ("HOME", "{place}/closed/home"),
        ("TMPDIR", "{place}/closed"),
    ],
)
async def test_a_variable_that_leads_into_a_folder_of_another_user_is_borne(
    place: Path, name: str, value: str
) -> None:
    """As after su(1), and with sudo(8) that keeps the environment."""
    async with endpoint() as hub:
        config = write_config(place / "m", hub.url, IT, isolation="sandbox")
        how = as_nobody(place / "m")
        how["env"][name] = value.format(place=place)
        async with daemon_process.running_daemon(config, **how) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j", within_s=60)

    assert finish["result_status"] == "succeeded", finish
    assert "bug_contained" not in [line.get("event") for line in daemon.log()]


async def test_a_command_in_a_folder_of_another_user_fails_its_job_alone(
    place: Path,
) -> None:
    command = {"it": [str(place / "closed" / "tools" / "bin" / "tool")]}
    async with endpoint() as hub:
        config = write_config(place / "m", hub.url, command)
        async with daemon_process.running_daemon(
            config, **as_nobody(place / "m")
        ) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finish,) = await hub.until_finished("j", within_s=60)

    assert (finish["result_status"], finish["result_cause"]) == ("failed", "spawn")
    assert "Permission denied" in finish["result_summary"]
    assert "bug_contained" not in [line.get("event") for line in daemon.log()]


BUILDS = """
echo built; echo version=1 >>"$GITHUB_OUTPUT"; echo '# Done' >>"$GITHUB_STEP_SUMMARY"
mkdir dist && echo x >dist/a.txt && echo y >dist/b.txt && touch ready
while ! [ -e go ]; do sleep 0.05; done
"""


@pytest.mark.skipif(
    Path("/proc/sys/fs/protected_hardlinks").read_text().strip() != "1",
    reason="this kernel lets everybody link others' files",
)
@pytest.mark.parametrize(("mode", "outcome"), [(0o644, "succeeded"), (0o600, "failed")])
async def test_an_artifact_of_another_owner_is_copied_or_missing_and_the_report_is_whole(
    place: Path, mode: int, outcome: str
) -> None:
    """As after a build in a container whose user is root."""
    with git_server(place / "served") as git:
        git.create("o/r")
        async with endpoint() as hub:
            config = write_config(
                place / "m",
                hub.url,
                {"it": ["/bin/sh", "-c", BUILDS]},
                limits=f'checkout = true\ncheckout_url = "{git.url}"\n'
                'required_artifacts = ["dist"]\nmissing_artifacts = "fail"',
            )
            async with daemon_process.running_daemon(
                config, **as_nobody(place / "m")
            ) as daemon:
                hub.hand_out({"id": "j", "dag_name": "it", "repository_name": "o/r"})
                run = daemon.state / "runs" / "j"
                await until((run / "workspace/ready").exists, 60, "a build")
                dist = run / "workspace/dist"
                (dist / "b.txt").chmod(mode)
                for each in (dist, *dist.iterdir()):
                    os.chown(each, 0, 0)
                (run / "workspace/go").touch()
                (finish,) = await hub.until_finished("j", within_s=60)

    assert finish["result_status"] == outcome, finish
    assert finish["result_output"] == "built\n"
    assert finish["result_outputs"] == {"version": "1"}
    assert finish["result_step_summary"] == "# Done\n"
    copied = run / "artifacts/dist/a.txt"
    assert (copied.read_text(), copied.stat().st_uid) == ("x\n", USER)
    if outcome == "failed":
        assert finish["result_cause"] == "missing-artifact"
        assert "dist" in finish["result_summary"]
    else:
        assert (run / "artifacts/dist/b.txt").read_text() == "y\n"


@pytest.mark.parametrize("words", [("jobs",), ("status",), ("config", "check")])
def test_a_user_without_an_entry_and_a_home_can_ask(
    place: Path, words: tuple[str, ...]
) -> None:
    """As in a container that is given a number for its user."""
    config = write_config(place / "m", "http://127.0.0.1:9", IT)
    how = as_nobody(place / "m")
    nameless = ("setpriv", "--reuid=61234", *NOBODY[2:])
    (place / "m" / "secret").chmod(0o644)
    (place / "m").chmod(0o755)
    said = subprocess.run(
        [
            *nameless,
            *("/bin/sh", "-c", f'exec {python()} -m dispatchd "$@"', "sh"),
            *(*words, "--config", str(config)),
        ],
        env={"PATH": os.defpath, "PYTHONPATH": how["env"]["PYTHONPATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Traceback" not in said.stderr, said.stderr
    assert said.returncode in {0, os.EX_UNAVAILABLE}
    assert said.stderr.count("\n") <= 1
