"""The only recipe for a cattrs converter: strict about types, because cattrs alone turns "3" into 3."""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from cattrs import Converter

T = TypeVar("T")


def strict_converter(
    *, forbid_extra_keys: bool, detailed_validation: bool
) -> Converter:
    """Return a converter that changes no value while structuring.

    Structuring raises TypeError or ValueError, bare or inside cattrs' own groups. Datetimes are aware
    and travel as ISO 8601. `detailed_validation` collects every mistake, at some cost in time.
    """
    converter = Converter(
        forbid_extra_keys=forbid_extra_keys,
        detailed_validation=detailed_validation,
        omit_if_default=True,
    )
    for kind in (bool, int, str):
        # Registered by class: a hook by function comes after cattrs' own, which convert. That for str serves enums.
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _instant)
    converter.register_unstructure_hook(datetime, datetime.isoformat)
    converter.register_unstructure_hook_func(_is_enum, str)
    return converter


def _exactly(kind: type[T]) -> Callable[[object, type[T]], T]:
    def structure(value: object, target: type[T]) -> T:
        # The exact type: True is an int for isinstance.
        if type(value) is not kind:
            message = f"must be {_NAMES[kind]}, not {value!r:.40}"
            raise TypeError(message)
        if target is kind:
            return value
        return target(value)  # type: ignore[call-arg]  # one of our string enums

    return structure


_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    str: "a string",
}


def _is_enum(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _number(value: object, _: type[float]) -> float:
    if type(value) not in (int, float):
        message = f"must be a number, not {value!r:.40}"
        raise TypeError(message)
    return float(value)  # type: ignore[arg-type]  # the line above holds it


def _instant(value: object, _: type[datetime]) -> datetime:
    if not isinstance(value, str):
        message = f"must be an ISO 8601 time, not {value!r:.40}"
        raise TypeError(message)
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        message = f"must have a time zone: {value:.40}"
        raise ValueError(message)
    return instant
