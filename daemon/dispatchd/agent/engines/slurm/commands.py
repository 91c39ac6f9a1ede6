"""Slurm's commands: each with a deadline, and an environment in which nobody else's settings change their meaning."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from subprocess import PIPE
from typing import Final

import anyio
from attrs import frozen

from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.protocol.times import duration
from dispatchd.redaction.quoted import quoted

_WITHIN_S: Final = 60.0
"""Longest time of one command (seconds). Slurm's own wait for a controller is shorter (MessageTimeout)."""

_PASSED_ON: Final = ("PATH", "HOME", "SLURM_CONF", "LD_LIBRARY_PATH")
"""Variables of the daemon that the commands get; no SBATCH_* or SQUEUE_* among them, which are options."""

_SILENT: Final = re.compile(
    r"unable to contact|timed out|connection refused|zero bytes|communication connection|connect failure"
    r"|unable to connect|in standby|temporarily (unavailable|unable)|connection reset|no route|unexpected message"
    r"|protocol authentication|munge|transport endpoint|network is unreachable",
    re.IGNORECASE,
)
"""Messages after which nobody knows what the controller has done."""

_LONGEST: Final = 300
"""Longest part of a message that is quoted (characters)."""


@contextmanager
def _readable(text: str) -> Iterator[int]:
    """Yield a descriptor with a text: a command may end, as with a refusal, before it has read all of it."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        os.pwrite(fd, text.encode(), 0)
        yield fd
    finally:
        os.close(fd)


@frozen
class Commands:
    """Runs Slurm's commands; `environment` is the daemon's own."""

    environment: Mapping[str, str]

    async def run(self, *command: str, text: str = "") -> str:
        """Return what a command printed.

        Raises:
            EngineSilent: Nobody knows what came of it.
            EngineRefused: Nothing came of it.
        """
        env = {
            name: self.environment[name]
            for name in _PASSED_ON
            if name in self.environment
        }
        try:
            with anyio.fail_after(_WITHIN_S), _readable(text) as stdin:
                done = await anyio.run_process(
                    command,
                    stdin=stdin,
                    stdout=PIPE,
                    stderr=PIPE,
                    check=False,
                    env={"PATH": os.defpath, **env, "LC_ALL": "C"},
                    start_new_session=True,
                )
        except TimeoutError as error:
            message = f"{command[0]} took more than {duration(_WITHIN_S)}"
            raise EngineSilent(message) from error
        except OSError as error:
            message = f"cannot run {command[0]}: {error.strerror}"
            raise EngineRefused(message) from error
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        said = quoted(done.stderr.decode(errors="replace"), _LONGEST)
        message = f"{command[0]} ended with exit code {done.returncode}: {said}"
        if done.returncode < 0 or _SILENT.search(said):
            raise EngineSilent(message)
        raise EngineRefused(message)
