"""Judgement of one rule."""

from enum import StrEnum
from typing import Protocol

from attrs import frozen


class Verdict(StrEnum):
    """Result of one rule."""

    KEPT = "kept"
    BROKEN = "broken"
    SKIPPED = "not judged"


class Numbered(Protocol):
    """Rule of a suite: a number with a point in it, such as 1.12, and a sentence."""

    @property
    def number(self) -> str:
        """Number; the part before the point is the level."""
        ...

    @property
    def words(self) -> str:
        """The rule."""
        ...


@frozen(kw_only=True)
class Judgement:
    """A rule with its verdict; `reason` says why it is broken, or was not judged."""

    rule: Numbered
    verdict: Verdict
    reason: str = ""

    @property
    def level(self) -> int:
        """Level that is lacking where the rule is broken."""
        return int(self.rule.number.partition(".")[0])
