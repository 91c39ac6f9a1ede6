"""TOML texts, whose every mistake is one kind of error."""

import tomllib

from dispatchd.protocol.job import Json


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
