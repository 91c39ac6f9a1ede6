"""Cutting of texts to GitHub's limits, in bytes of UTF-8: on the machine that reports them, and at the hub.

GitHub's docs speak of characters, but GitHub counts bytes ("exceeds a maximum bytesize of 65535", an issue of
its docs, github/docs#35252). Code fences are those of CommonMark 0.31, 4.5; an open one would turn everything
after it into code.
"""

import re
from typing import Final

MOST_BYTES: Final = 65_535
"""Longest summary or text of a check run (bytes)."""

_CUT: Final = "*[... {:,} of {:,} bytes shown; the rest was cut ...]*"
_CUT_LOG: Final = "[... {:,} of {:,} bytes cut ...]"

_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_FENCE: Final = re.compile(r"( {0,3})(`{3,}|~{3,})(.*)", re.DOTALL)

_LONGEST_RUN: Final = 64
"""Longest run of backticks that a fenced text keeps (count), so that the fences around it stay short."""

_RUN: Final = re.compile(rf"`{{{_LONGEST_RUN},}}")


def size(text: str) -> int:
    """Return the size of a text (bytes). Half a surrogate pair, which has no UTF-8, counts as its replacement."""
    return len(_bytes(text))


def clip_markdown(text: str, most: int = MOST_BYTES) -> str:
    """Return the beginning of a Markdown text that fits, with every code fence closed and a last line about the cut.

    Args:
        text: The Markdown.
        most: Most bytes of the answer (count).
    """
    data = _bytes(text)
    if len(data) <= most:
        text = data.decode()
        whole = text + _closing(text)
        if size(whole) <= most:
            return whole
    note = _CUT.format(len(data), len(data))
    room = most - len(note) - 2
    while room > 0:
        head = _whole_lines(data[:room].decode(errors="ignore"))
        closing = _closing(head)
        rest = f"{closing}\n\n{_CUT.format(size(head), len(data))}"
        if size(head) + size(rest) <= most:
            return head + rest
        room -= size(closing) + 1
    return data[:most].decode(errors="ignore").replace("`", "'").replace("~", "-")


def clip_log(text: str, most: int) -> str:
    """Return the end of a log that fits, with a first line about the cut; empty if not even that line fits.

    Args:
        text: The log.
        most: Most bytes of the answer (count).
    """
    data = _bytes(text)
    if len(data) <= most:
        return data.decode()
    room = most - len(_CUT_LOG.format(len(data), len(data))) - 1
    if room < 0:
        return ""
    # The rest of a character that was cut is left out.
    tail = data[len(data) - room :].decode(errors="ignore")
    # Not in the middle of a line where that costs little.
    tail = tail[tail.find("\n", 0, len(tail) // 20) + 1 :]
    return f"{_CUT_LOG.format(len(data) - size(tail), len(data))}\n{tail}"


def clip_line(text: str, most: int) -> str:
    """Return a text as one line of at most `most` characters."""
    line = " ".join(_bytes(text).decode().split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def fenced(log: str, most: int) -> str:
    """Return the end of a log as a block of code that fits; empty if there is no room.

    Args:
        log: The log.
        most: Most bytes of the answer (count).
    """
    log = _RUN.sub("`" * _LONGEST_RUN, log)
    longest = max((len(run) for run in re.findall("`+", log)), default=0)
    fence = "`" * max(3, longest + 1)
    clipped = clip_log(log, most - 2 * len(fence) - len("text\n\n"))
    return f"{fence}text\n{clipped}\n{fence}" if clipped else ""


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _whole_lines(text: str) -> str:
    """Return a text without the unfinished line at its end, where that costs little."""
    end = max(text.rfind("\n"), text.rfind("\r"))
    return text[:end] if end > len(text) * 19 // 20 else text


def _closing(text: str) -> str:
    """Return the line that closes the code fence that a text leaves open; empty if it leaves none open."""
    fence = open_fence(text)
    return f"\n{fence}" if fence else ""


def open_fence(text: str) -> str:
    """Return the marks that close the fence that a text leaves open, or an empty string.

    They include its indentation, so that they also close a fence in a list.
    """
    fence = ""
    for line in _LINE_END.split(text):
        match = _FENCE.match(line)
        if match is None:
            continue
        indent, marks, rest = match.groups()
        if not fence:
            # Backticks after a fence of backticks are a code span (CommonMark, 4.5).
            fence = "" if marks[0] == "`" and "`" in rest else indent + marks
        elif marks.startswith(fence.lstrip()) and not rest.strip(" \t"):
            fence = ""
    return fence
