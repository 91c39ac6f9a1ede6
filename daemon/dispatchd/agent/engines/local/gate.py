"""The gate: an attempt gets a process, which runs nothing before the daemon has durably recorded it.

Comes from `engine.py`; continues in `starter.py`, the small process that forks, and `shim.py`, which waits at the gate.
If the daemon dies before it opens the gate, the shim ends, so an attempt that isn't recorded never runs. The status
of a shim is what the kernel told the starter; `exit` in the attempt's folder is for a daemon that was started later.
"""

import errno
import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.enclosure import Enclosed
from dispatchd.agent.engines.local.process import boot_id, identify
from dispatchd.agent.engines.local.shim import LEFTOVERS, NEVER_OPENED, STARTED
from dispatchd.agent.engines.local.starters import Starter
from dispatchd.errors import SpawnFailed
from dispatchd.linux.untrusted_files import read_regular
from dispatchd.protocol.outcome import Exit, NeverStarted

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_GIVEN: Final = "DISPATCHD_GIVEN_"
"""Prefix of the command's variables in the environment of a shim of an earlier release."""

_CODE: Final = re.compile(rb"[0-9]{1,3}\n")

_LONGEST_EXIT: Final = 16
"""Largest `exit` file that is read (bytes): more than an exit code and its line end have."""

_LONGEST_COUNT: Final = 16
"""Largest `leftovers` file that is read (bytes): more than a count and its line end have."""


@frozen(kw_only=True)
class Gated:
    """Shim that waits behind its gate; `gate` is the pipe's write end."""

    identity: ProcessIdentity
    gate: int

    @classmethod
    def spawn(
        cls,
        launch: Launch,
        enclosed: Enclosed,
        starter: Starter,
        group: int = -1,
    ) -> Self:
        """Start a shim behind a closed gate. Blocks for about a millisecond.

        Args:
            launch: The launch that it starts once the gate is open.
            enclosed: The command that is executed for it.
            starter: The process that forks it.
            group: The descriptor with which it enters its control group; -1 for none.

        Raises:
            SpawnFailed: The command can't be executed, or the system refuses another process.
        """
        program = enclosed.command[0]
        _check_program(program)
        request = json.dumps(
            {
                "command": enclosed.command,
                "env": enclosed.env,
                "workspace": str(launch.workspace),
                "folder": str(launch.folder),
                "rules": enclosed.rules,
                "deaf": enclosed.deaf,
            }
        ).encode()
        try:
            try:
                return cls._behind_a_gate(launch, request, starter, group)
            except (ConnectionError, TimeoutError):
                # The next starter's shim has a gate of its own; that of a shim of the last one is closed by now.
                return cls._behind_a_gate(launch, request, starter, group)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SpawnFailed(command=program, reason=reason) from error

    @classmethod
    def _behind_a_gate(
        cls, launch: Launch, request: bytes, starter: Starter, group: int
    ) -> Self:
        """Start a shim behind a gate of its own, which is closed if this fails.

        Raises:
            OSError: As `Starter.start`, or the shim vanished at once.
        """
        with ExitStack() as stack:

            def closed(fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            gate = stack.enter_context(os.fdopen(write_end, "wb", buffering=0))
            fds = [
                closed(read_end),
                closed(_open_output(launch.output_file)),
                closed(os.open(launch.folder, _FOLDER)),
                *([group] if group >= 0 else []),
            ]
            identity = identify(starter.start(request, fds))
            if identity is None:
                raise OSError(errno.ESRCH, "its process vanished at once")
            return cls(identity=identity, gate=os.dup(gate.fileno()))

    def open(self) -> None:
        """Let the command run."""
        os.write(self.gate, b"g")


def of_command(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a command from the environment of its shim, as in earlier releases."""
    given = {
        name.removeprefix(_GIVEN): text
        for name, text in environment.items()
        if name.startswith(_GIVEN)
    }
    return {**environment, **given}


def read_exit(folder: Path, process: ProcessIdentity) -> Exit | NeverStarted:
    """Return the end of an attempt, from the files that its shim has left in the attempt's folder."""
    try:
        # Without isolation the command could write here too; anything but an exit code is ignored.
        data = read_regular(folder / "exit", _LONGEST_EXIT) or b""
    except OSError:
        # No file says that a run has begun: a power cut, a file system that fails, or the command may have removed it.
        try:
            never = (folder / f"{NEVER_OPENED}{process.pid}").exists()
            never = never and not (folder / STARTED).exists()
        except OSError:
            never = False
        if process.boot_id == boot_id() and never:
            return NeverStarted()
        return Exit(code=None)
    return Exit(code=int(data) if _CODE.fullmatch(data) else None)


def read_leftovers(folder: Path) -> int:
    """Return the number of an attempt's processes that its shim has ended (count); 0 if it has left them to the daemon."""
    try:
        data = read_regular(folder / LEFTOVERS, _LONGEST_COUNT) or b""
    except OSError:
        return 0
    return int(data) if data.strip().isdigit() else 0


def _open_output(file: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(file, flags, 0o600)


def _check_program(program: str) -> None:
    path = Path(program)
    try:
        if not path.exists():
            reason = "there is no such file"
        elif not path.is_file() or not os.access(path, os.X_OK):
            reason = "it isn't an executable file"
        elif not path.stat().st_size:
            reason = "it is empty"
        else:
            return
    except OSError as error:
        # Such as a folder of another user on its way.
        reason = error.strerror or str(error)
    raise SpawnFailed(command=program, reason=reason, refused=True)
