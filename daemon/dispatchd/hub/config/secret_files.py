"""Files with secrets, read when the hub starts."""

from pathlib import Path

from dispatchd.errors import ConfigError, Problem


def read_secret(file: Path, *, config_file: Path, key: str) -> str:
    """Return the content of a file, without white space around it. Blocks.

    Args:
        file: The file.
        config_file: The configuration that names it.
        key: The key that names it.

    Raises:
        ConfigError: It can't be read, or is empty.
    """
    try:
        content = file.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        expected = f"must name a readable file ({file}: {error.strerror})"
    except UnicodeDecodeError:
        expected = f"must name a file of text ({file} is none)"
    else:
        if content:
            return content
        expected = f"must name a file that isn't empty ({file})"
    raise ConfigError([Problem(file=config_file, key=key, expected=expected)])
