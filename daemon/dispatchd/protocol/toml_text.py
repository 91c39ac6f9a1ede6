"""TOML texts: strings in them, and one kind of error for every mistake."""

import json
import tomllib

from dispatchd.protocol.job import Json


def quoted(text: str) -> str:
    """Return a text as a string of TOML: one of JSON, except for the one character that only JSON has as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def loads(text: str) -> dict[str, Json]:
    """Return the tables of a TOML text.

    Raises:
        TOMLDecodeError: It isn't TOML, is nested too deeply, or has a number with too many digits.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError as error:
        message = "it is nested too deeply"
        raise tomllib.TOMLDecodeError(message) from error
    except ValueError as error:
        # Python limits the digits of a number (int_max_str_digits).
        message = "a number in it has too many digits"
        raise tomllib.TOMLDecodeError(message) from error
