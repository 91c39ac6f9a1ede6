"""Entry points of engines: import, settings, and every mistake in them as one line of the configuration."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import attrs
from cattrs import BaseValidationError
from cattrs.errors import (
    AttributeValidationNote,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from dispatchd.agent.config.engines import GROUP, entry_points_of
from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.plugin.guard import Guarded
from dispatchd.agent.engines.plugin.surroundings import kept
from dispatchd.agent.engines.plugin.texts import message_of, said
from dispatchd.agent.engines.port import EngineKind
from dispatchd.errors import ConfigError, Problem
from dispatchd.protocol.conversion import strict_converter

_CALLS: Final = ("submit", "find", "stop", "names")

_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=True)


def opened(name: str, entry: EngineEntry, file: Path) -> Guarded:
    """Return an engine of the configuration, which is in a file.

    Raises:
        ConfigError: Its package or its settings can't be used.
    """
    key = f"engines.{name}"
    with kept():
        kind = _imported(f"{key}.kind", entry.kind, file)
        settings = _structured(f"{key}.settings", kind, entry, file)
        suits = f"must suit the engine {entry.kind}, which"
        with _mistake(file, f"{key}.settings", suits):
            executor = kind(settings)
        has_calls = f"must be an engine with the calls {', '.join(_CALLS)}"
        with _mistake(file, f"{key}.kind", f"{has_calls}; {entry.kind}"):
            missing = [
                call for call in _CALLS if not callable(getattr(executor, call, None))
            ]
    if missing:
        reason = f"{has_calls}; {entry.kind} lacks {', '.join(missing)}"
        raise ConfigError(_one(file, f"{key}.kind", reason))
    return Guarded(executor, entry.kind)


@contextmanager
def _mistake(file: Path, key: str, expected: str) -> Iterator[None]:
    """Name whatever the block raises as a mistake in the configuration.

    Raises:
        ConfigError: It raised.
        KeyboardInterrupt: Somebody has interrupted it.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # code of others may raise anything
        reason = f"{expected} raised {said(error)}"
        raise ConfigError(_one(file, key, reason)) from error


def _one(file: Path, key: str, expected: str) -> list[Problem]:
    return [Problem(file=file, key=key, expected=expected)]


def _imported(key: str, kind: str, file: Path) -> EngineKind:
    """Return what an entry point names.

    Raises:
        ConfigError: It isn't there, or can't be imported.
    """
    points = entry_points_of(kind)
    if not points:
        reason = f"must be the name of an entry point of the group {GROUP}; no package here has {kind}"
        raise ConfigError(_one(file, key, reason))
    can_be = f"must be an engine that can be imported; {points[0].value}"
    with _mistake(file, key, can_be):
        imported = points[0].load()
        settings: object = getattr(imported, "Settings", None)
        is_engine = callable(imported) and isinstance(settings, type)
        has_settings = is_engine and attrs.has(cast("type", settings))
    if not has_settings:
        reason = f"must be a class with an attribute Settings, an attrs class; {points[0].value} isn't"
        raise ConfigError(_one(file, key, reason))
    return cast("EngineKind", imported)


def _structured(key: str, kind: EngineKind, entry: EngineEntry, file: Path) -> object:
    """Return the settings of an engine.

    Raises:
        ConfigError: They have mistakes; carries all of them.
    """
    with _mistake(file, key, f"must suit the engine {entry.kind}, which"):
        try:
            return _converter.structure(dict(entry.settings), kind.Settings)
        except BaseValidationError as group:
            problems = [
                Problem(file=file, key=place, expected=expected)
                for place, expected in _mistakes(key, group)
            ]
    raise ConfigError(problems)


def _mistakes(key: str, group: BaseValidationError) -> list[tuple[str, str]]:
    """Return every mistake in a group, however deep, with its place."""
    found: list[tuple[str, str]] = []
    for error in group.exceptions:
        place = _place(key, error)
        if isinstance(error, BaseValidationError):
            found += _mistakes(place, error)
        elif isinstance(error, ForbiddenExtraKeysError):
            known = ", ".join(field.name for field in attrs.fields(error.cl))
            found += [
                (f"{key}.{name}", f"is not a known key; known are: {known or 'none'}")
                for name in sorted(error.extra_fields)
            ]
        elif isinstance(error, KeyError) and place != key:
            found.append((place, "is required"))
        else:
            found.append((place, _expected(error)))
    return found


def _place(key: str, error: Exception) -> str:
    """Return the key that a mistake is in, by the note that cattrs has left."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f"{key}.{note.name}"
        if isinstance(note, IterableValidationNote):
            index = note.index
            return f"{key}.{index}" if isinstance(index, str) else f"{key}[{index}]"
    return key


def _expected(error: Exception) -> str:
    """Return a mistake as the engine words it where it did so on purpose."""
    message = message_of(error)
    return (
        message
        if isinstance(error, TypeError | ValueError) and message
        else f"raised {said(error)}"
    )
