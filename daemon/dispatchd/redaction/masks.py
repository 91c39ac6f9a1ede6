"""Masks: values that a command wants hidden in its log from then on, by `::add-mask::VALUE` on a line of its own.

Form and escapes are those of GitHub's runner (actions/runner, ActionCommand.cs and ActionCommandManager.cs). Each line of a value
is a mask. One that is shorter than any secret is none: it would hide ordinary words.
"""

import re
from collections.abc import Iterator
from typing import Final

from dispatchd.redaction.encodings import SHORTEST

LONGEST: Final = 4096
"""Longest value (characters, as it is written): its line is in what a stream holds back, so that it hides itself, too."""

MASK_LINE: Final = LONGEST + 512
"""Longest line with a mask (characters)."""

MOST: Final = 32
"""Most masks of one log (count): each has many forms, and each of them is searched in all of the text."""

COMMAND: Final = "add-mask"
"""Part of each line with a mask, in lower or upper case."""

_LINE: Final = re.compile(
    # A line also begins behind the last state of a progress bar.
    r"(?:^|(?<=\r))"
    # Without a step back: on hostile lines each would cost thousands.
    r"(?>[ \t\ufeff]{0,200}::(?i:add-mask)(?: [^\r\n]{0,99}?)?::"
    r"|[^\r\n]{0,200}?##\[(?i:add-mask)(?: [^\]\r\n]{0,99})?\])"
    rf"([^\r\n]{{{SHORTEST},{LONGEST}}}+)(?=[\r\n])",
    re.MULTILINE,
)
_ESCAPES: Final = (("%0D", "\r"), ("%0A", "\n"), ("%25", "%"))


def masks(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """Yield each mask in a text, with the place where its line begins. Only lines with an end count.

    Args:
        text: Text that begins with a line.
        start: Place from which on lines count (characters).
    """
    if COMMAND not in text[start:].lower():
        return
    for found in _LINE.finditer(text, start):
        value = found[1]
        for escape, character in _ESCAPES:
            value = value.replace(escape, character)
        for line in map(str.strip, value.splitlines()):
            # The runner hides what a program quotes without its quotes, too.
            bare = line[1:-1] if line[:1] == line[-1:] == '"' else ""
            for mask in (line, bare):
                if len(mask) >= SHORTEST:
                    yield found.start(), mask
