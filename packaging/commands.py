"""Commands that a build runs, and archives that come out the same each time."""

import gzip
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command in the project's folder, and return what it prints. Ends the build if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def index_of_pip() -> dict[str, str]:
    """Return the variable that leads uv to the index that pip uses; uv doesn't read pip's configuration."""
    configured = (sys.executable, "-m", "pip", "config", "get", "global.index-url")
    found = subprocess.run(configured, capture_output=True, text=True, check=False)
    index = os.environ.get("PIP_INDEX_URL") or found.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index else {}


def commit_time() -> int:
    """Return when the commit that is built was made (seconds since the epoch)."""
    return int(run("git", "-C", ROOT, "log", "-1", "--format=%ct"))


def packed(folder: Path, archive: Path, mtime: int) -> None:
    """Pack a folder into a `.tar.gz` that depends on nothing but names, contents and who may execute them."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = mtime
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=mtime) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        # In the order of names, as tarfile adds what is in a folder.
        tar.add(folder, folder.name, filter=plain)
