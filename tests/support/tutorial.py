"""A page, done as its reader does it: its commands in a shell, and what the page says that one sees after each."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

import pytest
from attrs import define, field, frozen

from support.documentation import fences
from support.patience import killed_if_late

STAYS = {
    "dispatchd hub serve": "hub ready",
    "dispatchd quickstart": "Ctrl-C ends both",
    "dispatchd run": "daemon_ready",
    "python3 examples/endpoint/serve.py": "secret_file",
}
"""A command that runs until Ctrl-C, in a terminal of its own -> what its line says once it is ready."""

_VARYING = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"(once|code)=\S*", "SECRET"),
    (r"/[\w-]{43}$", "/SECRET"),
    (r"\bdhub1\.\S+", "KEY"),
    (r"\d+ min (\d+ s)", r"\1"),
    (r"\d+(\.\d+)*", "0"),
    (r"\s+", " "),
)


@define
class Terminal:
    """A shell that reads commands, with what it prints."""

    process: subprocess.Popen[str]

    def types(self, commands: str, until: str = "") -> str:
        """Type commands, and return what they print: to their end, or to the line that says so."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        end = until or "the end of these commands"
        # Programs that read stdin get none of what is typed next.
        last = "" if until else f"echo {end}\n"
        self.process.stdin.write(f"{{\n{commands}\n}} </dev/null\n{last}")
        self.process.stdin.flush()
        lines: list[str] = []
        with killed_if_late(self.process):
            for line in self.process.stdout:
                if end in line:
                    # What ends without a line's end has the mark behind it.
                    return "".join([*lines, line if until else line.partition(end)[0]])
                lines.append(line)
        pytest.fail(f"{commands}\n{''.join(lines)}")


@define
class Reader:
    """Somebody with a folder of their own, and terminals."""

    home: Path
    path: str = f"{Path(sys.executable).parent}:{os.defpath}"
    shell: tuple[str, ...] = ("/bin/bash", "-eu")

    @contextmanager
    def terminal(self) -> Iterator[Terminal]:
        process = subprocess.Popen(
            self.shell,
            cwd=self.home if self.home.exists() else None,
            env={"PATH": self.path, "HOME": str(self.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        with process:
            try:
                yield Terminal(process)
            finally:
                # As Ctrl-C and the end of the session.
                os.killpg(process.pid, signal.SIGINT)
                assert process.stdin is not None
                process.stdin.close()
                with killed_if_late(process):
                    process.wait()

    def sees(self, terminal: Terminal, step: "Step", until: str = "") -> None:
        """Do a step, and check that all that the page shows is there."""
        output = terminal.types(step.commands, until)
        assert missing(step, output, self.home) == [], output


@define
class Page:
    """A page whose commands are run in its order, and what they have printed.

    What stands in a command for something of the reader's own is filled in: by a text, or by the last thing that was
    printed and matches.
    """

    name: str
    reader: Reader
    passed_over: tuple[str, ...] = ()
    filled: Mapping[str, str | re.Pattern[str]] = {}
    printed: str = ""
    left: list[str] = field(init=False)
    _terminals: ExitStack = field(init=False, factory=ExitStack)

    def __attrs_post_init__(self) -> None:
        self.left = [
            each.content
            for each in fences(self.name)
            if each.info == "sh" and not each.content.startswith(self.passed_over)
        ]

    @contextmanager
    def opened(self) -> Iterator[Terminal]:
        """Give the terminal of the page, and require in the end that each of its fences was run."""
        with self._terminals, self.reader.terminal() as terminal:
            yield terminal
            assert self.left == [], (self.name, "is not run")

    def runs(self, terminal: Terminal, beginning: str, until: str = "") -> str:
        """Run the next fence, which begins so, line by line, and return what it prints: all, or to a line that says so."""
        commands = self.left.pop(0)
        assert commands.startswith(beginning), (self.name, commands)
        before = len(self.printed)
        for line in commands.replace("\\\n", " ").splitlines():
            if line:
                self.aside(terminal, line, until)
        return self.printed[before:]

    def aside(self, terminal: Terminal, line: str, until: str = "") -> None:
        """Run a line that is on no page."""
        line = self._filled_in(line)
        for command, ready in STAYS.items():
            if line.startswith(command):
                other = self._terminals.enter_context(self.reader.terminal())
                self.printed += other.types(line, until=ready)
                return
        self.printed += terminal.types(line, until)

    def _filled_in(self, line: str) -> str:
        written, *comment = line.partition("  #")
        for place, value in self.filled.items():
            if place not in written:
                continue
            if isinstance(value, str):
                written = written.replace(place, value)
            else:
                written = written.replace(place, value.findall(self.printed)[-1])
        return "".join([written, *comment])


@frozen
class Step:
    """A block of commands, and the lines that the page shows after it."""

    commands: str
    shown: tuple[str, ...]


def steps(page: str) -> Iterator[Step]:
    """Yield the blocks of commands of a page, in its order."""
    blocks = [*fences(page)]
    for number, fence in enumerate(blocks):
        if fence.info == "sh":
            after = takewhile(lambda each: each.info == "text", blocks[number + 1 :])
            text = "".join(each.content for each in after)
            yield Step(fence.content, tuple(text.splitlines()))


def missing(step: Step, output: str, home: Path) -> list[str]:
    """Return the lines of the page that are not in an output, in their order, but for what varies."""
    output = output.replace(str(home), "/home/me")
    seen = iter(_plain(line) for line in output.splitlines())
    wanted = [line for line in step.shown if line.strip(". ")]
    return [line for line in wanted if not any(_plain(line) in each for each in seen)]


def _plain(line: str) -> str:
    line = line.replace(os.uname().nodename, "my-machine")
    for pattern, name in _VARYING:
        line = re.sub(pattern, name, line)
    return line.strip()
