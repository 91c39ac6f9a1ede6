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

from dispatchd.agent.store.artifacts.find import MOST_PATHS
from dispatchd.agent.store.artifacts.keep import keep
from dispatchd.agent.store.evidence import missing_artifacts
from dispatchd.agent.store.runs import Runs
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


def test_what_cannot_be_linked_is_copied(tmp_path: Path, elsewhere: Path) -> None:
    (elsewhere / "dist/sub").mkdir(parents=True)
    (elsewhere / "dist/sub/tool").write_text("x")
    (elsewhere / "dist/sub/tool").chmod(0o750)
    (elsewhere / "dist/link").symlink_to("/etc/hostname")
    os.mkfifo(elsewhere / "dist/pipe")

    assert keep(elsewhere, tmp_path / "kept", ["dist"]) == []

    found = tmp_path / "kept/dist"
    assert (found / "sub/tool").read_text() == "x"
    assert (found / "sub/tool").stat().st_mode & 0o777 == 0o750
    assert (found / "link").readlink() == Path("/etc/hostname")
    assert sorted(each.name for each in found.iterdir()) == ["link", "sub"]


def test_one_file_beside_others_is_linked(runs: Runs) -> None:
    run = runs.folder("j")
    (run.workspace / "a.txt").write_text("x")
    (run.workspace / "empty").mkdir()

    assert runs.keep_artifacts("j", ["a.txt", "a.txt", "empty"]) == ()
    assert (run.artifacts / "a.txt").samefile(run.workspace / "a.txt")
    assert (run.artifacts / "empty").is_dir()


def test_an_artifact_has_the_name_that_its_link_leads_to(runs: Runs) -> None:
    run = runs.folder("j")
    (run.workspace / "build-7").mkdir()
    (run.workspace / "build-7/report").write_text("x")
    (run.workspace / "latest").symlink_to("build-7")

    assert runs.keep_artifacts("j", ["latest", "latest/report", "build-7"]) == ()
    assert (run.artifacts / "build-7/report").read_text() == "x"
    assert [each.name for each in run.artifacts.iterdir()] == ["build-7"]


def test_what_cannot_be_kept_is_returned_and_the_rest_is_kept(runs: Runs) -> None:
    run = runs.folder("j")
    deep = run.workspace / "bad" / "/".join(["d"] * 70)
    deep.mkdir(parents=True)
    (run.workspace / "bad/a").write_text("x")
    (run.workspace / "good").write_text("x")

    os.mkfifo(run.workspace / "pipe")

    lost = runs.keep_artifacts("j", ["bad", "good", "none", "pipe"])
    assert lost == ("bad", "none", "pipe")
    assert (run.artifacts / "good").read_text() == "x"
    assert (run.artifacts / "bad/a").read_text() == "x"


def test_no_link_of_a_run_leads_out_of_the_kept_artifacts(
    runs: Runs, tmp_path: Path
) -> None:
    """Seen: a link from deep in the workspace, copied to a shallow folder, led out; what was named behind it was written there."""
    run, victim = runs.folder("j"), tmp_path / "victim"
    victim.mkdir()
    deep, levels = run.workspace, 30
    for _ in range(levels):
        deep = deep / "a"
    deep.mkdir(parents=True)
    (run.workspace / "l").symlink_to("a/" * levels)
    up = "../" * levels
    (deep / "s").symlink_to(f"{up}{victim.relative_to('/')}")
    # Where the link leads to as long as it is deep.
    inside = run.workspace / victim.relative_to("/")
    inside.mkdir(parents=True)
    (inside / "planted").write_text("by the run")
    named = ["l", "l/s/planted"]
    assert missing_artifacts(run.workspace, named) == ()

    assert runs.keep_artifacts("j", named) == ()

    assert [*victim.iterdir()] == []
    place = run.artifacts / victim.relative_to("/")
    assert (place / "planted").read_text() == "by the run"


def test_a_folder_that_is_named_often_is_copied_once(runs: Runs) -> None:
    """Seen: 50 links to a folder of 2,000 files became 100,000 files."""
    run = runs.folder("j")
    (run.workspace / "dist").mkdir()
    for number in range(100):
        (run.workspace / f"dist/{number}").touch()
        (run.workspace / f"l{number}").symlink_to("dist")

    named = [f"l{number}" for number in range(100)]
    assert runs.keep_artifacts("j", named) == ()
    assert [each.name for each in run.artifacts.iterdir()] == ["dist"]


def test_many_names_are_not_all_kept(runs: Runs) -> None:
    run = runs.folder("j")
    for number in range(MOST_PATHS + 1):
        (run.workspace / f"f{number:04}").touch()
    named = [f"f{number:04}" for number in range(MOST_PATHS + 1)]

    assert runs.keep_artifacts("j", named) == (named[-1],)


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
        [(path, reason)] = keep(tmp_path, small / "kept", ["dist"])
        assert (path, reason) == ("dist", "dist/large: No space left on device")
        assert [each.name for each in (small / "kept/dist").iterdir()] == ["small"]
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
