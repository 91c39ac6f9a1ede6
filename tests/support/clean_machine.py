"""A Debian with nothing of this machine but its kernel, its network and the way to the package index.

Made by debootstrap once, into `.cache/`; what a test writes there goes with it.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]
_CACHE = ROOT / ".cache"
_PACKAGES = "python3-venv,make,ca-certificates"
"""What README.md asks for, on a Debian without anything else."""

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_CONFIGURED = ("/etc/pip.conf", "/etc/resolv.conf", "/etc/hosts")
HOME = "/home/me"
_UID = "1000"

_BOOT = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
root=$1/root
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
shift 2
for each; do
  mkdir -p "$root$(dirname "$each")"
  [ -d "$each" ] && mkdir -p "$root$each" || : >>"$root$each"
  mount --bind "$each" "$root$each"
done
mkdir -p "$root/home/me"
chown 1000:1000 "$root/home/me"
echo up
exec chroot "$root" sleep infinity
"""


@frozen
class CleanMachine:
    """A running machine; commands in it are those of an ordinary user."""

    init: int
    environment: Mapping[str, str]

    def command(self, text: str, *, within: str = HOME) -> list[str]:
        """Return the call of this machine that runs a shell's command there."""
        user = ("setpriv", "--reuid", _UID, "--regid", _UID, "--clear-groups")
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return [
            *("nsenter", "-t", str(self.init), "-m", "-p", "--root", "--wd", "--"),
            *(*user, "env", "-i", *variables),
            *("sh", "-c", f"cd {shlex.quote(within)} && exec {text}"),
        ]

    def run(self, text: str, *, within: str = HOME, given: bytes = b"") -> str:
        """Return what a command prints; it has to succeed."""
        done = subprocess.run(
            self.command(text, within=within),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        output = done.stdout.decode()
        assert done.returncode == 0, (text, output)
        return output


@contextmanager
def clean_machine(folder: Path) -> Iterator[CleanMachine]:
    """Give a machine; `folder` is made to mount it on."""
    folder.mkdir()
    base = _base()
    passed = _passed_on()
    paths = {path for path in (*passed.values(), *_CONFIGURED) if path.startswith("/")}
    seen = [path for path in sorted(paths) if Path(path).exists()]
    with subprocess.Popen(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *("sh", "-c", _BOOT, "sh", str(folder), str(base), *seen),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "up\n":
                pytest.skip("this machine mounts no overlay for a clean one")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            path = "/usr/local/bin:/usr/bin:/bin"
            environment = {**passed, "PATH": path, "HOME": HOME}
            yield CleanMachine(int(children.read_text()), environment)
        finally:
            process.kill()


def _passed_on() -> dict[str, str]:
    """Return the variables by which pip reaches its index."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name.lower() in _PROXIES or name in _CERTIFICATES
    }


def _base() -> Path:
    """Return the folder with a Debian; skip, with the reason, where none can be had."""
    for program in ("debootstrap", "unshare", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} isn't installed")
    if os.geteuid() != 0:
        pytest.skip("only root may make a machine")
    release = Path("/etc/os-release").read_text()
    named = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    if named["ID"] != "debian":
        pytest.skip("this machine isn't Debian: it has no keys of Debian's")
    base = _CACHE / f"debian-{named['VERSION_CODENAME']}"
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            _make(base, named["VERSION_CODENAME"])
    return base


def _make(base: Path, codename: str) -> None:
    aside = base.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    done = subprocess.run(
        [
            *("debootstrap", "--variant=minbase", f"--include={_PACKAGES}"),
            *(codename, aside),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        pytest.skip(f"debootstrap makes no Debian here: {done.stdout[-300:]}")
    aside.rename(base)
