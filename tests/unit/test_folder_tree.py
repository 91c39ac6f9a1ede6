"""What a run has left is removed however deep it is, and what can't be removed stops nothing else."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.linux.folder_tree import remove_tree
from support.folders import nest

DEEP = 1200
"""Deeper than Python recurses, than there are descriptors, and than a path is long."""


@pytest.fixture(autouse=True)
def nothing_deep_is_left(tmp_path: Path) -> Iterator[None]:
    """Remove what a failing test leaves: pytest's own clean-up recurses."""
    yield
    subprocess.run(["rm", "-rf", tmp_path], check=False)


@pytest.mark.parametrize("name", ["nested", "n" * 255])
def test_a_deep_tree_is_removed(tmp_path: Path, name: str) -> None:
    nest(tmp_path / "run", DEEP, name)

    left = remove_tree(tmp_path / "run")

    assert left.count == 0
    assert not (tmp_path / "run").exists()


def test_a_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    nest(tmp_path / "run", DEEP)
    script = (
        "import pathlib, resource, sys\n"
        "from dispatchd.linux.folder_tree import remove_tree\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "assert remove_tree(pathlib.Path(sys.argv[1])).count == 0\n"
    )

    subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=True)

    assert not (tmp_path / "run").exists()


def test_read_only_and_closed_folders_are_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for mode in (0o500, 0o000, 0o200, 0o100):
        folder = run / f"{mode:o}" / "inner" / "more"
        folder.mkdir(parents=True)
        (folder / "file").touch()
        for each in (folder, folder.parent, folder.parent.parent):
            each.chmod(mode)

    assert remove_tree(run).count == 0
    assert not run.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    run = tmp_path / "run"
    run.mkdir()
    (run / "to-folder").symlink_to(kept)
    (run / "to-nowhere").symlink_to("gone")
    os.mkfifo(run / "pipe")

    assert remove_tree(run).count == 0
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").exists()


def test_a_link_in_the_place_of_the_folder_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "kept")

    assert remove_tree(tmp_path / "run").count == 0
    assert (tmp_path / "kept").exists()


def test_nothing_is_removed_where_nothing_is(tmp_path: Path) -> None:
    assert remove_tree(tmp_path / "run").count == 0


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    """A file that not even root may remove."""
    if os.geteuid() != 0 or shutil.which("chattr") is None:
        pytest.skip("needs root and chattr")
    file = tmp_path / "run" / "a" / "deep" / "file"
    file.parent.mkdir(parents=True)
    file.touch()
    if subprocess.run(["chattr", "+i", file], check=False).returncode:
        pytest.skip("needs a file system with immutable files")
    yield file
    for each in tmp_path.rglob("file"):
        subprocess.run(["chattr", "-i", each], check=True)


@pytest.mark.host
def test_an_immutable_file_stays_alone(tmp_path: Path, immutable: Path) -> None:
    run = tmp_path / "run"
    for number in range(20):
        (run / f"folder-{number}").mkdir()
        (run / f"folder-{number}" / "x").touch()

    left = remove_tree(run)

    assert left.count == 1
    assert left.first is not None
    assert left.first.strerror == "Operation not permitted"
    assert [each.name for each in run.rglob("*") if each.is_file()] == [immutable.name]
    assert Path(left.first.filename).exists()


AS_NOBODY = """
import os, pathlib, sys
from dispatchd.linux.folder_tree import remove_tree
os.setgid(65534); os.setuid(65534)
left = remove_tree(pathlib.Path(sys.argv[1]))
print(left.count, left.first and left.first.strerror)
"""


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("again", [False, True])
def test_files_of_another_user_stay_alone(tmp_path: Path, *, again: bool) -> None:
    for each in (*tmp_path.parents, tmp_path):
        if each.stat().st_mode & 0o077 == 0:
            each.chmod(0o711)
    run = tmp_path / "place" / "run"
    (run / "workspace" / "dist" / "deep").mkdir(parents=True)
    (run / "workspace" / "dist" / "deep" / "app").touch()
    (run / "workspace" / "empty-of-root").mkdir()
    (run / "workspace" / "own" / "x").mkdir(parents=True)
    (run / "output.log").touch()
    mine = (
        *(run.parent, run, run / "workspace", run / "output.log"),
        *(run / "workspace" / "own", run / "workspace" / "own" / "x"),
    )
    for each in mine:
        os.chown(each, 65534, 65534)

    said = [
        subprocess.run(
            [sys.executable, "-c", AS_NOBODY, run],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(1 + again)
    ]

    assert set(said) == {"1 Permission denied"}
    assert sorted(each.name for each in run.rglob("*") if each.is_file()) == ["app"]
    assert not [each for each in run.rglob("*") if each.name in {"own", "output.log"}]


@pytest.mark.parametrize("kind", ["file", "pipe", "link", "link to a folder", "socket"])
def test_what_is_in_a_folder_s_place_is_removed_too(tmp_path: Path, kind: str) -> None:
    """A run can put anything in the place of its home, which is moved away and removed when it has ended."""
    place, other = tmp_path / "place", tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    match kind:
        case "file":
            place.touch(mode=0)
        case "pipe":
            os.mkfifo(place)
        case "link":
            place.symlink_to("/nonexistent")
        case "link to a folder":
            place.symlink_to(other)
        case _:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(place))

    left = remove_tree(place)

    assert left.count == 0
    assert not os.path.lexists(place)
    assert (other / "kept").exists()
