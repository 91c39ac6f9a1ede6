"""Texts for a node: the batch script, in which nothing comes from a job, and the attempt's own file that it reads. Pure.

The second file has the environment and the secrets, is removed by its own first line, and quotes every value for the
shell, so that none is more than text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dispatchd.agent.engines.start_script import LAUNCH, LEAVE, claimed, in_background

_END_GROUP: Final = """for dispatchd_each in /proc/[0-9]*; do
  read -r dispatchd_stat <"$dispatchd_each/stat" || continue
  set -- ${dispatchd_stat##*) }
  [ "$3" != "$$" ] || [ "$dispatchd_each" = "/proc/$$" ] || kill -KILL "${dispatchd_each#/proc/}"
done 2>/dev/null
"""
"""Lines that end what a command has left in the process group of its script (proc_pid_stat(5), field 5).

Not every site's Slurm does that (ProctrackType). A script that leads no group of its own ends nothing.
"""


def batch_script(link: Path) -> str:
    """Return the script of a batch job whose files are in a folder, which has a name of ours."""
    return f"#!/bin/sh\n{claimed(link, '$SLURM_JOB_ID')}"


def launch_text(
    command: Sequence[str], env: Mapping[str, str], workspace: Path, output: Path
) -> str:
    """Return the file that sets up an attempt and runs its command.

    Raises:
        ValueError: A variable has a name that no shell could set.
    """
    # Slurm hands on the environment of sbatch, which speaks English for us.
    return f"""rm -f -- ./{LAUNCH}
unset LC_ALL
dispatchd_again=
trap 'dispatchd_again=1' TERM HUP
{in_background(command, env, workspace, output)}wait "$dispatchd_pid"
dispatchd_code=$?
while [ -n "$dispatchd_again" ]; do
  dispatchd_again=
  wait "$dispatchd_pid"
  dispatchd_next=$?
  [ "$dispatchd_next" = 127 ] || dispatchd_code=$dispatchd_next
done
{_END_GROUP}{LEAVE}"""
