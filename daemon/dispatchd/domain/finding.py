"""What a check of something that has to work has found, in a line for people."""

from enum import IntEnum

from attrs import frozen


class Level(IntEnum):
    """How a check went; the worst is the exit code."""

    OK = 0
    WARNING = 1
    FAILED = 2


@frozen
class Finding:
    """One line: what was checked, how it went, and what was seen or is to be done."""

    check: str
    level: Level
    words: str
