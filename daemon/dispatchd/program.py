"""The program: the steps that must not wait for the command line to be loaded, then the command line.

A vendor's console script calls `main` with a brand of its own; see docs/vendor.md.
"""

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from dispatchd.brand import Brand

_OTHERS: Final = 0o077
"""Permissions of everybody but the owner."""


def main(brand: "Brand | None" = None) -> NoReturn:
    """Run this process's command line, under a brand (default: its own name)."""
    _open_standard_streams()
    _require_clock("dispatchd" if brand is None else brand.name)
    # Whoever has started this may have blocked signals, and a stop would never be heard of.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # One that takes permissions from the owner makes files that nobody can use, those of this program among them.
    os.umask(os.umask(_OTHERS) & _OTHERS)
    # If it is ignored, the kernel keeps no status of a child.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.argv[1:3] == ["hub", "serve"]:
        # The hub has nothing to reload.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.argv[1:2] == ["run"]:
        # Otherwise a hangup would end the daemon until it can reload; it hasn't read its configuration yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Nothing has begun yet: a stop exits with code 0, and isn't a death by a signal.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    from dispatchd.cli.main import main as command_line  # noqa: PLC0415  # see above

    command_line(brand=brand)


def _require_clock(name: str) -> None:
    """End this process where Python can't represent the time, and no module of it can be loaded."""
    try:
        time.time()  # noqa: TID251  # nothing is decided by it
    except OverflowError:
        sys.stderr.write(
            f"{name}: this machine's clock is past the year 2262: set it\n"
        )
        sys.exit(os.EX_CONFIG)


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no file of ours gets the number of stdin, stdout or stderr."""
    for number, name, mode in (
        (0, "stdin", "r"),
        (1, "stdout", "w"),
        (2, "stderr", "w"),
    ):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            opened = os.open(os.devnull, os.O_RDWR)
            # What is started from here finds it closed otherwise.
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, mode))
