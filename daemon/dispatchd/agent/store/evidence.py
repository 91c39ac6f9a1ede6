"""Evidence in an attempt's folder: result, events, the texts for its report, and missing artifacts.

The command wrote everything here, so nothing of it is trusted: a file may be a pipe, a link, too
large, or anything but text.
"""

import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from dispatchd.agent.domain.run.brief import CONTRACT_VERSION
from dispatchd.agent.domain.run.events import LONGEST_LINE, Story
from dispatchd.agent.store.artifacts.keep import real_path
from dispatchd.agent.store.durable import put_files
from dispatchd.errors import ContractViolation, StoreUnavailable
from dispatchd.linux.file_holes import end_of_head, read_around_holes
from dispatchd.linux.untrusted_files import read_regular
from dispatchd.protocol.contracts import check
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.result import NoResult, RunResult
from dispatchd.redaction.encodings import SHORTEST
from dispatchd.redaction.masks import COMMAND, LONGEST, MASK_LINE, MOST, masks

MIB: Final = 1024 * 1024

LARGEST_RESULT: Final = MIB
"""Largest result that is read (bytes); contracts/README.md, headless commands."""

LARGEST_TEXT: Final = MIB
"""Largest part of outputs and step summary that is read (bytes); contracts/README.md, outputs and step summary."""

_TICK: Final = timedelta(milliseconds=10)
"""Most that the time of a file is behind the clock: one tick of a kernel with CONFIG_HZ=100 (ktime_get_coarse_real_ts64)."""

LONGEST_EVENTS: Final = 64 * MIB
"""Largest part of an attempt's events that is read (bytes): a run that floods them must not occupy the daemon."""

MOST_EVENTS: Final = 100_000
"""Most lines of them that are read (count), which takes less than a second; contracts/README.md."""

LONGEST_COMMAND: Final = 32 * 1024
"""Longest part of a line with a log command that is read (bytes): much more than is reported of it, so that the end of
the part halves no secret that is."""

_COMMAND: Final = re.compile(rb"^[ \t]*::[^\n]*", re.MULTILINE)
"""Line of an output that may be a log command."""

_CUT_OUT: Final = b"\n[dispatchd: "
"""Beginning of the text in the place of a part that was cut out of an output (`file_holes`)."""

_CHUNK: Final = 256 * 1024

_MASK_BYTES: Final = 4 * MASK_LINE
"""Longest line with a mask (bytes; a character has up to 4, RFC 3629)."""

_NOTED: Final = "masks"
"""Name of the file, beside an output, with the masks in parts of it that were cut out: a JSON string on each line."""

_converter = strict_converter(forbid_extra_keys=False, detailed_validation=False)


def read_result(path: Path) -> RunResult | NoResult:
    """Return the result in a file, or the reason why there is no valid one. Blocks."""
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
    """Return the time of the last write to any of some files (nanoseconds since the epoch); 0 if none exists."""
    return max((_written_ns(path) for path in paths), default=0)


def missing_artifacts(workspace: Path, artifacts: Iterable[str]) -> tuple[str, ...]:
    """Return the relative paths, in their order, that are missing in a workspace or lead out of it. Blocks."""
    return tuple(path for path in artifacts if real_path(workspace, path) is None)


def read_tail(path: Path, limit: int) -> tuple[str, int]:
    """Return the last `limit` bytes of a file as text, and the number of bytes before them. Blocks.

    Invalid UTF-8 becomes replacement characters. Anything but a regular file is empty.
    """
    try:
        start = max(0, path.stat(follow_symlinks=False).st_size - limit)
        data = read_regular(path, limit, start)
    except OSError:
        return "", 0
    return ("", 0) if data is None else (data.decode(errors="replace"), start)


def command_lines(path: Path) -> Iterator[str]:
    """Yield the lines of an output that may be log commands, without their ends: the first `MOST_EVENTS`. Blocks.

    No more than the first `LONGEST_EVENTS` bytes are read. Anything but a regular file has none.
    """
    offset, count, rest = 0, 0, b""
    while offset < LONGEST_EVENTS and count < MOST_EVENTS:
        try:
            data = read_regular(path, _CHUNK, offset) or b""
        except OSError:
            return
        offset += len(data)
        whole, _, after = (rest + data).rpartition(b"\n")
        lines = whole if data else rest
        for found in _COMMAND.finditer(lines):
            if b"\0" in found[0] or lines.startswith(_CUT_OUT, found.end()):
                # Its rest was cut out, and so may be half of a secret.
                continue
            count += 1
            yield found[0][:LONGEST_COMMAND].decode(errors="replace")
        if not data:
            return
        # Of a long line only the beginning matters.
        rest = after[: LONGEST_COMMAND + 1]


def masks_of(output_file: Path) -> list[str]:
    """Return the masks of an attempt, in the order in which a reader of its output meets them. Blocks.

    Those of what was cut out of it come where that was.
    """
    head = end_of_head(output_file)
    before = () if head is None else _masks_in(output_file, 0, head)
    found: list[str] = []
    # The command may have put something else there, which nobody reads.
    with suppress(OSError):
        every = chain(before, noted_masks(output_file), _masks_in(output_file, 0, None))
        found += _first(every)
    # Where a text is read as UTF-8, other bytes are replaced.
    return [*found, *filter(_is_replaced, map(_replaced, found))]


