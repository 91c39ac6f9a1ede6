"""A daemon of another user, for tests that run as root."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

USER = 65534
"""Who the daemon is: nobody (uid)."""

NOBODY = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *("--inh-caps=-all", "--"),
)


def python() -> str:
    """Return an interpreter of this version that the daemon's user may execute."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, f"/usr/bin/{minor}"):
        # By a shell: setpriv itself may still execute what its user may not.
        tried = [*NOBODY, "/bin/sh", "-c", f"exec {program} -I -c pass"]
        if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
            return program
    pytest.skip("the daemon's user can execute no Python of this version")


def as_nobody(folder: Path) -> dict[str, Any]:
    """Return how a daemon is started as another user, in a folder that is made that user's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    start = f'shift; exec {python()} "$@"'
    packages = [path for path in sys.path if path and Path(path).is_dir()]
    return {
        "wrapper": (*NOBODY, "/bin/sh", "-c", start, "sh"),
        "env": {"PYTHONPATH": os.pathsep.join(packages), "HOME": str(folder)},
    }
