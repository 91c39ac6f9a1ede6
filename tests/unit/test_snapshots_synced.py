"""Copies of artifacts outlast a power cut from the moment on in which their job may be finished."""

import os
import subprocess
import sys
from pathlib import Path

import support
from support.preload import build


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
    library = build(Path(support.__file__).parent / "log_syncs.c", tmp_path)
    log = tmp_path / "log"
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env={**os.environ, "LD_PRELOAD": str(library), "SYNC_LOG": str(log)},
    )

    # The folder of a state folder is made first.
    synced = [Path(line) for line in log.read_text().splitlines()][1:]
    folder = tmp_path / "artifacts"
    hashes = {path.name for path in (folder / "j").iterdir()}
    assert {path.name for path in synced[:3]} == hashes
    assert len(hashes) == 3
    assert {path.parent for path in synced[:3]} == {synced[3]}
    assert synced[3].name.startswith(".new-")
    assert synced[4:] == [folder]
