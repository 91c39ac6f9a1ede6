"""First line of the program: the steps that must not wait for the command line to be loaded, then the command line."""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run this process's command line."""
    _open_standard_streams()
    if sys.argv[1:2] == ["run"]:
        # Otherwise a hangup would end the daemon until it can reload; it hasn't read its configuration yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Nothing has begun yet: a stop exits with code 0, and isn't a death by a signal.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    from dispatchd.cli.main import main as command_line  # noqa: PLC0415  # see above

    command_line()


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
            # Opening takes the lowest free number, which is this stream's.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


if __name__ == "__main__":
    main()
