"""Patience with a program whose output is read line by line: no such read has an end of its own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Final

PATIENCE_S: Final = 90.0
"""Longest wait for what a program prints, or for its end (seconds)."""


@contextmanager
def killed_if_late(
    process: subprocess.Popen[str], within_s: float = PATIENCE_S
) -> Iterator[None]:
    """Kill a program if the block takes too long, so that its output ends."""
    late = Timer(within_s, process.kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()
