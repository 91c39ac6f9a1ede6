"""The shim: a few lines of POSIX sh that wait behind a pipe, run the command, and leave its exit code.

The shim is started first and does nothing until the daemon has durably recorded its identity and opens
the gate. If the daemon dies before that, the shim reads end-of-file and exits, so an attempt that
nobody knows of never runs. It leads its own session and outlives the daemon: stopping or upgrading
dispatchd doesn't touch a run.

What it leaves in the attempt's folder is `started`, made after the gate has opened, and `exit`, renamed
into place when the command has ended: readers trust a file or its absence, never half of it.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.domain.job import ProcessIdentity
from dispatchd.domain.launch import Launch
from dispatchd.domain.outcome import Exit, NeverStarted
from dispatchd.engines.local.process import boot_id, identify
from dispatchd.errors import SpawnFailed
from dispatchd.hostile_files import read_regular

_SHIM: Final = """\
# Signals sent to the group are for the command; the shim stays to write its exit code.
trap : HUP INT QUIT TERM
attempt=$1 workspace=$2
shift 2
read -r word && [ "$word" = go ] || exit 0
: >"$attempt/started"
cd "$workspace" && "$@" </dev/null
code=$?
printf '%s\\n' "$code" >"$attempt/exit.aside" && mv "$attempt/exit.aside" "$attempt/exit"
"""

_CODE: Final = re.compile(rb"[0-9]{1,3}\n")

_LONGEST_EXIT: Final = 16
"""More than an exit code and its line end have (bytes)."""

_SHELL: Final = "/bin/sh"

MARKER: Final = "DISPATCHD_ATTEMPT_FOLDER"
"""Variable by which the processes of an attempt are known again; its value is the attempt's folder."""


@frozen(kw_only=True)
class Gated:
    """A shim that waits behind its gate; `gate` is the pipe's write end."""

    child: subprocess.Popen[bytes]
    identity: ProcessIdentity
    gate: int

    @classmethod
    def spawn(cls, launch: Launch, env: Mapping[str, str]) -> Self:
        """Start a shim behind a closed gate, with this environment. Blocks for about a millisecond.

        Raises:
            SpawnFailed: The command can't be executed, or the system refuses another process.
        """
        _check_program(launch.command[0])
        try:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise SpawnFailed(
                command=launch.command[0], reason=error.strerror or str(error)
            ) from error
        try:
            output = os.open(
                launch.output_file,
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                0o600,
            )
            try:
                child = subprocess.Popen(
                    [
                        _SHELL,
                        "-c",
                        _SHIM,
                        "dispatchd-run",
                        str(launch.folder),
                        str(launch.workspace),
                        *launch.command,
                    ],
                    env={**env, MARKER: str(launch.folder)},
                    stdin=read_end,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            finally:
                os.close(output)
        except OSError as error:
            os.close(write_end)
            raise SpawnFailed(
                command=launch.command[0], reason=error.strerror or str(error)
            ) from error
        finally:
            os.close(read_end)
        identity = identify(child.pid)
        if identity is None:
            os.close(write_end)
            raise SpawnFailed(
                command=launch.command[0], reason="its process vanished at once"
            )
        _level_off(child.pid)
        return cls(child=child, identity=identity, gate=write_end)

    def open(self) -> None:
        """Let the command run."""
        os.write(self.gate, b"go\n")


def _level_off(pid: int) -> None:
    """Take back from a run what the daemon has for itself, so that it stays alive when runs starve the machine.

    A unit's Nice= and OOMScoreAdjust= go on to children; giving them up needs no privilege (setpriority(2),
    proc_pid_oom_score_adj(5)).
    """
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, pid, 0)
        if int(Path("/proc/self/oom_score_adj").read_text()) < 0:
            Path(f"/proc/{pid}/oom_score_adj").write_text("0")


def read_exit(folder: Path, process: ProcessIdentity) -> Exit | NeverStarted:
    """Return what a shim that is gone has left in its attempt's folder."""
    try:
        # The command could write here too; what isn't a code is none.
        data = read_regular(folder / "exit", _LONGEST_EXIT) or b""
    except OSError:
        # After a power cut the marker may be missing although the gate was open: then the run may have begun.
        # So may the whole folder, if the command has removed it.
        here = folder.is_dir() and not (folder / "started").exists()
        if process.boot_id == boot_id() and here:
            return NeverStarted()
        return Exit(code=None)
    return Exit(code=int(data) if _CODE.fullmatch(data) else None)


def _check_program(program: str) -> None:
    path = Path(program)
    if not path.exists():
        raise SpawnFailed(command=program, reason="there is no such file")
    if not path.is_file() or not os.access(path, os.X_OK):
        raise SpawnFailed(command=program, reason="it isn't an executable file")
