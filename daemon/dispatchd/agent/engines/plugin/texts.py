"""Texts of engines of third parties, made harmless: one short line without characters that act, whatever is inside."""

from typing import Final

from dispatchd.redaction import quoted as quotes
from dispatchd.redaction.escapes import written_out

_QUOTED: Final = 200
"""Longest part of a text that is quoted (characters)."""

_SHOWN: Final = 60
"""Longest part of an object that is shown (characters)."""


def quoted(text: str) -> str:
    """Return the beginning of a text in one line."""
    # Not the text's own methods: a subclass of str may have any.
    return written_out(quotes.quoted(str.__str__(text), _QUOTED))


def message_of(error: BaseException) -> str:
    """Return the message of an exception in one line; one that raises has none."""
    try:
        return quoted(str(error))
    except BaseException:  # noqa: BLE001  # code of others
        return ""


def said(error: BaseException) -> str:
    """Return an exception in one line."""
    name = str.__str__(type.__dict__["__name__"].__get__(type(error)))
    return f"{quoted(name)}: {message_of(error)}".removesuffix(": ")


def shown(answer: object) -> str:
    """Return an object in a few characters."""
    try:
        return quotes.quoted(quoted(repr(answer)), _SHOWN)
    except BaseException:  # noqa: BLE001  # likewise
        return "an object that can't be shown"
