"""Entry points of engines: import, settings, and every mistake in them as one line of the configuration."""

from pathlib import Path
from typing import Final, cast

import attrs
from cattrs import ClassValidationError
from cattrs.errors import ForbiddenExtraKeysError

from dispatchd.agent.config.engines import GROUP, entry_points_of
from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.engines.plugin.guard import Guarded, said
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
    kind = _imported(f"{key}.kind", entry.kind, file)
    settings = _structured(f"{key}.settings", kind, entry, file)
    try:
        executor = kind(settings)
    except (Exception, SystemExit) as error:
        reason = f"must suit the engine {entry.kind}, which raised {said(error)}"
        raise ConfigError(_one(file, f"{key}.settings", reason)) from error
    missing = [call for call in _CALLS if not callable(getattr(executor, call, None))]
    if missing:
        reason = f"must be an engine with the calls {', '.join(_CALLS)}; {entry.kind} lacks {', '.join(missing)}"
        raise ConfigError(_one(file, f"{key}.kind", reason))
    return Guarded(executor, entry.kind)


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
    try:
        imported = points[0].load()
    except (Exception, SystemExit) as error:
        reason = f"must be an engine that can be imported; {points[0].value} raised {said(error)}"
        raise ConfigError(_one(file, key, reason)) from error
    settings: object = getattr(imported, "Settings", None)
    is_engine = callable(imported) and isinstance(settings, type)
    if not is_engine or not attrs.has(cast("type", settings)):
        reason = f"must be a class with an attribute Settings, an attrs class; {points[0].value} isn't"
        raise ConfigError(_one(file, key, reason))
    return cast("EngineKind", imported)


def _structured(key: str, kind: EngineKind, entry: EngineEntry, file: Path) -> object:
    """Return the settings of an engine.

    Raises:
        ConfigError: They have mistakes; carries all of them.
    """
    try:
        return _converter.structure(dict(entry.settings), kind.Settings)
    except ClassValidationError as group:
        problems = [
            Problem(file=file, key=place, expected=expected)
            for place, expected in _mistakes(key, kind, group)
        ]
        raise ConfigError(problems) from group
    except (Exception, SystemExit) as error:
        reason = f"must suit the engine {entry.kind}, which raised {said(error)}"
        raise ConfigError(_one(file, key, reason)) from error


def _mistakes(
    key: str, kind: EngineKind, group: ClassValidationError
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    noted, others = group.group_exceptions()
    for error, note in noted:
        place = f"{key}.{note.name}"
        if isinstance(error, KeyError):
            found.append((place, "is required"))
        elif isinstance(error, ClassValidationError):
            found += _mistakes(place, kind, error)
        else:
            found.append((place, _expected(error)))
    known = ", ".join(field.name for field in attrs.fields(kind.Settings))
    for error in others:
        if isinstance(error, ForbiddenExtraKeysError):
            found += [
                (f"{key}.{name}", f"is not a known key; known are: {known or 'none'}")
                for name in sorted(error.extra_fields)
            ]
        else:
            found.append((key, _expected(error)))
    return found


def _expected(error: Exception) -> str:
    """Return a mistake as the engine words it where it did so on purpose."""
    if isinstance(error, TypeError | ValueError) and str(error):
        return " ".join(str(error).split())
    return f"raised {said(error)}"
