"""A `dispatchd hub init` that the kernel kills while it writes."""

import signal
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import resource, signal, sys
from pathlib import Path
from dispatchd.hub.init import init
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
init(Path(sys.argv[1]), listen="127.0.0.1:0", database_url="sqlite:///hub.db", license_id="x")
"""


def kill_init(folder: Path, at_byte: int) -> None:
    """Make a hub in a process that ends at a byte of the first file that is longer."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), str(at_byte)], check=False
    )
    assert done.returncode == -signal.SIGXFSZ
