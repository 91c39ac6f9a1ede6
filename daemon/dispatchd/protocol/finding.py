"""Result of one check of the machine, as a line for people."""

from enum import IntEnum

from attrs import frozen


class Level(IntEnum):
    """Result of a check; the worst is the exit code."""

    OK = 0
    WARNING = 1
    FAILED = 2


@frozen
class Finding:
    """One line: the check, its result, and what was seen or has to be done."""

    check: str
    level: Level
    message: str
