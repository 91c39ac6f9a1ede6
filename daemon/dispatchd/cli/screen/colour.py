"""Colours by state: one palette for every command."""

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TextIO

import click

_PALETTE: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "green": frozenset({"succeeded", "active", "ready", "ok"}),
        "red": frozenset(
            {"failed", "rejected", "needs_attention", "not_ready", "revoked"}
        ),
        "yellow": frozenset(
            {
                *("running", "accepted", "claimed", "retry_wait", "releasing"),
                *("finishing", "partially_succeeded", "away", "warning"),
                *("paused", "draining", "not ready"),
            }
        ),
        "bright_black": frozenset(
            {
                *("queued", "received", "pending_accept", "given back", "aborted"),
                *("ignored", "superseded", "invited"),
            }
        ),
    }
)
"""Colours (click's names), and the states that have them."""

_COLOURS: Final = {
    state: colour for colour, states in _PALETTE.items() for state in states
}


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person sees what is written to a stream."""
    return stream is not None and not stream.closed and stream.isatty()


def is_coloured(stream: TextIO | None) -> bool:
    """Return whether colours are written to a stream.

    NO_COLOR (no-color.org) goes before CLICOLOR_FORCE (bixense.com/clicolors), and that before what the stream is.
    """
    environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
    if environment.get("NO_COLOR"):
        return False
    if environment.get("CLICOLOR_FORCE", "0") not in {"", "0"}:
        return True
    return is_terminal(stream) and environment.get("TERM") != "dumb"


def painted(text: str, state: str) -> str:
    """Return a text in the colour of a state, for stdout; unchanged where there are no colours."""
    colour = _COLOURS.get(state)
    if colour is None or not is_coloured(sys.stdout):
        return text
    return click.style(text, fg=colour)


def show(line: str) -> None:
    """Print a line to stdout with the colours in it."""
    # `color` keeps click from taking CLICOLOR_FORCE's colours away again in a pipe.
    click.echo(line, color=is_coloured(sys.stdout))
