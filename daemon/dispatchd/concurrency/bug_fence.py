"""The bug fence: a surprise in one task is logged with its context and ends nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from attrs import define


@define
class Containment:
    """True once the block of a fence has met a bug."""

    has_bug: bool = False


@contextmanager
def bugs_contained(**context: object) -> Iterator[Containment]:
    """Log whatever goes wrong in a block as a bug, with some keys, and go on behind the block."""
    containment = Containment()
    try:
        yield containment
    except Exception:  # noqa: BLE001  # a fence
        containment.has_bug = True
        structlog.get_logger().exception("bug_contained", **context)
