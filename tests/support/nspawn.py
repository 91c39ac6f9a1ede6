"""A machine with a real systemd, booted in a container on this one's /usr, for the length of some tests.

Facts from systemd-nspawn(1) and systemd(1). It shares the network, so that endpoints on loopback are reached.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from anyio import to_thread
from attrs import define, field

from support.until import until

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"

_PYTHON = "/opt/python"
_SOURCE = "/opt/source"
_PACKAGES = "/opt/packages"
_CALLS = (
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    # A container has a session keyring of its own.
    "@keyring",
)
_SETTLED = ("running", "degraded")
_LOCK = Path("/run/dispatchd-test-machine.lock")


@define
class Machine:
    """A booted machine: `folder` is ours and has its /etc/dispatchd and /etc/credstore.

    One that is bare has the program alone, and an /etc of its own. It sees folders of this machine where `overlaid` says,
    and what it writes there goes with it. One that is apart has a loopback of its own, and no other network.
    """

    folder: Path
    name: str
    bare: bool = False
    overlaid: Mapping[str, str] = {}
    apart: bool = False
    nspawn: subprocess.Popen[bytes] = field(init=False)
    init: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        etc, credentials = self.etc, self.folder / "credstore"
        drop_ins = self.folder / "drop-ins"
        for folder in (etc, credentials, drop_ins):
            folder.mkdir(parents=True)
            folder.chmod(0o755)
        credentials.chmod(0o700)
        program = self.folder / "dispatchd"
        program.write_text(_program())
        program.chmod(0o755)
        installed = {
            UNITS / "dispatchd.service": "/etc/systemd/system/dispatchd.service",
            UNITS / "dispatchd@.service": "/etc/systemd/system/dispatchd@.service",
            UNITS
            / "dispatchd-hub.service": "/etc/systemd/system/dispatchd-hub.service",
            UNITS / "sysusers.d/dispatchd.conf": "/etc/sysusers.d/dispatchd.conf",
            UNITS / "tmpfiles.d/dispatchd.conf": "/etc/tmpfiles.d/dispatchd.conf",
            drop_ins: "/etc/systemd/system/dispatchd.service.d",
            etc: "/etc/dispatchd",
            credentials: "/etc/credstore",
        }
        binds = {
            **({} if self.bare else installed),
            program: "/opt/dispatchd/bin/dispatchd",
            Path(sys.base_prefix): _PYTHON,
            Path(sysconfig.get_paths()["purelib"]): _PACKAGES,
            ROOT: _SOURCE,
        }
        with (self.folder / "console").open("wb") as console:
            self.nspawn = subprocess.Popen(
                [
                    *("systemd-nspawn", "--register=no", "--keep-unit", "-D", "/"),
                    *("--volatile=yes", f"--machine={self.name}"),
                    # Those that it doesn't know to be harmless.
                    f"--system-call-filter={' '.join(_CALLS)}",
                    *(f"--bind-ro={path}:{place}" for path, place in binds.items()),
                    *(
                        f"--overlay={path}::{place}"
                        for path, place in self.overlaid.items()
                    ),
                    *(("--private-network",) if self.apart else ()),
                    *("--boot", "systemd.mask=systemd-firstboot.service"),
                    # Where it is apart, no network ever comes.
                    "systemd.mask=systemd-networkd-wait-online.service",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    async def run(
        self, *command: str, check: bool = True, within_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, while the endpoint goes on answering."""
        return await to_thread.run_sync(
            lambda: self.run_now(*command, check=check, within_s=within_s)
        )

    def run_now(
        self, *command: str, check: bool = True, within_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, and let everything here wait for it."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.init), "-a", "--", *command],
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert not check or done.returncode == 0, (command, done, self.journal())
        return done

    async def dispatchd(
        self, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return await self.run("/opt/dispatchd/bin/dispatchd", *arguments, check=check)

    async def shown(self, *properties: str, unit: str = "dispatchd") -> dict[str, str]:
        """Return what systemd knows of a unit."""
        names = ",".join(properties)
        done = await self.run("systemctl", "show", unit, "-p", names)
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def now(self) -> str:
        """Return where the journal is, for `journal`."""
        return self.run_now("date", "+@%s.%6N").stdout.strip()

    def journal(self, since: str = "@0") -> str:
        return subprocess.run(
            [
                *("nsenter", "-t", str(self.init), "-a", "--"),
                *("journalctl", "-o", "cat", "--no-pager", "-u", "dispatchd*"),
                f"--since={since}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout

    async def until(
        self, expected: Mapping[str, str], unit: str = "dispatchd", within_s: float = 60
    ) -> dict[str, str]:
        """Return what systemd knows of a unit once it is as wanted."""

        async def look() -> dict[str, str] | None:
            properties = await self.shown(*expected, "MainPID", unit=unit)
            return properties if expected.items() <= properties.items() else None

        try:
            # Another machine's state: nothing announces it here.
            return await until(look, within_s, expected)
        except AssertionError:
            print(self.journal()[-6000:])
            raise

    def stop(self) -> None:
        """End the machine by its own process."""
        self.nspawn.send_signal(signal.SIGTERM)
        try:
            self.nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()
            self.nspawn.wait()
        # What systemd-nspawn leaves behind.
        with suppress(OSError):
            Path("/run/systemd/nspawn/propagate", self.name).rmdir()


@contextmanager
def booted(
    folder: Path,
    *,
    bare: bool = False,
    overlaid: Mapping[str, str] = {},
    apart: bool = False,
) -> Iterator[Machine]:
    """Give a booted machine; skip, with the reason, where none can be had."""
    for program in ("systemd-nspawn", "nsenter", "dbus-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} isn't installed (Debian: systemd-container, dbus)")
    if os.geteuid() != 0:
        pytest.skip("only root may boot a container")
    # Users of the machine go through them.
    for each in (folder, *folder.parents):
        if each.owner() == "root" and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
    with _alone():
        name = f"dispatchd-test-{os.getpid()}"
        machine = Machine(folder, name, bare, overlaid, apart)
        try:
            _wait_for_boot(machine)
            yield machine
        finally:
            machine.stop()


@contextmanager
def booted_with_packages(folder: Path, *, apart: bool = False) -> Iterator[Machine]:
    """Give a bare machine with the Debian packages of this one, whose own stay as they are."""
    overlaid = {"/usr": "/usr", "/var/lib/dpkg": "/dpkg"}
    with booted(folder, bare=True, overlaid=overlaid, apart=apart) as found:
        found.run_now("ln", "-s", "/dpkg", "/var/lib/dpkg")
        # Neither what keeps services down in an image, nor the index of manual pages, nor users of other packages.
        found.run_now("rm", "-f", "/usr/sbin/policy-rc.d", "/var/lib/dpkg/statoverride")
        found.run_now("sh", "-c", ": >/var/lib/dpkg/triggers/File")
        yield found


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other test session has a machine: two would share a control group, and ports."""
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _wait_for_boot(machine: Machine) -> None:
    console = machine.folder / "console"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if machine.nspawn.poll() is not None:
            last_lines = console.read_text(errors="replace").strip().splitlines()[-1:]
            pytest.skip(f"systemd-nspawn doesn't boot here: {last_lines}")
        children = Path(
            f"/proc/{machine.nspawn.pid}/task/{machine.nspawn.pid}/children"
        )
        pids = children.read_text().split()
        if pids:
            machine.init = int(pids[0])
            state = machine.run_now(
                "systemctl", "is-system-running", check=False
            ).stdout
            if state.strip() in _SETTLED:
                return
        time.sleep(0.1)
    pytest.skip(f"systemd didn't come up: {console.read_text(errors='replace')[-500:]}")


def _program() -> str:
    python = f"{_PYTHON}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    return f"""#!/bin/sh
export PYTHONHOME={_PYTHON} LD_LIBRARY_PATH={_PYTHON}/lib PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH={_SOURCE}/daemon:{_PACKAGES}
exec {python} -m dispatchd "$@"
"""
