"""Structured logs: an event in snake_case and bound keys, on stdout, scrubbed of every known secret.

JSON where stdout is not a terminal; under systemd each line begins with its priority (sd-daemon(3)).
"""

import io
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog

from dispatchd.linux.nonblocking import LineWriter
from dispatchd.redaction.escapes import coloured
from dispatchd.redaction.known_secrets import KnownSecrets

_PRIORITIES: Final = {
    "debug": 7,
    "info": 6,
    "warning": 4,
    "error": 3,
    "exception": 3,
    "critical": 2,
}
"""syslog(3) levels."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_lowest = logging.INFO


def configure(  # noqa: PLR0913  # a log has as many settings
    level: str,
    form: str,
    *,
    known: KnownSecrets,
    under_systemd: bool,
    colours: bool = False,
    renamed: Callable[[str], str] | None = None,
    out: TextIO | None = None,
) -> None:
    """Set up logging for this process.

    Args:
        level: The lowest level that is shown: debug, info, warning or error.
        form: `json`, `text`, or `auto`, which is text on a terminal and JSON elsewhere.
        known: Secrets that are left out of every line.
        under_systemd: True if stdout goes to the journal.
        colours: True for colours in text; JSON has none.
        renamed: Returns a line under the brand of the program; None to leave lines as they are.
        out: Stream for the lines, if not stdout.
    """
    # It is None where the program was started with stdout closed.
    out = out or cast("TextIO | None", sys.stdout) or io.StringIO()
    as_text = form == "text" or (form == "auto" and out.isatty())
    sink = _Sink(out)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=colours,
            exception_formatter=structlog.dev.plain_traceback,
        )
        if as_text
        else structlog.processors.JSONRenderer(default=str)
    )
    for_json: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        _in_order,
    ]
    set_level(level)
    processors: list[structlog.typing.Processor] = [
        _drop_below_level,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        sink.note_dropped,
        *([] if as_text else for_json),
        renderer,
        *([_only_colours_act] if as_text else []),
        Scrubber(known),
    ]
    if renamed is not None:
        processors.append(lambda _logger, _method, line: renamed(str(line)))
    if under_systemd:
        processors.append(_with_priority)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", sink)),
        cache_logger_on_first_use=True,
    )


class _Sink:
    """Destination of lines. A line that can't be written, such as to a full disk, is no reason to stop working, nor to wait."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines = _lines_of(out)

    def write(self, text: str) -> None:
        # ValueError: the stream is closed.
        with suppress(OSError, ValueError):
            shown = writable(text, self._out)
            if self._lines is None:
                self._out.write(shown)
                return
            self._lines.write(shown.encode(self._out.encoding))

    def note_dropped(
        self, _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Say with the next line how many lines before it had no room."""
        dropped = 0 if self._lines is None else self._lines.dropped
        return {**event, "lines_dropped_before": dropped} if dropped else event

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._out.flush()


def say(line: str) -> None:
    """Print a line that isn't of the log, for whoever has started this program; that nobody reads it stops nothing."""
    # It is None where the program was started with stdout closed.
    sink = _Sink(cast("TextIO | None", sys.stdout) or io.StringIO())
    sink.write(f"{line}\n")
    sink.flush()


def _lines_of(out: TextIO) -> LineWriter | None:
    """Return what writes to a stream without waiting for its reader; None where it has no descriptor."""
    try:
        return LineWriter.of(out.fileno())
    except (OSError, ValueError):
        # It may have been closed too.
        return None


def writable(text: str, out: TextIO) -> str:
    """Return a text with an escape for each character that a stream can't encode, such as half a surrogate pair."""
    encoding = getattr(out, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def set_level(level: str) -> None:
    """Change the lowest level that is shown, also for existing loggers."""
    global _lowest  # noqa: PLW0603  # a process has one log, and structlog keeps its own settings likewise
    _lowest = _LEVELS[level]


def _drop_below_level(
    _logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if _LEVELS.get(method, logging.ERROR) < _lowest:
        raise structlog.DropEvent
    return event


def silence() -> None:
    """Log nothing in this process: a command prints its own messages."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


def _in_order(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Put the keys that every line has before all others."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return {**first, **event}


class Scrubber:
    """Last processor of every line, so that no caller can bypass it: takes known secrets out."""

    def __init__(self, known: KnownSecrets) -> None:
        self._known = known

    def __call__(self, _logger: object, _method: str, line: object) -> str:
        """Return a line without secrets."""
        return self._known.scrub(str(line))


def _only_colours_act(_logger: object, _method: str, line: object) -> str:
    """Escape characters that act on a terminal in values from others; the renderer's colours stay."""
    return coloured(str(line))


def _with_priority(_logger: object, method: str, line: object) -> str:
    return f"<{_PRIORITIES.get(method, 6)}>{line}"
