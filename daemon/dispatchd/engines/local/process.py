"""Processes that can't be mistaken for others: pid + start time + boot id, signalled through pidfd.

Facts from proc(5), pidfd_open(2), pidfd_send_signal(2) and random(4).
"""

import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from attrs import frozen

from dispatchd.domain.job import ProcessIdentity

_PROC = Path("/proc")


@frozen(kw_only=True)
class Stat:
    """What proc_pid_stat(5) says of a process, as far as it is used here."""

    state: str
    session: int
    start_ticks: int


@cache
def boot_id() -> str:
    """Return this boot's id, a UUID that changes at every start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def stat(pid: int) -> Stat | None:
    """Return what the kernel says of a process, or None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold spaces and brackets; the fields begin after its last bracket, with number 3.
    fields = text.rpartition(")")[2].split()
    return Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a process that exists now, or None."""
    now = stat(pid)
    return (
        None
        if now is None
        else ProcessIdentity(pid=pid, start_ticks=now.start_ticks, boot_id=boot_id())
    )


def open_pidfd(process: ProcessIdentity) -> int | None:
    """Return a descriptor of exactly this process, or None if it is gone; the caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    # Opened first, compared then: the descriptor can't move to another process in between.
    if identify(process.pid) == process:
        return fd
    os.close(fd)
    return None


def session_members(process: ProcessIdentity, marker: bytes) -> Iterator[int]:
    """Yield pids of the live processes that a session leader left behind, in no order.

    Args:
        process: The leader, which may be gone.
        marker: A `NAME=value` of the run's environment. A session id can be used again once the
            session is empty; with its marker as well a process is the run's own.
    """
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        found = stat(pid)
        if found is None or found.session != process.pid or found.state in "ZX":
            continue
        if marker in _environment(pid):
            yield pid


def send(fd: int, number: signal.Signals) -> None:
    """Send a signal through a pidfd; a process that is gone needs none."""
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return


def send_group(process: ProcessIdentity, number: signal.Signals) -> None:
    """Send a signal to the process group of a leader that the caller has just seen alive."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
