"""Prerequisites of a daemon, checked before the first pull; each finding says what to do.

If one of them has failed, jobs would be taken that can't be run well. Facts from pidfd_open(2),
pidfd_send_signal(2), random(4), fsync(2) and mount(2).
"""

import os
import shutil
import signal
import ssl
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from attrs import frozen

from dispatchd.protocol.finding import Finding, Level

SHELL: Final = Path("/bin/sh")

_PROC: Final = ("/proc/self/stat", "/proc/sys/kernel/random/boot_id")

_FULL: Final = (ENOSPC, EDQUOT)
"""Errors of a full disk. They say nothing about its abilities, and the daemon waits for space."""

_RUN_S: Final = 10.0
"""Time limit of a script of one line (seconds)."""


@frozen(kw_only=True)
class Needs:
    """Needs of a configuration beyond those of every daemon.

    `system_certificates` is true where TLS is verified by the system's CA certificates. `checkout` is true where a
    workflow has git fill its workspace. `search_path` (PATH) are the folders in which git is searched.
    """

    state_folder: Path
    search_path: str
    home: str
    system_certificates: bool = False
    checkout: bool = False


def prerequisites(needs: Needs) -> Iterator[Finding]:
    """Yield one finding for each prerequisite. Blocks."""
    yield _pidfd()
    yield _proc()
    yield _null()
    yield _shell()
    if needs.state_folder.is_dir():
        yield _durable(needs.state_folder)
        yield _executable(needs.state_folder, checkout=needs.checkout)
    if needs.system_certificates:
        yield _certificates()
    yield _home(needs.home)
    if needs.checkout:
        yield _git(needs.search_path)


def _pidfd() -> Finding:
    if not hasattr(os, "pidfd_open"):
        message = "this Python has no pidfd: it was built for a kernel before 5.3; install another one"
        return Finding("pidfd", Level.FAILED, message)
    try:
        own = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(own, 0)
        finally:
            os.close(own)
    except OSError as error:
        message = f"pidfd_open and pidfd_send_signal don't work ({error.strerror}), so no run could be watched: use Linux 5.3 or newer, and let the container's seccomp profile pass both"
        return Finding("pidfd", Level.FAILED, message)
    return Finding("pidfd", Level.OK, "processes can be watched")


def _proc() -> Finding:
    for name in _PROC:
        try:
            if not Path(name).read_bytes().strip():
                return Finding("proc", Level.FAILED, f"{name} is empty: mount proc(5)")
        except OSError as error:
            message = f"{name} can't be read ({error.strerror}): mount proc(5) at /proc, with all of it"
            return Finding("proc", Level.FAILED, message)
    return Finding("proc", Level.OK, "processes and this boot can be identified")


def _null() -> Finding:
    try:
        mode = Path(os.devnull).stat().st_mode
    except OSError:
        mode = 0
    if stat.S_ISCHR(mode):
        return Finding("devices", Level.OK, f"{os.devnull} is there")
    message = f"{os.devnull} is missing, or a file in its place: mount /dev, or mknod -m 666 {os.devnull} c 1 3"
    return Finding("devices", Level.FAILED, message)


def _shell() -> Finding:
    if os.access(SHELL, os.X_OK):
        return Finding("shell", Level.OK, f"{SHELL} is there")
    message = f"{SHELL} can't be executed, and starts every run: install a POSIX shell"
    return Finding("shell", Level.FAILED, message)


def _untried(name: str, folder: Path) -> Finding:
    message = f"{folder} is full, so what it can do was not tried: make room; nothing is pulled before"
    return Finding(name, Level.WARNING, message)


def _durable(folder: Path) -> Finding:
    try:
        with _aside(folder, "durable") as aside:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, b"x")
                os.fsync(fd)
            finally:
                os.close(fd)
            aside.replace(aside)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        if error.errno in _FULL:
            return _untried("durability", folder)
        message = f"{folder} can't keep a file over a power cut ({error.strerror}): put store.folder on a local file system"
        return Finding("durability", Level.FAILED, message)
    return Finding("durability", Level.OK, f"{folder} keeps what is written")


def _executable(folder: Path, *, checkout: bool) -> Finding:
    level = Level.FAILED if checkout else Level.WARNING
    try:
        with _aside(folder, "exec") as aside:
            aside.write_text("#!/bin/sh\nexit 0\n")
            aside.chmod(0o700)
            subprocess.run(  # noqa: S603  # a script of ours
                [aside],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_RUN_S,
                check=True,
            )
    except (OSError, subprocess.SubprocessError) as error:
        if getattr(error, "errno", None) in _FULL:
            return _untried("exec", folder)
        reason = getattr(error, "strerror", None) or str(error)
        message = f"no program in {folder} can be executed ({reason}): mount it without noexec, or set store.folder"
        return Finding("exec", level, message)
    return Finding("exec", Level.OK, f"programs in {folder} can be executed")


def _certificates() -> Finding:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if context.cert_store_stats()["x509_ca"]:
        return Finding("certificates", Level.OK, "the system has CA certificates")
    folder = ssl.get_default_verify_paths().capath
    with suppress(OSError):
        if folder and any(Path(folder).iterdir()):
            return Finding("certificates", Level.OK, f"CA certificates in {folder}")
    message = "this system has no CA certificates, so no HTTPS endpoint is trusted: install ca-certificates, or set cloud.ca_file"
    return Finding("certificates", Level.FAILED, message)


def _home(home: str) -> Finding:
    # With the dot a folder that this user may enter.
    if home and os.access(f"{home}/.", os.X_OK):
        return Finding("home", Level.OK, f"HOME is {home}")
    what = (
        f"HOME is {home}, which is no folder of this user" if home else "HOME isn't set"
    )
    message = (
        f"{what}: programs such as git, ssh and npm may fail; set it for the daemon"
    )
    return Finding("home", Level.WARNING, message)


def _git(search_path: str) -> Finding:
    path = shutil.which("git", path=search_path)
    if path:
        return Finding("git", Level.OK, path)
    message = "there is no git on PATH, and a workflow has `checkout`: install git"
    return Finding("git", Level.FAILED, message)


@contextmanager
def _aside(folder: Path, what: str) -> Iterator[Path]:
    # The prefix is that of `agent/store/durable.py`, whose sweep removes leftovers of a crash.
    aside = folder / f".aside-{os.getpid()}-{what}"
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)
