"""Log commands of GitHub Actions in a run's output: `::error file=app.py,line=3::Message` is an annotation.

Form and escapes are those of GitHub's runner (actions/runner, ActionCommand.cs): properties in pairs, `%25`, `%0D`, `%0A`,
and in properties `%3A` and `%2C`, too. Between `::stop-commands::TOKEN` and `::TOKEN::` nothing is a command.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from dispatchd.protocol.result import Annotation

MARK: Final = "::"
"""Beginning of a line with a command, after spaces."""

_LEVELS: Final = {"error": "failure", "warning": "warning", "notice": "notice"}

_STOP: Final = "stop-commands"

_NO_FILE: Final = ".github"
"""Path of an annotation that names no file, as GitHub's runner has it."""

_ESCAPES: Final = (("%0D", "\r"), ("%0A", "\n"))
_ESCAPES_OF_PROPERTIES: Final = (*_ESCAPES, ("%3A", ":"), ("%2C", ","))


class _Command(NamedTuple):
    name: str
    properties: Mapping[str, str]
    message: str


def annotations(lines: Iterable[str], workspace: str) -> Iterator[Annotation]:
    """Yield the annotations in lines of an output, in their order.

    Args:
        lines: Lines without their ends; others than commands are ignored.
        workspace: Path of the run's workspace: paths in it become relative.
    """
    until = ""
    for command in filter(None, map(_parse, lines)):
        if until:
            until = "" if command.name == until else until
        elif command.name == _STOP:
            until = command.message.lower()
        elif command.name in _LEVELS and command.message:
            yield _annotation(command, workspace)


def _parse(line: str) -> _Command | None:
    head, colons, message = line.strip().removeprefix(MARK).partition(MARK)
    if not colons or not line.lstrip().startswith(MARK):
        return None
    name, _, rest = head.partition(" ")
    pairs = (pair.partition("=") for pair in rest.split(","))
    properties = {
        key.strip(): _unescaped(value, _ESCAPES_OF_PROPERTIES)
        for key, _, value in pairs
    }
    return _Command(name.lower(), properties, _unescaped(message, _ESCAPES))


def _annotation(command: _Command, workspace: str) -> Annotation:
    properties = command.properties
    start = _line(properties.get("line", "")) or 1
    end = _line(properties.get("endLine", "")) or start
    path = properties.get("file", "").removeprefix(f"{workspace}/").removeprefix("./")
    return Annotation(
        path=path or _NO_FILE,
        start_line=start,
        end_line=end if end > start else None,
        level=_LEVELS[command.name],
        title=properties.get("title", ""),
        message=command.message,
    )


def _line(text: str) -> int | None:
    """Return the number of a line; None for anything else. Ten digits are more than any file has."""
    return int(text[:10]) if text.isascii() and text.isdigit() else None


def _unescaped(text: str, escapes: Iterable[tuple[str, str]]) -> str:
    for escape, character in escapes:
        text = text.replace(escape, character)
    return text.replace("%25", "%")
