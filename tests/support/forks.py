"""Programs as processes forked from one that has loaded them: to load one takes longer than most tests.

Such a process differs from a started one by its command line in /proc alone. What has to be there before Python is, such
as a preloaded library that counts from the beginning, needs `subprocess`.
"""

import gc
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Final, Protocol

from attrs import define, field

_LOADED: Final = (
    *("dispatchd.cli.agent.run", "dispatchd.agent.serve", "dispatchd.agent.wiring"),
    *("dispatchd.cli.hub.main", "dispatchd.hub.context", "dispatchd.hub.main"),
    "dispatchd.hub.github.backend",
)
"""What the programs load."""

_PATIENT: Final = ("clock_ahead.so", "kill_at.so", "kill_hub.so", "power_cut.so")
"""Preloaded libraries that do nothing before the environment of a command asks for it, however long they are loaded."""

_MOST_BYTES: Final = 1 << 20
"""Longest request (bytes)."""


class Process(Protocol):
    """What tests do with a process, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def dispatchd_in(
    *arguments: str, env: Mapping[str, str], output: int, wrapper: Sequence[str] = ()
) -> Process:
    """Begin a command that runs until a signal, with all of its output to one descriptor."""
    whole = {**os.environ, **env}
    with Path(os.devnull).open("rb") as nothing:
        streams = nothing.fileno(), output, output
        library = env.get("LD_PRELOAD", "")
        if not wrapper and Path(library).name in ("", *_PATIENT):
            return _loaded(library).fork(arguments, whole, streams)
        return subprocess.Popen(
            [*wrapper, sys.executable, "-m", "dispatchd", *arguments],
            stdin=streams[0],
            stdout=output,
            stderr=output,
            env=whole,
        )


def forked(
    *arguments: str,
    env: Mapping[str, str],
    streams: tuple[int, int, int],
    cwd: Path,
) -> Process:
    """Begin a command in a session of its own, with its whole environment, and descriptors for input, output and errors."""
    return _loaded(env.get("LD_PRELOAD", "")).fork(arguments, env, streams, cwd)


@define
class _Forked:
    """Process that is a child of the one that it was forked from, which says how it ended."""

    pid: int
    _outcome: socket.socket
    returncode: int | None = None
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    def poll(self) -> int | None:
        with self._guard:
            if self.returncode is None and select.select([self._outcome], [], [], 0)[0]:
                said = self._outcome.recv(16)
                assert said, "the process that it was forked from is gone"
                self.returncode = os.waitstatus_to_exitcode(int(said))
                self._outcome.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            # Closed by a poll of another thread, it has been read.
            fd = self._outcome.fileno()
            if fd >= 0 and not select.select([fd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@define
class _Loaded:
    """The process that has loaded the programs."""

    _process: subprocess.Popen[bytes]
    _requests: socket.socket
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    def fork(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        streams: tuple[int, int, int],
        cwd: Path | None = None,
    ) -> _Forked:
        """Fork a process; one that has a folder is in a session of its own."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "arguments": arguments,
            "env": dict(env),
            "cwd": str(cwd or Path.cwd()),
            "session": cwd is not None,
        }
        with there, self._guard:
            fds = [there.fileno(), *streams]
            socket.send_fds(self._requests, [json.dumps(request).encode()], fds)
        return _Forked(int(here.recv(16)), here)


_LOADING: Final = threading.Lock()


def _loaded(library: str) -> _Loaded:
    # Two threads that ask at the same time would start two.
    with _LOADING:
        return _load_once(library)


@cache
def _load_once(library: str) -> _Loaded:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {"LD_PRELOAD": library} if library else {}
    with there:
        process = subprocess.Popen(
            [sys.executable, __file__, str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env},
        )
    return _Loaded(process, here)


def _load() -> None:
    """Load what the commands that run until a signal load, and the modules of the other ones."""
    for name in _LOADED:
        import_module(name)
    cli = import_module("dispatchd.cli")
    for module in pkgutil.walk_packages(cli.__path__, "dispatchd.cli."):
        import_module(module.name)
    gc.collect()
    # Else each look of a child for garbage would copy all of it.
    gc.freeze()


def _serve(requests: socket.socket) -> list[str] | None:
    """Fork a process for each request; return its arguments in the child, and None at the end in the parent."""
    children: dict[int, tuple[int, socket.socket]] = {}
    ready = DefaultSelector()
    ready.register(requests, EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fd in children:
                pid, outcome = children.pop(key.fd)
                ready.unregister(key.fd)
                os.close(key.fd)
                with outcome:
                    outcome.send(str(os.waitpid(pid, 0)[1]).encode())
                continue
            data, fds, _, _ = socket.recv_fds(requests, _MOST_BYTES, 4)
            if not data:
                return None
            outcome, streams = socket.socket(fileno=fds[0]), fds[1:]
            pid = os.fork()
            if not pid:
                # Each object, or its end would close what has its number then.
                ready.close()
                for one in (requests, outcome, *(it for _, it in children.values())):
                    one.close()
                return _become(json.loads(data), streams)
            for each in streams:
                os.close(each)
            outcome.send(str(pid).encode())
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid, outcome
            ready.register(pidfd, EVENT_READ)


def _become(request: dict[str, Any], streams: Sequence[int]) -> list[str]:
    """Make this process what `subprocess` would have started, and return its arguments."""
    if request["session"]:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    # The ones that there are know what the parent's are.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as long as it lives
    sys.stdout = open(1, "w", errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors=sys.stderr.errors, closefd=False)  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments: list[str] = request["arguments"]
    return arguments


def _main() -> None:
    # Pressed for the tests, which end it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _load()
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        from dispatchd.program import main  # see _load

        sys.argv = ["dispatchd", *arguments]
        main()


if __name__ == "__main__":
    _main()
