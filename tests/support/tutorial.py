"""A tutorial, done as its reader does it: its commands in a shell, and what the page says that one sees after each."""

import os
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from attrs import frozen

from support.documentation import tokens

_VARYING = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"(once|code)=\S*", "SECRET"),
    (r"/[\w-]{43}$", "/SECRET"),
    (r"\bdhub1\.\S+", "KEY"),
    (r"\d+(\.\d+)*", "0"),
    (r"\s+", " "),
)


@frozen
class Step:
    """A block of commands, and the lines that the page shows after it."""

    commands: str
    shown: tuple[str, ...]


def steps(page: str) -> Iterator[Step]:
    """Yield the blocks of commands of a page, in its order."""
    fences = [token for token in tokens(page) if token.type == "fence"]
    for index, fence in enumerate(fences):
        if fence.info == "sh":
            shown = takewhile(lambda after: after.info == "text", fences[index + 1 :])
            text = "".join(after.content for after in shown)
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
