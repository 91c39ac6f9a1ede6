"""An image with one program, made without any registry; the machine's programs can be mounted into it."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path
from tempfile import gettempdir

import pytest

IMAGE = f"localhost/dispatchd-test:{os.getpid()}"
"""One for each process of tests: they run beside each other."""
BUSYBOX = Path("/bin/busybox")
TOOLS = ("sh", "echo", "cat", "env", "id", "kill", "ls", "rm", "sleep", "touch", "head")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with one program, made without any registry."""
    if shutil.which("podman") is None or not BUSYBOX.exists():
        pytest.skip("needs podman and busybox-static")
    folder = tmp_path_factory.mktemp("image")
    archive, conf = folder / "root.tar", folder / "containers.conf"
    # Without CAP_SYS_RESOURCE, as within another container, no limit can be raised.
    limits = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
    runtime = '[engine]\nruntime = "runc"\n' if shutil.which("runc") else ""
    conf.write_text(limits + runtime)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CONTAINERS_CONF", str(conf))
        # One module of tests at a time: podman is slow beside itself.
        with (Path(gettempdir()) / "dispatchd-test-podman.lock").open("w") as lock:
            flock(lock, LOCK_EX)
            yield _made(archive)
            podman("rmi", "--force", IMAGE)


def _made(archive: Path) -> str:
    with tarfile.open(archive, "w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for tool in TOOLS:
            link = tarfile.TarInfo(f"bin/{tool}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        # Where programs of the machine that are mounted at /usr look for their libraries.
        for folder in ("lib", "lib64"):
            link = tarfile.TarInfo(folder)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{folder}"
            tar.addfile(link)
    made = podman("import", "--quiet", str(archive), IMAGE)
    tried = podman("run", "--rm", "--network=none", "--init", IMAGE, "/bin/echo", "up")
    if made.returncode or tried.stdout != b"up\n":
        pytest.skip(f"podman runs nothing here: {tried.stderr.decode()}")
    return IMAGE


def podman(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["podman", *arguments], capture_output=True, check=False, timeout=120
    )
