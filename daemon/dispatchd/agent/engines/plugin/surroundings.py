"""State of the whole process, kept as it is while code of others is imported and set up in it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, Final

import structlog

_PRIVATE: Final = 0o077


@contextmanager
def kept() -> Iterator[None]:
    """Undo what the block changes: the folder, the umask, handlers of signals, the log. What it prints goes to stderr."""
    folder = _folder()
    mask, handlers, log = _umask(), _handlers(), structlog.get_config()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.umask(mask)
        structlog.configure(**log)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if folder is not None:
            with suppress(OSError):
                os.fchdir(folder)
            os.close(folder)


def _folder() -> int | None:
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _umask() -> int:
    mask = os.umask(_PRIVATE)
    os.umask(mask)
    return mask


def _handlers() -> dict[signal.Signals, Any]:
    """Return the handlers of signals that Python knows; only its main thread can set them again."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in signal.Signals}
    # Those that another language has set can't be set from here.
    return {
        number: handler for number, handler in handlers.items() if handler is not None
    }
