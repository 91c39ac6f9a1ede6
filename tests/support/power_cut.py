"""What is found after a power cut: of each file and folder what it had when it was last synced, and no more."""

import shutil
from pathlib import Path


def restore(state: Path, noted: Path) -> None:
    """Put in the place of a state folder what a disk has kept of it (tests/torture/power_cut.c).

    A folder that was never synced is empty, and so is a file; what was removed without a sync is there again.
    """
    inode = state.stat().st_ino
    lost = state.with_name("lost")
    state.rename(lost)
    _restore_folder(state, inode, noted)
    shutil.rmtree(lost)


def _restore_folder(folder: Path, inode: int, noted: Path) -> None:
    folder.mkdir(mode=0o700)
    entries = noted / f"{inode}.entries"
    for line in entries.read_text().splitlines() if entries.exists() else ():
        number, is_folder, name = line.split(" ", 2)
        if int(is_folder):
            _restore_folder(folder / name, int(number), noted)
        elif not name.endswith(".sock"):
            data = noted / f"{number}.data"
            (folder / name).write_bytes(data.read_bytes() if data.exists() else b"")
            (folder / name).chmod(0o600)
