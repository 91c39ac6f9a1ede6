"""Limit of a process's connections by the descriptors that it may open."""

import resource
from typing import Final

_RESERVED: Final = 96
"""Descriptors for everything else (count): files of the database, bodies on disk, connections to GitHub, the log."""

_LEAST: Final = 8


def within_descriptors(requested: int) -> int:
    """Return the possible number of connections, at most `requested`; raise the process's own limit where permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = requested + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return requested
    return max(_LEAST, min(requested, soft - _RESERVED))
