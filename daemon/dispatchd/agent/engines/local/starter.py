"""The starter: a small process that forks what the daemon can't, because it has threads: shims and commands.

Comes from `gate.py`, which starts it once; continues as `shim.py` in each child. It reads a request from memory that
the daemon hands over, forks a shim, and reports later how the shim ended, by the kernel's status. When a shim has
ended, the leftovers of its run become the starter's children, so that the daemon can find and end them. The starter
ends when the daemon has gone; its shims stay.

Standard library alone: the fewer pages it has, the cheaper it forks.
"""

import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Final, TypedDict

from dispatchd.agent.engines.local.shim import Order, carry_out, set_title
from dispatchd.linux.capabilities import drop_capabilities
from dispatchd.linux.landlock import Builder, Rule, able
from dispatchd.linux.seccomp import Filter, program
from dispatchd.linux.subreaper import adopt_orphans, children_of, signal_child

_DESCRIPTORS: Final = 5
"""Descriptors in each order: the request, the gate, the output, the attempt's folder; and perhaps a control group."""

_MESSAGE: Final = 64
"""Longest message of the two ends (bytes): a word and two numbers."""


_LEFT_AT_ONCE: Final = 128
"""Most leftovers of runs whose ends are waited for at once (count): there may be more than descriptors."""

_IDLE_MS: Final = 20
"""Time without an order or an end after which the next wall is prepared (milliseconds): a start takes less."""

_HUNT_S: Final = 2.0
"""Longest hunt (seconds); nothing is started meanwhile."""


class Request(TypedDict):
    """Request for a start, as JSON in the memory that the daemon hands over."""

    command: list[str]
    env: dict[str, str]
    workspace: str
    folder: str
    rules: list[tuple[str, int]] | None
    """Rules for everything that the command may reach; None for everything."""
    deaf: bool
    """True if signals to the group aren't for the program that is executed, but for one that it starts."""


def main(*, is_confined: bool = False) -> None:
    """Serve the daemon at the other end of descriptor 0 until it goes.

    A confined starter is for walled commands alone. It gives up once what each of them would have to give up: its children
    inherit the filter of system calls, and the capabilities that programs can't gain.
    """
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    daemon = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    set_title("dispatchd-starter")
    refusal = _confine() if is_confined else 0
    gc.disable()
    gc.freeze()
    _Starter(daemon, refusal).serve()


def _confine() -> int:
    """Limit this process and its children for good. Return the error's number if the kernel refuses, else 0."""
    code = program(os.uname().machine)
    try:
        if os.geteuid() == 0:
            drop_capabilities()
        if code:
            Filter(code).install()
    except OSError as error:
        return error.errno or errno.EPERM
    return 0


class _Starter:
    def __init__(self, daemon: socket.socket, refusal: int) -> None:
        self._daemon = daemon
        self._refusal = refusal
        """Number of the error with which every order is refused; 0 for none."""
        self._walls = Builder(able())
        self._poll = select.poll()
        self._poll.register(daemon, select.POLLIN)
        self._children: dict[int, int] = {}
        """Pids of shims, by their pidfds."""
        self._left: dict[int, int] = {}
        """Pids of leftovers of runs, which the daemon ends, by their pidfds."""

    def serve(self) -> None:
        adopt_orphans()
        while True:
            events = self._poll.poll(None if self._walls.is_prepared else _IDLE_MS)
            if not events:
                self._walls.prepare()
            for fd, _ in events:
                if fd in self._children:
                    self._reap(fd)
                elif fd in self._left:
                    self._reap_left(fd)
                elif fd == self._daemon.fileno() and not self._take_order():
                    # After this nothing else will know of them.
                    self._end_left()
                    return

    def _take_order(self) -> bool:
        """Carry out an order of the daemon. Return False if the daemon has gone."""
        message, fds, _, _ = socket.recv_fds(self._daemon, _MESSAGE, _DESCRIPTORS)
        if not message:
            return False
        if message == b"hunt":
            self._say(f"hunted {self._hunt()}")
            return True
        for fd in fds:
            # In some versions of Python `recv_fds` drops its flags, such as MSG_CMSG_CLOEXEC.
            os.set_inheritable(fd, False)
        try:
            said = f"started {self._start(fds)}"
        except OSError as error:
            said = f"failed {error.errno or 0}"
        finally:
            for fd in fds:
                os.close(fd)
        self._say(said)
        return True

    def _start(self, fds: list[int]) -> int:
        """Fork a shim for an order's descriptors and return its pid.

        Raises:
            OSError: The kernel refuses the process, its wall, or the confinement of this starter.
        """
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        request, gate, output, folder, *group = fds
        spec: Request = json.loads(os.pread(request, os.fstat(request).st_size, 0))
        rules = spec["rules"]
        wall = -1
        if rules is not None:
            wall = self._walls.build([Rule(*rule) for rule in rules])
        try:
            pid = os.fork()
            if pid == 0:
                # The shim must not keep the starter's socket: its closing shows the daemon that the starter has ended.
                self._daemon.close()
                carry_out(
                    Order(
                        command=spec["command"],
                        env=spec["env"],
                        workspace=spec["workspace"],
                        title=f"dispatchd-run {spec['folder']}",
                        request=request,
                        gate=gate,
                        output=output,
                        folder=folder,
                        group=group[0] if group else -1,
                        wall=wall,
                        deaf=spec["deaf"],
                    )
                )
        finally:
            if wall >= 0:
                os.close(wall)
        fd = os.pidfd_open(pid)
        self._children[fd] = pid
        self._poll.register(fd, select.POLLIN)
        return pid

    def _reap(self, fd: int) -> None:
        pid = self._children.pop(fd)
        self._poll.unregister(fd)
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        self._say(f"ended {pid} {status}")
        self._look_at_left()
        self._walls.prepare()

    def _look_at_left(self) -> None:
        """Register leftovers of runs, so that their end is seen; others' turn comes when some of them have ended."""
        known = {*self._children.values(), *self._left.values()}
        for pid in children_of(os.getpid()):
            if pid not in known and len(self._left) < _LEFT_AT_ONCE:
                try:
                    fd = os.pidfd_open(pid)
                except OSError:
                    # No descriptor is free now.
                    return
                self._left[fd] = pid
                self._poll.register(fd, select.POLLIN)

    def _reap_left(self, fd: int) -> None:
        # In a hunt its descriptor may have become that of another one.
        if os.waitpid(self._left[fd], os.WNOHANG)[0]:
            self._forget_left(fd)
            # What was below it is here now.
            self._look_at_left()

    def _forget_left(self, fd: int) -> None:
        del self._left[fd]
        self._poll.unregister(fd)
        os.close(fd)

    def _hunt(self) -> int:
        """Kill the leftovers of runs until none is left, or for a limited time. Return the number of processes that ended.

        A process that continues in a new child before anybody can look at it has to be hit between two of its forks.
        """
        until, ended = time.monotonic() + _HUNT_S, 0
        while time.monotonic() < until:
            self._look_at_left()
            if not self._left:
                break
            for fd, pid in list(self._left.items()):
                signal_child(pid, signal.SIGKILL)
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self._forget_left(fd)
                    ended += 1
        return ended

    def _end_left(self) -> None:
        shims = set(self._children.values())
        for pid in children_of(os.getpid()):
            if pid not in shims:
                signal_child(pid, signal.SIGKILL)

    def _say(self, message: str) -> None:
        try:
            self._daemon.send(message.encode())
        except OSError:
            # The daemon has gone: nothing is left to serve.
            sys.exit(0)
