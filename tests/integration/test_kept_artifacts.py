"""Artifacts of a workspace that goes are kept by a second name, else by a copy; what is neither is missing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from dispatchd.agent.store.runs import Runs
from dispatchd.linux.folder_tree import link_tree
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.git_server import git_server


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on another file system, to which no second name leads."""
    folder = Path(mkdtemp(dir="/dev/shm"))
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    found = Runs.open(tmp_path)
    found.create("j", payload="{}", headers="{}")
    return found


def test_what_cannot_be_linked_is_copied(runs: Runs, elsewhere: Path) -> None:
    run = runs.folder("j")
    (elsewhere / "sub").mkdir()
    (elsewhere / "sub" / "a.txt").write_text("x")
    (elsewhere / "link").symlink_to("/etc/hostname")
    (run.workspace / "dist").symlink_to(elsewhere)

    assert runs.keep_artifacts("j", ["dist"]) == ()
    assert (run.artifacts / "dist" / "sub" / "a.txt").read_text() == "x"
    assert (run.artifacts / "dist" / "link").is_symlink()


def test_one_file_beside_others_is_linked(runs: Runs) -> None:
    run = runs.folder("j")
    (run.workspace / "a.txt").write_text("x")

    assert runs.keep_artifacts("j", ["a.txt", "a.txt"]) == ()
    assert (run.artifacts / "a.txt").samefile(run.workspace / "a.txt")


def test_what_can_be_neither_is_returned_and_the_rest_is_kept(
    runs: Runs, elsewhere: Path
) -> None:
    run = runs.folder("j")
    os.mkfifo(elsewhere / "pipe")
    for each in ("a", "z"):
        (elsewhere / each).write_text("x")
    (run.workspace / "bad").symlink_to(elsewhere)
    (run.workspace / "good").write_text("x")

    assert runs.keep_artifacts("j", ["bad", "good"]) == ("bad",)
    assert (run.artifacts / "good").read_text() == "x"
    assert sorted(each.name for each in (run.artifacts / "bad").iterdir()) == ["a", "z"]


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file system of a size")
def test_a_file_of_which_a_part_alone_fits_is_missing_as_a_whole(
    tmp_path: Path,
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (tmp_path / "dist").mkdir()
        (tmp_path / "dist/large").write_bytes(b"x" * 100_000)
        (tmp_path / "dist/small").write_text("x")
        with pytest.raises(OSError, match="No space left"):
            link_tree(tmp_path / "dist", small / "dist")
        assert [each.name for each in (small / "dist").iterdir()] == ["small"]
    finally:
        subprocess.run(["umount", small], check=True)


async def test_what_is_reported_does_not_hang_on_artifacts(tmp_path: Path) -> None:
    # Deeper than the path of a file may be, so it can't be kept.
    script = f"""
echo built; echo version=1 >>"$GITHUB_OUTPUT"; echo '# Done' >>"$GITHUB_STEP_SUMMARY"
exec {sys.executable} -c "
import os
for name in ['dist', *['nested'] * 700]:
    os.mkdir(name)
    os.chdir(name)"
"""
    with git_server(tmp_path / "served") as git:
        git.create("o/r")
        async with endpoint() as hub:
            config = write_config(
                tmp_path,
                hub.url,
                {"it": ["/bin/sh", "-c", script]},
                limits=f'checkout = true\ncheckout_url = "{git.url}"\nrequired_artifacts = ["dist"]\nmissing_artifacts = "fail"',
            )
            async with running_daemon(config):
                hub.hand_out({"id": "j", "dag_name": "it", "repository_name": "o/r"})
                (finish,) = await hub.until_finished("j")

    assert finish["result_cause"] == "missing-artifact", json.dumps(finish)
    assert finish["result_output"] == "built\n"
    assert finish["result_outputs"] == {"version": "1"}
    assert finish["result_step_summary"] == "# Done\n"
