"""Texts for whoever executes a start: its script, and the attempt's own file that it reads. Pure.

The script begins again without the environment of its engine, which may have keys in it, claims the attempt, and runs
the command in a session of its own. SIGTERM, or the file `stop`, ends that session: SIGTERM, then SIGKILL after the
seconds in that file, because an engine may never send SIGKILL (Dagu). If the script itself is killed, its watcher ends
the session, and says so by the file `left`. A code that a command left after it was told to end is not its own: the file
`stopped` says so. Whoever waits for the grace ends with the script, whose command's id may be
another's then. Only the first signal calls the function: dash handles each within the one before it, to a depth of 1000.
The second file has the environment and the secrets, and is removed by its own first line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dispatchd.agent.engines.start_script import (
    LAUNCH,
    LEAVE,
    LEFT,
    STOP,
    STOPPED,
    claimed,
    in_background,
)

START: Final = "start.sh"
GRACE_S: Final = 10
"""Time from SIGTERM to SIGKILL where somebody else than the daemon ends a run (seconds)."""

_WATCHED: Final = "watched"
"""File that says that the watcher has a session of its own, so that nobody ends it with the script."""

_SESSION: Final = "session"
"""File with the session of the command."""

_IN_SESSION: Final = f"""setsid /bin/sh -c 'echo "$$" >"$0/{_SESSION}"; exec "$@"' "$dispatchd_folder" """
"""Start of the command in a session of its own, which is known before the command begins."""

_WATCH: Final = f""": >{_WATCHED}
while read -r _ _ _ parent _ </proc/self/stat; do
  if [ "$parent" != "$1" ]; then
    read -r session <{_SESSION} || exit
    kill -TERM "-$session"
    for _ in 1 2 3 4 5; do kill -0 "-$session" || break; sleep 1; done
    kill -KILL "-$session"
    : >{LEFT}
    exit
  fi
  [ ! -e {STOP} ] || kill -TERM "$1"
  sleep 1
done"""
"""Watcher of a script (its pid is $1) and of the session of its command."""


def start_script(link: Path) -> str:
    """Return the script of a run whose files are in a folder, which has a name of ours."""
    return f"""#!/bin/sh
[ "${{DISPATCHD_CLEAN-}}" ] || exec env -i DISPATCHD_CLEAN=1 PATH="$PATH" /bin/sh "$0"
unset DISPATCHD_CLEAN
{claimed(link, "$$")}"""


def launch_text(
    command: Sequence[str], env: Mapping[str, str], workspace: Path, output: Path
) -> str:
    """Return the file that sets up an attempt and runs its command.

    Raises:
        ValueError: A variable has a name that no shell could set.
    """
    background = in_background(command, env, workspace, output, through=_IN_SESSION)
    return f"""rm -f -- ./{LAUNCH}
dispatchd_folder=$PWD
dispatchd_pid=
dispatchd_stop=
dispatchd_killer=
dispatchd_code=
dispatchd_end() {{
  dispatchd_stop=1
  [ -n "$dispatchd_pid" ] && [ -z "$dispatchd_killer" ] || return 0
  [ -n "$dispatchd_code" ] || : >{STOPPED}
  dispatchd_grace=$(cat {STOP} 2>/dev/null)
  case "$dispatchd_grace" in '' | *[!0-9]*) dispatchd_grace={GRACE_S} ;; esac
  kill -TERM "-$dispatchd_pid" 2>/dev/null || kill -TERM "$dispatchd_pid" 2>/dev/null
  (
    trap '' TERM INT HUP
    while kill -0 "$$" && [ "$dispatchd_grace" -gt 0 ]; do
      sleep 1
      dispatchd_grace=$((dispatchd_grace - 1))
    done
    ! kill -0 "$$" || kill -KILL "-$dispatchd_pid"
  ) </dev/null >/dev/null 2>&1 &
  dispatchd_killer=$!
}}
trap 'dispatchd_again=1; [ "$dispatchd_stop" ] || dispatchd_end' TERM INT HUP
(exec setsid /bin/sh -c '{_WATCH}' watch "$$") </dev/null >/dev/null 2>&1 &
dispatchd_watch=$!
while [ ! -e {_WATCHED} ] && kill -0 "$dispatchd_watch" 2>/dev/null; do sleep 0.01; done
{background}[ -z "$dispatchd_stop" ] || dispatchd_end
while :; do
  dispatchd_again=
  wait "$dispatchd_pid"
  dispatchd_next=$?
  [ "$dispatchd_next" = 127 ] && [ -n "$dispatchd_code" ] && break
  dispatchd_code=$dispatchd_next
  [ -n "$dispatchd_again" ] || break
done
kill -KILL "$dispatchd_watch" ${{dispatchd_killer:+"$dispatchd_killer"}} 2>/dev/null
kill -KILL "-$dispatchd_pid" 2>/dev/null
{LEAVE}"""
