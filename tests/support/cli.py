"""The command line in a test's own process, or in one of its own where the process is the point."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType

from anyio import to_thread
from click.testing import CliRunner

from dispatchd.cli.main import main
from support.forks import forked
from support.logs import own_log

Done = subprocess.CompletedProcess[str]
"""Exit code and texts of a command."""

NOTHING: Mapping[str, str | None] = MappingProxyType({})


def dispatchd(
    *arguments: str,
    env: Mapping[str, str | None] = NOTHING,
    text: str | None = None,
    cwd: Path | None = None,
) -> Done:
    """Run a command here, without a terminal; `text` is its input, and a variable that is None is unset.

    Not for commands that run until a signal.
    """
    # No user's own configuration is found.
    changed = {"HOME": "/nonexistent", "XDG_CONFIG_HOME": None, **env}
    with (
        chdir(cwd or Path.cwd()),
        own_log(),
        CliRunner().isolation(input=text, env=changed) as (out, err, _),
    ):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
        sys.stdout.flush()
        sys.stderr.flush()
        said, complained = out.getvalue(), err.getvalue()
    assert isinstance(code, int)
    return Done(arguments, code, said.decode(), complained.decode())


async def command(
    *arguments: str,
    env: Mapping[str, str | None] = NOTHING,
    text: str | None = None,
    cwd: Path | None = None,
) -> Done:
    """Run a command here, while hubs and daemons of this test go on."""
    return await to_thread.run_sync(
        lambda: dispatchd(*arguments, env=env, text=text, cwd=cwd)
    )


def dispatchd_process(
    *arguments: str,
    env: Mapping[str, str | None] = NOTHING,
    cwd: Path | None = None,
    text: str = "",
) -> Done:
    """Run a command in a process of its own, without a terminal; a variable that is None is unset."""
    whole = {**os.environ, "HOME": "/nonexistent", **env}
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(text.encode())
        given.seek(0)
        process = forked(
            *arguments,
            env={name: value for name, value in whole.items() if value is not None},
            streams=(given.fileno(), out.fileno(), err.fileno()),
            cwd=cwd or Path.cwd(),
        )
        code = process.wait(60)
        said, complained = (os.pread(f.fileno(), f.seek(0, 2), 0) for f in (out, err))
    return Done(arguments, code, said.decode(), complained.decode())
