"""The control socket's token: a peer that can't read its file may connect, but gets no answer.

A run has the daemon's uid, and its wall doesn't block connections to a socket (docs/security.md). It does block files.
So the socket requires the content of a file beside it. The file is new with each start of a daemon.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from dispatchd.linux.untrusted_files import read_regular, write_new

TOKEN_FILE: Final = "control.token"  # noqa: S105  # a file's name
TOKEN_HEADER: Final = "dispatchd-token"  # noqa: S105  # a header's name

_BYTES: Final = 32
_LONGEST: Final = 256
_MODE: Final = 0o640
"""Mode of the file, like the socket's own: readable for its group."""


def make() -> str:
    """Return a new token."""
    return secrets.token_hex(_BYTES)


def write(folder: Path, token: str, group: int) -> None:
    """Write a token to a file that the permitted users of a folder's socket can read.

    Raises:
        OSError: It can't be written.
    """
    file = folder / TOKEN_FILE
    write_new(file, token.encode())
    # If it can't be given to the socket's group, it already has this process's group.
    with suppress(PermissionError):
        os.chown(file, -1, group)
    file.chmod(_MODE)


def read(folder: Path) -> str:
    """Return the token of the daemon that answers in a folder; empty if there is none, or this user can't read it."""
    try:
        return (read_regular(folder / TOKEN_FILE, _LONGEST) or b"").decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def is_same(given: bytes | None, token: str) -> bool:
    """Return whether a caller has sent the token."""
    return given is not None and secrets.compare_digest(given, token.encode())
