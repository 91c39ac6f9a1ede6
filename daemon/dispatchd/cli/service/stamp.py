"""A first line by which a file that this program wrote is told from one that a person has edited since."""

import os
import re
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Final

from dispatchd import __version__
from dispatchd.cli.brand import brand
from dispatchd.errors import UsageError

_STAMP: Final = re.compile(r"# [a-z0-9-]+ \S+ wrote this; sha256 ([0-9a-f]{64})\..*\n")


class State(StrEnum):
    """State of a file before it is written."""

    MISSING = "missing"
    UNCHANGED = "unchanged"
    """It has the same content already."""
    OLDER = "older"
    """This program wrote it, and nobody has edited it since."""
    EDITED = "edited"
    """A person wrote or edited it, or it is no file."""


def stamped(text: str) -> str:
    """Return a text with the line that tells an edited file from an untouched one."""
    return f"# {brand().name} {__version__} wrote this; sha256 {_hash(text)}. An edited file is left alone.\n{text}"


def state_of(file: Path, text: str) -> State:
    """Return the state of a file in whose place a text is to be; files that are no text count as edited."""
    # Nobody may ever write into a pipe.
    if not file.is_symlink() and (file.is_file() or not file.exists()):
        with suppress(UnicodeDecodeError):
            try:
                current = file.read_text("utf-8")
            except FileNotFoundError:
                return State.MISSING
            except IsADirectoryError:
                return State.EDITED
            if current == stamped(text):
                return State.UNCHANGED
            if is_untouched(current):
                return State.OLDER
    return State.EDITED


def is_untouched(content: str) -> bool:
    """Return whether this program, in any release, wrote a content as it is."""
    stamp = _STAMP.match(content)
    return stamp is not None and stamp[1] == _hash(content[stamp.end() :])


def write(file: Path, content: str, *, mode: int = 0o644) -> None:
    """Write a file as a whole, with the folders above it.

    Raises:
        OSError: It can't be written; what was there before stays then.
        UsageError: An address or a path in it can't be.
    """
    encoded = _encoded(content)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.new")
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as opened:
            # A umask of 077 would hide a unit's configuration from those who may steer the daemon.
            os.fchmod(fd, mode)
            opened.write(encoded)
            opened.flush()
            os.fsync(fd)
        aside.replace(file)
    except OSError as error:
        # Without the name it would seem to be about stdout.
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        aside.unlink(missing_ok=True)


def _hash(text: str) -> str:
    return sha256(_encoded(text)).hexdigest()


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        reason = "an address or a path in it is not UTF-8"
        raise UsageError(cannot="write a configuration", reason=reason) from error
