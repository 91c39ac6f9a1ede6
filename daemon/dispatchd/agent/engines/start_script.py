"""Texts of a start for whatever shell executes it: nothing in them comes from a job, but for values quoted as text. Pure.

The first lines of a script are a compare-and-swap with the daemon: whoever makes the file `claim` first has decided
whether this attempt begins. Before that, the script looks whether the lease of its job is over.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

CLAIM: Final = "claim"
EXIT: Final = "exit"
LEFT: Final = "left"
"""File that says that a script was killed, and nothing of its command runs any more."""

STOP: Final = "stop"
"""File that orders the end of the command, with the seconds until SIGKILL."""

STOPPED: Final = "stopped"
"""File that says that a script was told to end its command, which had not ended by itself."""

UNTIL: Final = "until"
"""File with the time from which an attempt may not begin any more (seconds since the epoch); none for any time."""

LAUNCH: Final = "launch.sh"
SECRETS: Final = "secrets"
"""File that says that an attempt was given secrets, without them."""

CLAIM_LOST: Final = 75
"""Exit code of a script that has found its attempt claimed (EX_TEMPFAIL, sysexits.h)."""

TOO_LATE: Final = 76
"""Exit code of a script whose permission to begin is over."""

_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def claimed(link: Path, number: str) -> str:
    """Return the lines that claim an attempt and read its launch.

    The claim outlives a power cut: what has begun must not begin again (sync(1), where it takes names of files).
    The shell itself is silent from then on: of a command that is killed, bash prints the text, with its environment.

    Args:
        link: Folder with the files of the attempt, which has a name of ours.
        number: Content of the claim, as a word of the shell that is a number.
    """
    return f"""cd {shlex.quote(str(link))} || exit {CLAIM_LOST}
if [ -e {UNTIL} ]; then
  [ "$(date +%s)" -lt "$(cat {UNTIL})" ] || exit {TOO_LATE}
fi
set -C
(echo "{number}" >{CLAIM}) 2>/dev/null || exit {CLAIM_LOST}
set +C
sync {CLAIM} . 2>/dev/null
exec </dev/null >/dev/null 2>&1
. ./{LAUNCH}
"""


def in_background(
    command: Sequence[str],
    env: Mapping[str, str],
    workspace: Path,
    output: Path,
    *,
    through: str = "",
) -> str:
    """Return the lines that start a command with its environment, and set `dispatchd_pid`.

    Args:
        command: The argument vector.
        env: The whole environment of the command.
        workspace: Its folder.
        output: File to which stdout and stderr are appended.
        through: Program that starts the command in its own place, with a space behind it.

    Raises:
        ValueError: A variable has a name that no shell could set.
    """
    for name in env:
        if _NAME.fullmatch(name) is None:
            message = f"a shell can't set the variable {name!r:.60}"
            raise ValueError(message)
    exports = "\n".join(
        f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items())
    )
    return f"""(
{exports}
cd {shlex.quote(str(workspace))} || exit 126
exec {through}{shlex.join(command)}
) </dev/null >>{shlex.quote(str(output))} 2>&1 &
dispatchd_pid=$!
"""


LEAVE: Final = f"""(echo "$dispatchd_code" >{EXIT}.aside && mv -f {EXIT}.aside {EXIT}) 2>/dev/null
exit "$dispatchd_code"
"""
"""Last lines of a script: they leave the exit code in a file, and end with it."""
