"""Acting as the owner of a state folder: what root leaves there the daemon could not read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def as_owner_of(folder: Path) -> Iterator[None]:
    """Have root act as the owner of a folder for the length of a block; others stay who they are.

    In a folder that doesn't exist yet root makes its files as root: systemd gives them to the service at its first
    start (systemd.exec(5), StateDirectory=).
    """
    try:
        owner = folder.stat()
    except OSError:
        yield
        return
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