def note_masks(output_file: Path, start: int, end: int) -> None:
    """Write down the masks of a part of an output that is about to be cut out. Blocks.

    Raises:
        OSError: The output can't be read.
        StoreUnavailable: They can't be written.
    """
    before = noted_masks(output_file)
    within = _masks_in(output_file, max(0, start - _MASK_BYTES), end + _MASK_BYTES)
    noted = _first(chain(before, within))
    if noted == before:
        return
    lines = "".join(f"{json.dumps(value)}\n" for value in noted)
    try:
        put_files(output_file.parent, {_NOTED: lines.encode()})
    except StoreUnavailable:
        # A folder there is the command's own doing, and it has to stay within its limit all the same.
        if not output_file.with_name(_NOTED).is_dir():
            raise


def noted_masks(output_file: Path) -> list[str]:
    """Return the masks in parts of an output that were cut out. Blocks."""
    try:
        data = read_regular(output_file.with_name(_NOTED), LARGEST_TEXT) or b""
    except OSError:
        return []
    return _first(_listed(data))


def _listed(data: bytes) -> Iterator[str]:
    """Yield the masks in a file of them, to which the command can write, too."""
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, str) and SHORTEST <= len(value) <= LONGEST:
            yield value


def _first(values: Iterable[str]) -> list[str]:
    """Return the first `MOST` different masks."""
    found: dict[str, None] = {}
    for value in values:
        found[value] = None
        if len(found) == MOST:
            break
    return list(found)


def _replaced(value: str) -> str:
    return value.encode(errors="surrogateescape").decode(errors="replace")


def _is_replaced(value: str) -> bool:
    return "\ufffd" in value


def _masks_in(path: Path, start: int, end: int | None) -> Iterator[str]:
    """Yield the masks of whole lines between two places of an output.

    Raises:
        OSError: It can't be read.
    """
    # What comes first may be the rest of a line.
    rest = b"-" if start else b""
    for data in read_around_holes(path, MIB, start, end):
        block = rest + data
        whole = 1 + max(block.rfind(b"\n"), block.rfind(b"\r"))
        if COMMAND.encode() in block[:whole].lower():
            text = block[:whole].decode(errors="surrogateescape")
            yield from (value for _, value in masks(text))
        # Of a long line only the beginning matters: it is no mask.
        rest = block[whole : whole + _MASK_BYTES + 1]
    if end is None:
        text = rest.decode(errors="surrogateescape") + "\n"
        yield from (value for _, value in masks(text))


@frozen(kw_only=True)
class Head:
    """Beginning of a file as text. `cut` is true if the file is longer. `problem` is the reason if it can't be read."""

    text: str = ""
    cut: bool = False
    problem: str = ""


def read_head(path: Path) -> Head:
    """Return the first `LARGEST_TEXT` bytes of a file as text; a missing one is empty. Blocks.

    Invalid UTF-8 becomes replacement characters.
    """
    try:
        data = read_regular(path, LARGEST_TEXT + 1)
    except FileNotFoundError:
        return Head()
    except OSError as error:
        return Head(problem=f"it can't be read ({error.strerror})")
    if data is None:
        return Head(problem="it isn't a regular file")
    text = data[:LARGEST_TEXT].decode(errors="replace")
    return Head(text=text, cut=len(data) > LARGEST_TEXT)


@define
class EventReader:
    """Reads new events of an attempt; stores its position and the story up to there.

    Safe to call from many threads. In all it reads no more than a limit of lines and a limit of bytes.
    """

    path: Path
    story: Story = field(factory=Story, init=False)
    _offset: int = field(default=0, init=False)
    _lines: int = field(default=0, init=False)
    _rest: bytes = field(default=b"", init=False)
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    def read(self, *, to_the_end: bool = False) -> Story:
        """Return the story up to the last whole line, or to the end of the file. Blocks."""
        with self._guard:
            while self._offset < LONGEST_EVENTS and (data := self._chunk()):
                self._offset += len(data)
                self._take(data)
            if to_the_end and self._rest:
                self._take(b"\n")
            if self._offset >= LONGEST_EVENTS:
                self.story.leave_unread(max(0, self._size() - self._offset))
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
            self.story.leave_out(data.count(b"\n"))
            self._rest = data.rpartition(b"\n")[2][-1:] or self._rest
            return
        *lines, rest = (self._rest + data).split(b"\n")
        # Of a long line only the length matters.
        self._rest = rest[: LONGEST_LINE + 1]
        self._lines += len(lines)
        for line in lines[:room]:
            self.story.feed(line)
        self.story.leave_out(len(lines[room:]))


@define
class Stories:
    """Stories of the running attempts, each line read once. Safe to call from many threads."""

    _readers: dict[Path, EventReader] = field(factory=dict, init=False)

    def so_far(self, path: Path) -> Story:
        """Return the story of an attempt up to now. Blocks."""
        return self._readers.setdefault(path, EventReader(path)).read()

    def whole(self, path: Path) -> Story:
        """Return the whole story of an attempt that is over. Blocks."""
        return self._readers.setdefault(path, EventReader(path)).read(to_the_end=True)

    def forget(self, path: Path) -> None:
        """Forget an attempt that is over; an unknown one is fine."""
        self._readers.pop(path, None)


def read_story(path: Path) -> Story:
    """Return the whole story of an attempt that is over. Blocks."""
    return EventReader(path).read(to_the_end=True)


def _read_whole(path: Path) -> str:
    """Return the text of a result.

    Raises:
        ContractViolation: There is no text that could be JSON.
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


def ended_at(attempt: Path) -> datetime | None:
    """Return when a shim wrote the end of its attempt into its folder, by the machine's clock; None if that isn't known."""
    try:
        end = (attempt / "exit").lstat()
        return datetime.fromtimestamp(end.st_mtime, UTC) + _TICK
    except (OSError, OverflowError, ValueError):
        # A file may have any time, also one that no calendar has.
        return None
