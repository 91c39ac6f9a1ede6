"""Signals that end a command which has begun something: they raise, so that what it has begun is put back or stopped."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(SystemExit):
    """The command was ended by a signal; its exit code is a shell's, 128 + the signal's number."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block at SIGINT, SIGTERM or SIGHUP by an EndedBySignal. While it ends, they are ignored.

    One that is ignored already stays so, as SIGHUP under nohup(1).
    """
    # Only there Python takes signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise EndedBySignal(128 + number)

    before = {
        number: handler
        for number in _NUMBERS
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let the signals that end a command wait for the end of the block: what is written in it is written as a whole."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
