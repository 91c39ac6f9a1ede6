"""Commands as a person runs them: real processes on a pseudo-terminal of a given width, or with pipes."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
from collections.abc import Mapping
from pathlib import Path

from attrs import define, field

from dispatchd import __version__
from support.cli import dispatchd_process
from support.forks import forked

_PATIENCE_S = 60.0
"""Longest silence of a command (seconds)."""

_WIDTHS = {"COLUMNS", "LINES"}
_COLOURS = {"31": "red", "32": "green", "33": "yellow", "90": "dim"}


@define
class Shown:
    """What a command has shown, and its exit code."""

    code: int
    text: str


def on_terminal(
    arguments: list[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    columns: int = 80,
    typed: str = "",
) -> Shown:
    """Run a command on a terminal that is `columns` wide; `typed` is what a person types."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = forked(
        *arguments,
        env={**_surroundings(), "TERM": "xterm-256color", **env},
        streams=(its, its, its),
        cwd=cwd,
    )
    os.close(its)
    output = b""
    try:
        while select.select([ours], [], [], _PATIENCE_S)[0]:
            part = os.read(ours, 1 << 16)
            if not part:
                break
            output += part
            if typed and output.endswith(b": "):
                # Not before: a prompt for a secret throws away what was typed ahead (getpass).
                os.write(ours, typed.encode())
                typed = ""
        else:
            process.kill()
    except OSError:
        pass  # EIO: the other side is closed (pty(7))
    finally:
        os.close(ours)
    return Shown(process.wait(), output.decode().replace("\r\n", "\n"))


def in_file(
    arguments: list[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
) -> Shown:
    """Run a command without a terminal; stderr comes after stdout."""
    unset = dict.fromkeys(_WIDTHS)
    done = dispatchd_process(*arguments, env={**unset, **env}, cwd=cwd)
    return Shown(done.returncode, done.stdout + done.stderr)


def _surroundings() -> dict[str, str]:
    """Return this process's environment without a width, which would win over that of the terminal."""
    return {name: value for name, value in os.environ.items() if name not in _WIDTHS}


@define
class Normal:
    """Replaces what differs from run to run by something of the same width: ids, times, secrets, ports, folders."""

    folder: Path
    _ids: dict[str, str] = field(factory=dict)

    def of(self, text: str) -> str:
        """Return a text in its normal form."""
        # A line of progress clears itself.
        text = re.sub(r"(?m)^.*\r\x1b\[K", "", text)
        text = re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", self._id, text)
        for known, number in self._ids.items():
            text = re.sub(rf"\b{known[:8]}\b", number[:8], text)
        for pattern, replacement in (
            (r"\x1b\[(\d+)m", lambda found: f"<{_COLOURS.get(found[1], '/')}>"),
            (re.escape(str(self.folder)), "/tmp/scene-00000000"),
            (rf"\b{re.escape(__version__)}\b", "1.2.3"),
            (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-01-01 00:00:00"),
            (r"\d+(\.\d)? (s|min)( \d+ s)?\b", "0 s"),
            (r"\b3 d 2 h( 0 s)?", "3 d 2 h"),
            (r"in 2[0-9] [dh]", "in 26 d"),
            (r"127\.0\.0\.1:\d+", "127.0.0.1:8484"),
            (r"dhub1\.[^.\s]+\.", "dhub1." + "x" * 38 + "."),
            (r"(dhub_[a-z]+_)\S+", r"\1" + "x" * 32),
            (r"init-[0-9a-f]{8}", "init-00000000"),
            (r"[0-9a-f]{64}", "0" * 64),
            (r"(?m)^MCo.*$", "MCo..."),
            (r"pid \d+", "pid 1"),
            (r"[\d.,]+ GiB and [\d,]+ inodes", "1 GiB and 1 inodes"),
            (r" *[\d.]+ [MGT]iB(?=  )", lambda found: f"{'1 GiB':>{len(found[0])}}"),
            (r"\d+ rows", "9 rows"),
            # A finish can be at the hub before the heartbeat that tells of the start.
            (r"(?m)^started +.*\n", ""),
            # What this machine and this moment bring.
            (
                r"(?m)^((clock|isolation|last report|polls|(\w+ loop)|runs kept by) +).*",
                r"\1...",
            ),
        ):
            text = re.sub(pattern, replacement, text)
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())

    def _id(self, found: re.Match[str]) -> str:
        number = f"{len(self._ids) + 1:08x}-0000-4000-8000-000000000000"
        return self._ids.setdefault(found[0], number)
