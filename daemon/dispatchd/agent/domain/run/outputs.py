"""Outputs of a run: the content of the file that `GITHUB_OUTPUT` names.

The file is read as GitHub's runner reads it on Linux (actions/runner, FileCommandManager.cs): lines `NAME=VALUE`,
or `NAME<<DELIMITER`, the lines of the value, and the delimiter alone. Only a line feed ends a line. Where the
runner fails a step for an invalid line, only that line is left out here: a run is judged by its exit code and
its result.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from attrs import define, field, frozen

KIB: Final = 1024

MOST: Final = 100
"""Most outputs that are reported (count)."""

LARGEST: Final = 64 * KIB
"""Most bytes of all outputs of a run together (UTF-8, names and values)."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

_REASONS: Final = 5
"""Most reasons that are stored (count): a file with a million invalid lines takes one line of the log."""

_LONGEST_NAME_SHOWN: Final = 100
"""Longest part of a name that a reason repeats (characters)."""


@frozen(kw_only=True)
class Outputs:
    """Values by name, in the order of their first appearance, and the outputs left out.

    `reasons` are those of the first outputs left out, in order; they quote no value.
    """

    values: Mapping[str, str]
    left_out: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """Outputs that were left out, in words; empty if there are none."""
        untold = self.left_out - len(self.reasons)
        return (*self.reasons, f"and {untold} more outputs") if untold else self.reasons


@define
class _Collected:
    values: dict[str, str] = field(factory=dict)
    left_out: int = 0
    reasons: list[str] = field(factory=list)

    def leave_out(self, what: str, why: str) -> None:
        self.left_out += 1
        if len(self.reasons) < _REASONS:
            self.reasons.append(f"outputs, {what}: {why}")

    def take(self, line: int, name: str, value: str) -> None:
        if _NAME.fullmatch(name):
            self.values[name] = value
        else:
            self.leave_out(
                f"line {line}", "its name is not of the form [A-Za-z_][A-Za-z0-9_-]*"
            )

    def frozen(self) -> Outputs:
        return Outputs(
            values=MappingProxyType(self.values),
            left_out=self.left_out,
            reasons=tuple(self.reasons),
        )


def parse(text: str, *, cut: bool = False) -> Outputs:
    """Return the outputs in the text of a file; of those with one name the last counts. Raises nothing.

    If `cut` is true, the text is only the beginning of the file, and its last, broken line does not count.
    """
    collected = _Collected()
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if cut:
        text = text[: text.rfind("\n") + 1]
        collected.leave_out("the rest", "the file is larger than 1 MiB")
    lines = enumerate(text.split("\n"), start=1)
    for number, line in lines:
        name, equals, value = line.partition("=")
        if equals and "<<" not in name:
            collected.take(number, name, value)
            continue
        name, marker, delimiter = line.partition("<<")
        if marker and delimiter:
            _take_lines(collected, lines, (number, name, delimiter))
        elif line:
            collected.leave_out(
                f"line {number}", "neither NAME=VALUE nor NAME<<DELIMITER"
            )
    return collected.frozen()


def _take_lines(
    collected: _Collected, lines: Iterator[tuple[int, str]], head: tuple[int, str, str]
) -> None:
    """Take a value of several lines, up to its delimiter, which is in `head` beside the line's number and the name."""
    number, name, delimiter = head
    value: list[str] = []
    for _, line in lines:
        if line == delimiter:
            collected.take(number, name, "\n".join(value))
            return
        value.append(line)
    collected.leave_out(f"line {number}", "the delimiter of its value does not come")


def reported(outputs: Outputs, scrub: Callable[[str], str]) -> Outputs:
    """Return outputs as they are reported: without secrets, and within the limits.

    An output that would exceed the limits, with its secrets or without, is left out. A later one may still fit.
    """
    collected = _Collected(left_out=outputs.left_out, reasons=[*outputs.reasons])
    room = LARGEST
    for name, value in outputs.values.items():
        shown = name[:_LONGEST_NAME_SHOWN]
        if len(collected.values) == MOST:
            collected.leave_out(shown, f"only {MOST} outputs are reported")
            continue
        clean = value if _size(name, value) > room else _clean(name, value, scrub)
        if clean is None:
            collected.leave_out("a name", "it is a secret")
        elif _size(name, clean) > room:
            collected.leave_out(shown, f"with it they have more than {LARGEST:,} bytes")
        else:
            collected.values[name] = clean
            room -= _size(name, clean)
    return collected.frozen()


def _clean(name: str, value: str, scrub: Callable[[str], str]) -> str | None:
    """Return a value without secrets, or None if the name is one."""
    # Together: a name such as `password` says what its value is.
    head, clean = f"{name}=", scrub(f"{name}={value}")
    return clean.removeprefix(head) if clean.startswith(head) else None


def _size(name: str, value: str) -> int:
    return len(name) + len(value.encode(errors="replace"))
