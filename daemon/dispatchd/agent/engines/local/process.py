"""Unique identities of processes: pid + start time + boot id, signalled through pidfd.

Facts from proc(5), pidfd_open(2), pidfd_send_signal(2) and random(4).
"""

import errno
import os
import signal
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from pwd import getpwuid
from typing import Final

from attrs import frozen

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.linux.subreaper import descendants_of
from dispatchd.protocol.outcome import Survivor

_PROC: Final = "/proc"

REQUEST_NAME: Final = "dispatchd-request"
"""Name of the memory that holds a shim's request (memfd_create(2)); proc shows it with the descriptor."""

_EXITING: Final = 0x4
"""PF_EXITING of linux/sched.h: its memory is gone, and it will be a zombie in a moment."""

_NO_PROCESS: Final = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""Errors of pidfd_open(2) where a pid is nobody's, or that of a thread now: EINVAL, and ENOENT from Linux 6.9 on."""

_CHUNK: Final = 64 * 1024
"""Largest read at once (bytes); an environment is usually smaller."""


@frozen(kw_only=True)
class Stat:
    """Fields of proc_pid_stat(5) that are used here."""

    state: str
    session: int
    start_ticks: int
    flags: int
    threads: int

    @property
    def is_alive(self) -> bool:
        """True if something of it can still run; its first thread may have ended before the others."""
        has_ended = self.state in "ZX" or bool(self.flags & _EXITING)
        return self.threads > 1 or not has_ended


@cache
def boot_id() -> str:
    """Return this boot's id, a UUID that changes at every start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def stat(pid: int) -> Stat | None:
    """Return the kernel's fields about a process, or None if it is gone."""
    try:
        content = _read(pid, "stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold spaces and brackets; the fields begin after its last bracket, with number 3.
    fields = content.rpartition(b")")[2].split()
    return Stat(
        state=fields[0].decode(),
        session=int(fields[3]),
        flags=int(fields[6]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a process that exists now, or None."""
    now = stat(pid)
    return (
        None
        if now is None
        else ProcessIdentity(pid=pid, start_ticks=now.start_ticks, boot_id=boot_id())
    )


def is_alive(process: ProcessIdentity) -> bool:
    """Return whether something of a process can still run."""
    now = stat(process.pid)
    return (
        now is not None
        and now.start_ticks == process.start_ticks
        and process.boot_id == boot_id()
        and now.is_alive
    )


def open_pidfd(process: ProcessIdentity) -> int | None:
    """Return a descriptor of exactly this process, or None if it is gone. The caller closes it.

    Raises:
        OSError: The kernel has no descriptor for it now.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise
    # Opened first, compared then: the descriptor can't move to another process in between.
    if identify(process.pid) == process:
        return fd
    os.close(fd)
    return None


def below(leader: int) -> list[ProcessIdentity]:
    """Return the processes below a leader that is alive. They may be more than descriptors that can be opened."""
    known = [identify(pid) for pid in descendants_of(leader)]
    # Identified first, checked then: in between no pid can have been reused unnoticed.
    still = set(descendants_of(leader))
    return [each for each in known if each is not None and each.pid in still]


def send_all(processes: Iterable[ProcessIdentity], number: signal.Signals) -> None:
    """Send a signal to processes that are still the same, one after the other."""
    for process in processes:
        fd = open_pidfd(process)
        if fd is not None:
            try:
                send(fd, number)
            finally:
                os.close(fd)


def members(process: ProcessIdentity, marker: bytes) -> Iterator[int]:
    """Yield pids of the live processes that a run's leader left behind, in no order.

    A process belongs to the run if its environment has the marker, or its session is the leader's. So a process that
    has left the process group and the session, as a daemon does, is found. So is one of another user, whose
    environment isn't readable. A process with an empty environment *and* a session of its own isn't found here: it is
    below the starter (`Starter.left`), or in the run's control group. Where the starter has adopted all that the leader left,
    no sweep is needed (`Starter.has_adopted`).

    Args:
        process: The leader, which is gone.
        marker: A `NAME=value` that is in the environment of this run alone.
    """
    # A session's id is in use as long as it has processes; after that the pid may be reused.
    leader = stat(process.pid)
    is_reused = leader is not None and leader.start_ticks != process.start_ticks
    session = None if is_reused else process.pid
    for name in os.listdir(_PROC):  # noqa: PTH208  # half the time of iterdir
        if not name.isdigit():
            continue
        pid = int(name)
        status = stat(pid)
        # Every process of the run is younger than the leader.
        if (
            status is not None
            and status.is_alive
            and status.start_ticks >= process.start_ticks
            and (status.session == session or marker in _environment(pid))
        ):
            yield pid


def without(
    pids: Iterable[int], markers: Collection[bytes]
) -> tuple[set[int], set[int]]:
    """Return the processes that are alive and have none of some markers in their environment, and those that just ended."""
    alive, ended = set(), set()
    for pid in pids:
        # Read first: a process that is about to end has lost it.
        environment = _environment(pid)
        status = stat(pid)
        if status is None or not status.is_alive:
            ended.add(pid)
        elif not any(variable in markers for variable in environment):
            alive.add(pid)
    return alive, ended


def kill_group(leader: int) -> None:
    """Kill the rest of the process group of a child that the caller has not waited for, or has just waited for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def read_environment(process: ProcessIdentity) -> dict[str, str] | None:
    """Return the environment that a live process was started with, or None if it has ended."""
    variables = [variable for variable in _environment(process.pid) if variable]
    # A zombie still has its identity, but no environment.
    if not variables or identify(process.pid) != process:
        return None
    pairs = (os.fsdecode(variable).partition("=") for variable in variables)
    return {name: value for name, _, value in pairs}


MARKER: Final = "DISPATCHD_ATTEMPT_FOLDER"
"""Variable that marks the processes of an attempt; its value is the attempt's folder."""


def marker_of(folder: Path) -> bytes:
    """Return the variable that an attempt's processes have in their environment, and no others unless they lie."""
    return os.fsencode(f"{MARKER}={folder}")


def read_request(process: ProcessIdentity) -> bytes | None:
    """Return the request of a live shim, or None if it has ended, or is of a release before these requests."""
    folder = f"{_PROC}/{process.pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208  # names alone are needed
    except OSError:
        return None
    for name in names:
        # A shim that has just been forked closes some.
        with suppress(OSError):
            if os.readlink(f"{folder}/{name}").startswith(f"/memfd:{REQUEST_NAME}"):  # noqa: PTH115  # likewise
                content = _read(process.pid, f"fd/{name}")
                return content if identify(process.pid) == process else None
    return None


def describe(pid: int) -> Survivor | None:
    """Return a process as people want to see it, or None if it is gone."""
    try:
        name = _read(pid, "comm").decode(errors="replace").strip()
        uid = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
    try:
        user = getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return Survivor(pid=pid, name=name, user=user)


def send(fd: int, number: signal.Signals) -> None:
    """Send a signal through a pidfd. A process that is gone, or another user's, is left alone."""
    with suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(fd, number)


def send_group(process: ProcessIdentity, number: signal.Signals) -> None:
    """Send a signal to the processes of this user in the process group of a leader, just seen alive."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _environment(pid: int) -> list[bytes]:
    try:
        return _read(pid, "environ").split(b"\0")
    except OSError:
        return []


def _read(pid: int, name: str) -> bytes:
    # Bare calls: a sweep reads a file or two of each process of the machine.
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while part := os.read(fd, _CHUNK):
            content += part
        return content
    finally:
        os.close(fd)
