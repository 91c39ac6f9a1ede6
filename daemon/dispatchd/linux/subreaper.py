"""Descendants of a process: children, and orphans that it adopts, so that no process of a run gets lost.

The orphans below a subreaper become its children (prctl(2), PR_SET_CHILD_SUBREAPER), whatever session, group and
environment they have. Only children are signalled here: no other process waits for them, so their pids can't be reused.
Standard library alone, so that small helpers can load it.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Final

from dispatchd.linux.kernel import PR_SET_CHILD_SUBREAPER, process_control

_LOOK_S: Final = 0.01
"""Interval between two looks at ending children (seconds): their parent gets a signal for each, and has no loop."""


def adopt_orphans() -> None:
    """Make the orphans below this process its children."""
    process_control(PR_SET_CHILD_SUBREAPER, 1)


def children_of(pid: int) -> list[int]:
    """Return the children of a process; none where the kernel doesn't list them (proc_pid_task(5))."""
    pids: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  # no pathlib in here
    except OSError:
        return pids
    # A child is that of the thread that has forked it.
    for thread in threads:
        path = f"/proc/{pid}/task/{thread}/children"
        with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123  # likewise
            pids += [int(child) for child in file.read().split()]
    return pids


def lists_children() -> bool:
    """Return whether this kernel lists children (CONFIG_PROC_CHILDREN)."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110  # likewise


def descendants_of(pid: int) -> list[int]:
    """Return all descendants of a process, parents first."""
    pids = children_of(pid)
    for parent in pids:
        pids.extend(children_of(parent))
    return pids


def signal_child(pid: int, number: signal.Signals) -> None:
    """Signal a child that has not been waited for. One of another user doesn't get the signal."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def end_children(grace_s: float, within_s: float) -> int:
    """End all children, and those that they leave: SIGTERM, then SIGKILL. Give up those that stay.

    Return the number of processes that were signalled.

    Args:
        grace_s: Time between the two (seconds).
        within_s: Time in all (seconds).
    """
    began, signalled, killed = time.monotonic(), set[int](), set[int]()
    while (passed_s := time.monotonic() - began) < within_s:
        for pid in children_of(os.getpid()):
            if passed_s >= grace_s:
                signal_child(pid, signal.SIGKILL)
                killed.add(pid)
            elif pid not in signalled:
                signal_child(pid, signal.SIGTERM)
                signalled.add(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(_LOOK_S)
    return len(signalled | killed)
