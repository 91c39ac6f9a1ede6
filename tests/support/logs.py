"""The log of programs that run in a test's own process: each writes to a file of its own."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, TextIO, cast

import structlog
from attrs import frozen

from dispatchd.linux import log
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen
class Target:
    """Where a program logs to, and the secrets that it leaves out."""

    out: TextIO
    known: KnownSecrets


_target: ContextVar[Target | None] = ContextVar("log target", default=None)


class _Routed:
    """A stream and a scrubber in one: each line goes to the log of the program that says it."""

    def write(self, text: str) -> None:
        target = _target.get()
        if target is not None:
            with suppress(ValueError):  # closed: the program has ended
                target.out.write(text)

    def fileno(self) -> int:
        """Raise an error: each line goes elsewhere.

        Raises:
            UnsupportedOperation: Always.
        """
        raise UnsupportedOperation

    def flush(self) -> None:
        target = _target.get()
        if target is not None:
            with suppress(ValueError):
                target.out.flush()

    def isatty(self) -> bool:
        return False

    def scrub(self, text: str) -> str:
        target = _target.get()
        return text if target is None else target.known.scrub(text)


@contextmanager
def logging_to(file: Path, known: KnownSecrets, level: str = "debug") -> Iterator[None]:
    """Send what this task logs, and all that it starts, to a file as JSON lines."""
    routed: Any = _Routed()
    log.configure(
        level,
        "json",
        known=cast("KnownSecrets", routed),
        under_systemd=False,
        out=cast("TextIO", routed),
    )
    with file.open("a", encoding="utf-8") as out:
        before = _target.set(Target(out, known))
        try:
            yield
        finally:
            _target.reset(before)


@contextmanager
def own_log() -> Iterator[None]:
    """Put this process's log settings back at the end of a block that changes them."""
    settings, level = structlog.get_config(), log._lowest  # noqa: SLF001  # what `set_level` has set
    try:
        yield
    finally:
        structlog.configure(**settings)
        log._lowest = level  # noqa: SLF001  # as above
