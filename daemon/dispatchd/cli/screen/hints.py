"""Hints beside a result: the next step, progress, and a question before something is destroyed.

All of it goes to stderr, and only where a terminal is: scripts see the result alone.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

import click

from dispatchd.cli.screen.colour import is_terminal
from dispatchd.cli.screen.table import wrapped
from dispatchd.cli.terminal import echo
from dispatchd.errors import UsageError
from dispatchd.protocol.times import rough

_PATIENCE_S: Final = 1.0
"""Time that a command may take without a word, and between two words (seconds)."""

_CLEAR: Final = "\r\x1b[K"
"""To the beginning of the line, and clear it (ECMA-48, EL)."""


def next_step(text: str) -> None:
    """Say what to do next, to a person whose terminal shows the result."""
    if is_terminal(sys.stdout) and is_terminal(sys.stderr):
        for line in text.splitlines():
            echo("\n".join(wrapped(line, 0)), err=True)


def confirm(question: str, *, yes: bool, cannot: str = "") -> None:
    """Ask a person before something is destroyed, and return if the answer is yes.

    A script isn't asked, because nobody could answer.

    Args:
        question: The question.
        yes: True if the answer was given on the command line.
        cannot: What a script can't do without that answer, as words after "cannot"; empty if it needs none.

    Raises:
        UsageError: A script needs the answer.
        Abort: The answer is no.
    """
    if yes:
        return
    if not is_terminal(sys.stdin):
        if cannot:
            raise UsageError(cannot=cannot, reason="nobody can be asked; say --yes")
        return
    if not click.confirm(question, err=True):
        raise click.Abort


yes_option = click.option("-y", "--yes", is_flag=True, help="Don't ask.")


@contextmanager
def working(what: str, detail: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Show what a command is doing, on a line that is cleared in the end, while a block takes longer than a second.

    Args:
        what: What it is doing.
        detail: Returns how far it is, in words.
    """
    if not is_terminal(sys.stderr):
        yield
        return
    done = Event()
    started = time.monotonic()

    def tell() -> None:
        while not done.wait(_PATIENCE_S):
            passed = rough(time.monotonic() - started)
            said = ", ".join(word for word in (detail(), passed) if word)
            click.echo(f"{_CLEAR}{what}: {said}", nl=False, err=True)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        if time.monotonic() - started >= _PATIENCE_S:
            click.echo(_CLEAR, nl=False, err=True)
