"""A toy engine for dispatchd: it executes scripts on this machine, and keeps what it knows of them in a spool folder."""

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL

import anyio
from attrs import frozen

from dispatchd.agent.engines.port import EngineRefused, EngineSilent, Found, State

# A process of its own, so that the script outlives whoever asked for it. The folder is made once: a name starts once.
_EXECUTE = """
mkdir "$2" 2>/dev/null || exit 0
cd "$2" || exit 1
sh -c 'echo $PPID' >keeper
/bin/sh "$1" &
echo $! >pid.new; mv pid.new pid
wait $!
echo $? >code.new; mv code.new code
"""


@frozen(kw_only=True)
class Spool:
    """Content of [engines.NAME.settings]."""

    spool: str


class Toy:
    """One spool folder."""

    Settings = Spool

    def __init__(self, settings: Spool) -> None:
        if not os.path.isabs(settings.spool):
            raise ValueError("spool must be an absolute path")
        self._spool = Path(settings.spool)

    async def submit(self, name: str, script: Path) -> None:
        own = self._folder(name)
        words: list[str | Path] = ["/bin/sh", "-c", f"({_EXECUTE}) &", "toy"]
        await anyio.run_process(
            [*words, script, own],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )

    async def find(self, name: str) -> Found | None:
        folder = self._folder(name)
        if not folder.is_dir():
            return None
        pid = _number(folder / "pid")
        # The script itself is gone for a moment before its code is written.
        alive = pid is None or Path(f"/proc/{_number(folder / 'keeper')}").exists()
        code = _number(folder / "code")
        if code is None and alive:
            return Found(
                state=State.WAITING if pid is None else State.RUNNING,
                where="this machine",
            )
        why = "" if code is not None else "its process is gone"
        return Found(state=State.ENDED, code=code, reason=why)

    async def stop(self, name: str) -> None:
        pid = _number(self._folder(name) / "pid")
        if pid is None or _number(self._folder(name) / "code") is not None:
            raise EngineRefused(f"{name} does not run")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    async def names(self, prefix: str) -> Collection[str]:
        self._folder("")
        folders = list(self._spool.glob(f"{prefix}*"))
        return [each.name for each in folders if _number(each / "code") is None]

    def _folder(self, name: str) -> Path:
        if not self._spool.is_dir():
            raise EngineSilent(f"{self._spool} is not there")
        return self._spool / name


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return None
