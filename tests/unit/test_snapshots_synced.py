"""Copies of artifacts outlast a power cut from the moment on in which their job may be finished."""

import os
import subprocess
import sys
from pathlib import Path

import support
from support.preload import build


def synced_by(program: str, tmp_path: Path) -> list[Path]:
    """Return what a program syncs, in order."""
    library = build(Path(support.__file__).parent / "log_syncs.c", tmp_path)
    log = tmp_path / "log"
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env={**os.environ, "LD_PRELOAD": str(library), "SYNC_LOG": str(log)},
    )
    return [Path(line) for line in log.read_text().splitlines()]


def test_what_is_kept_of_a_workspace_is_synced_with_its_folders(tmp_path: Path) -> None:
    dist = tmp_path / "artifacts/dist"
    (dist / "below").mkdir(parents=True)
    (dist / "below/app.whl").write_text("wheel")
    (dist / "link").symlink_to("/etc/passwd")
    os.mkfifo(dist / "pipe")

    synced = synced_by(
        f"from pathlib import Path; from dispatchd.linux.folder_tree import sync_tree; sync_tree(Path({str(dist)!r}))",
        tmp_path,
    )

    assert set(synced) == {dist, dist / "below", dist / "below/app.whl"}
    assert synced.index(dist / "below/app.whl") < synced.index(dist / "below")


def test_copies_are_synced_before_they_appear_under_their_name(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for name in ("one", "two"):
        (workspace / name).write_text(name)
    program = f"""
from pathlib import Path
from dispatchd.agent.store.artifacts.snapshots import Bounds, Owner, Snapshots, Wanted

Snapshots.open(Path({str(tmp_path)!r})).take(
    Owner(job_id="j", attempt=1),
    Path({str(workspace)!r}),
    Wanted(paths=("one", "two"), patterns=()),
    Bounds(most_bytes=99, min_free_bytes=0, is_late=lambda: False),
)
"""
    # The folder of a state folder is made first.
    synced = synced_by(program, tmp_path)[1:]
    folder = tmp_path / "artifacts"
    hashes = {path.name for path in (folder / "j").iterdir()}
    assert {path.name for path in synced[:3]} == hashes
    assert len(hashes) == 3
    assert {path.parent for path in synced[:3]} == {synced[3]}
    assert synced[3].name.startswith(".new-")
    assert synced[4:] == [folder]
