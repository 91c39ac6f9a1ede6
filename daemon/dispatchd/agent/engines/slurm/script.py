"""Texts for a node: the batch script, in which nothing comes from a job, and the attempt's own file that it reads. Pure.

The first lines of the script are a compare-and-swap with the daemon: whoever makes the file `claim` first has decided
whether this attempt begins. Before that, the script looks whether the lease of its job is over. The second file has the environment and the secrets, is removed by its own first line,
and quotes every value for the shell, so that none is more than text.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dispatchd.agent.engines.slurm.states import CLAIM_LOST, TOO_LATE

CLAIM: Final = "claim"
EXIT: Final = "exit"
UNTIL: Final = "until"
"""File with the time from which an attempt may not begin any more (seconds since the epoch); none for any time."""

LAUNCH: Final = "launch.sh"
SECRETS: Final = "secrets"
"""File that says that an attempt was given secrets, without them."""

_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def batch_script(link: Path) -> str:
    """Return the script of a batch job whose files are in a folder, which has a name of ours."""
    return f"""#!/bin/sh
cd {shlex.quote(str(link))} || exit {CLAIM_LOST}
if [ -e {UNTIL} ]; then
  [ "$(date +%s)" -lt "$(cat {UNTIL})" ] || exit {TOO_LATE}
fi
set -C
(echo "$SLURM_JOB_ID" >{CLAIM}) 2>/dev/null || exit {CLAIM_LOST}
set +C
. ./{LAUNCH}
"""


def launch_text(
    command: Sequence[str], env: Mapping[str, str], workspace: Path, output: Path
) -> str:
    """Return the file that sets up an attempt and runs its command.

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
    return f"""rm -f -- ./{LAUNCH}
dispatchd_again=
trap 'dispatchd_again=1' TERM
(
{exports}
cd {shlex.quote(str(workspace))} || exit 126
exec {shlex.join(command)}
) </dev/null >>{shlex.quote(str(output))} 2>&1 &
dispatchd_pid=$!
wait "$dispatchd_pid"
dispatchd_code=$?
while [ -n "$dispatchd_again" ]; do
  dispatchd_again=
  wait "$dispatchd_pid"
  dispatchd_next=$?
  [ "$dispatchd_next" = 127 ] || dispatchd_code=$dispatchd_next
done
(echo "$dispatchd_code" >{EXIT}.aside && mv -f {EXIT}.aside {EXIT}) 2>/dev/null
exit "$dispatchd_code"
"""
