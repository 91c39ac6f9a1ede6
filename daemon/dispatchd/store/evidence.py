"""What an attempt left in its folder: result, events, the texts for its report, and what its workspace lacks.

Everything here was written by the command, so nothing of it is trusted: a file may be a pipe, a link, too
large, or anything but text.
"""

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from dispatchd.contracts import check
from dispatchd.conversion import strict_converter
from dispatchd.domain.brief import CONTRACT_VERSION
from dispatchd.domain.result import NoResult, RunResult
from dispatchd.domain.run_event import LONGEST_LINE, Story
from dispatchd.errors import ContractViolation
from dispatchd.hostile_files import read_regular

MIB: Final = 1024 * 1024

LARGEST_RESULT: Final = MIB
"""Largest result that is read (bytes); contracts/README.md, headless commands."""

LARGEST_TEXT: Final = MIB
"""How much is read of outputs and step summary (bytes); contracts/README.md, outputs and step summary."""

LONGEST_EVENTS: Final = 64 * MIB
"""How much of an attempt's events is looked at (bytes): a run that floods them must not keep the daemon busy."""

MOST_EVENTS: Final = 100_000
"""How many lines of them are read (count), which takes less than a second; contracts/README.md."""

_CHUNK: Final = 256 * 1024

_converter = strict_converter(forbid_extra_keys=False, detailed_validation=False)


def read_result(path: Path) -> RunResult | NoResult:
    """Return the result in a file, or why there is none that counts. Blocks."""
    try:
        document = json.loads(_read_whole(path))
    except ContractViolation as violation:
        return NoResult(violation.rule)
    except (ValueError, RecursionError):
        return NoResult("it isn't JSON")
    version = document.get("contract_version") if isinstance(document, dict) else None
    if isinstance(version, str) and version.split(".")[0] != CONTRACT_VERSION:
        known = f"this machine knows {CONTRACT_VERSION}"
        return NoResult(f"it has contract_version {version[:20]!r} and {known}")
    try:
        check("run-result", document)
        return _converter.structure(document, RunResult)
    except ContractViolation as violation:
        return NoResult(f"{violation.path} {violation.rule}")


def last_activity_ns(paths: Iterable[Path]) -> int:
    """Return when one of some files was last written (nanoseconds since the epoch); 0 if none is there."""
    return max((_written_ns(path) for path in paths), default=0)


def missing_artifacts(workspace: Path, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return which of some relative paths are not in a workspace, or lead out of it, in their order. Blocks."""
    inside = workspace.resolve()
    return tuple(each for each in wanted if not _is_inside(inside, each))


def read_tail(path: Path, limit: int) -> tuple[str, int]:
    """Return the last `limit` bytes of a file as text, and how many bytes come before them. Blocks.

    What isn't UTF-8 becomes a replacement character. What isn't a regular file is empty.
    """
    try:
        start = max(0, path.stat(follow_symlinks=False).st_size - limit)
        data = read_regular(path, limit, start)
    except OSError:
        return "", 0
    return ("", 0) if data is None else (data.decode(errors="replace"), start)


@frozen(kw_only=True)
class Head:
    """The beginning of a file as text; `cut` if there is more of it, `flaw` if it can't be read at all."""

    text: str = ""
    cut: bool = False
    flaw: str = ""


def read_head(path: Path) -> Head:
    """Return the first `LARGEST_TEXT` bytes of a file as text; a missing one is empty. Blocks.

    What isn't UTF-8 becomes a replacement character.
    """
    try:
        data = read_regular(path, LARGEST_TEXT + 1)
    except FileNotFoundError:
        return Head()
    except OSError as error:
        return Head(flaw=f"it can't be read ({error.strerror})")
    if data is None:
        return Head(flaw="it isn't a regular file")
    text = data[:LARGEST_TEXT].decode(errors="replace")
    return Head(text=text, cut=len(data) > LARGEST_TEXT)


@define
class EventReader:
    """Reads what is new in an attempt's events; keeps where it stands and what they come to.

    Safe to call from many threads. It reads no more than a limit of lines and one of bytes, ever.
    """

    path: Path
    story: Story = field(factory=Story, init=False)
    _offset: int = field(default=0, init=False)
    _lines: int = field(default=0, init=False)
    _rest: bytes = field(default=b"", init=False)
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    def read(self, *, to_the_end: bool = False) -> Story:
        """Return the story up to the last whole line, or to the very end of the file. Blocks."""
        with self._guard:
            while self._offset < LONGEST_EVENTS and (data := self._chunk()):
                self._offset += len(data)
                self._take(data)
            if to_the_end and self._rest:
                self._take(b"\n")
            if self._offset >= LONGEST_EVENTS:
                self.story.bytes_left_out = max(0, self._size() - self._offset)
        return self.story

    def _chunk(self) -> bytes:
        try:
            return read_regular(self.path, _CHUNK, self._offset) or b""
        except OSError:
            return b""

    def _size(self) -> int:
        try:
            return self.path.stat(follow_symlinks=False).st_size
        except OSError:
            return 0

    def _take(self, data: bytes) -> None:
        room = MOST_EVENTS - self._lines
        if room <= 0:
            # Counting is a thousand times faster than reading.
            self.story.left_out += data.count(b"\n")
            self._rest = data.rpartition(b"\n")[2][-1:] or self._rest
            return
        *lines, rest = (self._rest + data).split(b"\n")
        # Of a long one only its length matters.
        self._rest = rest[: LONGEST_LINE + 1]
        self._lines += len(lines)
        for line in lines[:room]:
            self.story.feed(line)
        self.story.left_out += len(lines[room:])


@define
class Stories:
    """What the attempts that run say of themselves, each line read once; safe to call from many threads."""

    _readers: dict[Path, EventReader] = field(factory=dict, init=False)

    def so_far(self, path: Path) -> Story:
        """Return what the events of an attempt come to up to now. Blocks."""
        return self._readers.setdefault(path, EventReader(path)).read()

    def whole(self, path: Path) -> Story:
        """Return what all events of an attempt that is over come to. Blocks."""
        return self._readers.setdefault(path, EventReader(path)).read(to_the_end=True)

    def forget(self, path: Path) -> None:
        """Forget an attempt that is over; one that isn't known is fine."""
        self._readers.pop(path, None)


def read_story(path: Path) -> Story:
    """Return what all events of an attempt that is over come to. Blocks."""
    return EventReader(path).read(to_the_end=True)


def _read_whole(path: Path) -> str:
    """Return the text of a result.

    Raises:
        ContractViolation: There is none that could be JSON.
    """
    rule = ""
    try:
        data = read_regular(path, LARGEST_RESULT + 1)
        if data is None:
            rule = "it isn't a regular file"
        elif len(data) > LARGEST_RESULT:
            rule = "it is larger than 1 MiB"
        else:
            return data.decode()
    except FileNotFoundError:
        rule = "it wrote none"
    except OSError as error:
        rule = f"it can't be read ({error.strerror})"
    except UnicodeDecodeError:
        rule = "it isn't UTF-8 text"
    raise ContractViolation(contract="run-result", path="$", rule=rule)


def _written_ns(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def _is_inside(inside: Path, wanted: str) -> bool:
    if Path(wanted).is_absolute() or ".." in Path(wanted).parts:
        return False
    try:
        found = (inside / wanted).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return False
    return found != inside and found.is_relative_to(inside)
