"""Descriptors on their way from one process to another: all of a user's count together (unix(7), ETOOMANYREFS).

Who sends some is refused where more of the user's are under way than the sender's own limit (RLIMIT_NOFILE). A run has
the daemon's user, and can leave as many under way as its own limit allows; so it is given a smaller one.
Standard library alone, so that small helpers can load it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from threading import Lock
from typing import Final

_guard: Final = Lock()
"""Held while the limit is another one: it is that of the whole process."""

_PART: Final = 4
"""One in so many of the descriptors that a process of ours may have is kept from runs."""


@contextmanager
def sending() -> Iterator[None]:
    """Let this process send descriptors up to its hard limit for the length of a block."""
    with _guard:
        soft, hard = getrlimit(RLIMIT_NOFILE)
        setrlimit(RLIMIT_NOFILE, (hard, hard))
        try:
            yield
        finally:
            setrlimit(RLIMIT_NOFILE, (soft, hard))


def keep_some() -> None:
    """Give up some of the descriptors that this process, and what it executes, may have."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    most = hard - hard // _PART
    setrlimit(RLIMIT_NOFILE, (min(soft, most), most))
