"""The shim: a few lines of POSIX sh that wait behind a pipe, run the command, and leave its exit code.

The shim is started first and does nothing until the daemon has durably recorded its identity and opens
the gate. If the daemon dies before that, the shim reads end-of-file and exits, so an attempt that
nobody knows of never runs. It leads its own session and outlives the daemon: stopping or upgrading
dispatchd doesn't touch a run.

What it leaves in the attempt's folder is `started`, made after the gate has opened, and `exit`, written when the
command has ended: readers trust a whole line with a code, and nothing else.

The shim uses no program but the shell, and no variable of the command's: those travel under other names, and get
their own in the command alone. So neither a PATH nor an LD_PRELOAD of a workflow can break it.
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
true >"$attempt/started" || exit 0
cd "$workspace" && (
    for dispatchd_name in $DISPATCHD_GIVEN; do
        # A variable that this shell owns, as bash does UID, stays the shell's.
        eval "command export $dispatchd_name=\\"\\$DISPATCHD_GIVEN_$dispatchd_name\\"" 2>/dev/null
        unset "DISPATCHD_GIVEN_$dispatchd_name"
    done
    unset DISPATCHD_GIVEN dispatchd_name
    exec "$@" </dev/null
)
code=$?
echo "$code" >"$attempt/exit"
# On a full disk there is no code in that file.
exit "$code"
"""

_GIVEN: Final = "DISPATCHD_GIVEN"
"""Variable of the shim with the names of the command's variables; their values are in `DISPATCHD_GIVEN_NAME`."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
"""A name that a POSIX shell can give to a command (POSIX.1-2017, Base Definitions, 3.235)."""

_FUNCTION: Final = "BASH_FUNC_"
"""How bash passes functions on. One of them could stand in for a builtin of the shim."""

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
                    env={**for_shim(env), MARKER: str(launch.folder)},
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


def for_shim(env: Mapping[str, str]) -> dict[str, str]:
    """Return the shim's environment, which has a command's variables under names that no shell heeds.

    Names that aren't identifiers mean nothing to a shell, and stay; some shells pass them on.
    """
    named = {name: text for name, text in env.items() if _IDENTIFIER.fullmatch(name)}
    return {
        **{
            name: text
            for name, text in env.items()
            if name not in named and not name.startswith(_FUNCTION)
        },
        **{f"{_GIVEN}_{name}": text for name, text in named.items()},
        _GIVEN: " ".join(named),
    }


def of_command(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a command from the environment of its shim, of an earlier release's too."""
    prefix = f"{_GIVEN}_"
    given = {
        name.removeprefix(prefix): text
        for name, text in environment.items()
        if name.startswith(prefix)
    }
    return {**environment, **given}


def read_exit(
    folder: Path, process: ProcessIdentity, status: int | None = None
) -> Exit | NeverStarted:
    """Return what a shim that is gone has left in its attempt's folder.

    `status` is its own exit code, where the caller is its parent and it has ended by itself: it counts where the folder
    says that the command began, and not how it ended, as on a full disk.
    """
    end = _written_exit(folder, process)
    if (
        isinstance(end, Exit)
        and end.code is None
        and status is not None
        and (folder / "started").exists()
    ):
        return Exit(code=status)
    return end


def _written_exit(folder: Path, process: ProcessIdentity) -> Exit | NeverStarted:
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
        reason = "there is no such file"
    elif not path.is_file() or not os.access(path, os.X_OK):
        reason = "it isn't an executable file"
    else:
        return
    raise SpawnFailed(command=program, reason=reason, refused=True)
