"""The first line of the program: what must not wait for the command line to be loaded, then the command line."""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run this process's command line."""
    _open_standard_streams()
    if sys.argv[1:2] == ["run"]:
        # Else a hangup ends the daemon until it can reload, and what it would read is yet to be read.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Nothing has begun yet; a stop is a stop, and no death by a signal.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    from dispatchd.cli.entry import main as command_line  # noqa: PLC0415  # see above

    command_line()


def _open_standard_streams() -> None:
    """Open what was closed, so that no file of ours gets the number of stdin, stdout or stderr."""
    for number, name, mode in (
        (0, "stdin", "r"),
        (1, "stdout", "w"),
        (2, "stderr", "w"),
    ):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


if __name__ == "__main__":
    main()
