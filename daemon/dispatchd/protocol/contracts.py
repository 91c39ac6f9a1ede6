"""The contracts as code: load and apply the JSON Schemas of `contracts/`.

Three rules are stricter here than in JSON Schema, because the Python types are: a whole number is
written without a fraction (1.0 isn't one), NaN and Infinity, which TOML has, are no numbers, and neither
is what is larger than every double (IEEE 754).
"""

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dispatchd.errors import ContractViolation
from dispatchd.protocol.published.schemas import names, schema

if TYPE_CHECKING:
    # Slow to load: a command that validates nothing goes without it, and a daemon and a hub load it at their start.
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import Draft202012Validator

CONTRACTS_VERSION: Final = 1
"""Version of every contract here; contracts/README.md, versions."""

_JSON_TYPE_NAMES: Final = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}

_PYTHON_TYPE_NAMES: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}

_LIMITS: Final = {
    "const": "must be {}",
    "minLength": "must have {} or more characters",
    "maxLength": "must have {} or fewer characters",
    "minItems": "must have {} or more items",
    "maxItems": "must have {} or fewer items",
    "minimum": "must be {} or more",
    "maximum": "must be {} or less",
    "exclusiveMinimum": "must be more than {}",
}

_LISTED: Final = 1000
"""Most mistakes of a document that are listed (count)."""

_COMPARED: Final = 100
"""Mistakes that are compared to find the most informative one (count)."""

_LONGEST_NAME: Final = 100
"""Longest part of a name in a document that is shown (characters)."""

_ENDS: Final = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\$", re.DOTALL)
"""A dollar sign in a pattern; and, so that none in them is taken for one, escapes and sets of characters."""

_BARE: Final = re.compile("[A-Za-z0-9_-]+")


def check(contract: str, document: object) -> None:
    """Validate a document against a contract.

    Args:
        contract: The contract's name, such as `dispatch-job`.
        document: Parsed JSON or TOML.

    Raises:
        ContractViolation: The document breaks it; the error is the most informative mistake.
    """
    from jsonschema.exceptions import best_match  # noqa: PLC0415  # see above

    errors = _validator(contract).iter_errors(document)
    error = best_match(islice(errors, _COMPARED))
    if error is not None:
        path, rule = next(_explained(error))
        raise ContractViolation(contract=contract, path=path, rule=rule)


def violations(contract: str, document: object) -> list[ContractViolation]:
    """Return the mistakes of a document, in the order of its keys; an empty list if it is valid."""
    errors = sorted(
        islice(_validator(contract).iter_errors(document), _LISTED),
        key=lambda error: _place(document, error),
    )
    # The validator reports each missing key by itself, without naming it: `_explained` names them all.
    explanations = dict.fromkeys(
        explanation for error in errors for explanation in _explained(error)
    )
    return [
        ContractViolation(contract=contract, path=path, rule=rule)
        for path, rule in explanations
    ]


def load_all() -> None:
    """Read every contract now: later there may be no descriptor free, or another release's file in its place.

    Raises:
        OSError: A file can't be read.
    """
    for contract in names():
        _validator(contract)


@cache
def _validator(contract: str) -> "Draft202012Validator":
    return _strict()(schema(contract))


def _is_integer(_: object, value: object) -> bool:
    return type(value) is int


def _is_number(_: object, value: object) -> bool:
    if type(value) is int:
        return abs(value) <= sys.float_info.max
    return type(value) is float and math.isfinite(value)


# The schema decides the type of a keyword's value and of an instance: the types in the stubs don't help here.
_Schema = Mapping[str, Any]
_Broken: TypeAlias = Callable[["Draft202012Validator", Any, Any, _Schema], bool]
"""Returns whether an instance breaks a keyword, given the validator, the keyword's value, the instance, the schema."""


def _has_other_type(
    validator: "Draft202012Validator",
    kinds: str | list[str],
    instance: object,
    _: _Schema,
) -> bool:
    allowed = [kinds] if isinstance(kinds, str) else kinds
    return not any(validator.is_type(instance, kind) for kind in allowed)


def _is_other_value(
    _: "Draft202012Validator", value: object, instance: object, __: _Schema
) -> bool:
    # True equals 1 in Python.
    return isinstance(instance, bool) != isinstance(value, bool) or instance != value


def _is_none_of(
    validator: "Draft202012Validator",
    values: list[object],
    instance: object,
    schema: _Schema,
) -> bool:
    return all(_is_other_value(validator, value, instance, schema) for value in values)


def _is_longer(
    _: "Draft202012Validator", most: int, instance: object, __: _Schema
) -> bool:
    return isinstance(instance, (str, list)) and len(instance) > most


def _is_shorter(
    _: "Draft202012Validator", least: int, instance: object, __: _Schema
) -> bool:
    return isinstance(instance, (str, list)) and len(instance) < least


def _breaks_pattern(
    _: "Draft202012Validator", pattern: str, instance: object, schema: _Schema
) -> bool:
    if not isinstance(instance, str):
        return False
    # A list or text that is too long is refused for its length.
    longest = schema.get("maxLength", len(instance))
    return len(instance) <= longest and _ecma(pattern).search(instance) is None


@cache
def _ecma(pattern: str) -> re.Pattern[str]:
    """Return a pattern of ECMA-262, in which `$` is the end alone, and not the place before a last line break."""
    return re.compile(
        _ENDS.sub(lambda match: "\\Z" if match[0] == "$" else match[0], pattern)
    )


def _silent(is_broken: _Broken) -> "Callable[..., Iterator[ValidationError]]":
    """Return a keyword whose errors don't quote the instance, which may be as long as the document."""

    def check_keyword(
        validator: "Draft202012Validator",
        value: object,
        instance: object,
        schema: _Schema,
    ) -> "Iterator[ValidationError]":
        from jsonschema.exceptions import ValidationError  # noqa: PLC0415  # see above

        if is_broken(validator, value, instance, schema):
            yield ValidationError("broken")

    return check_keyword


def _items(
    validator: "Draft202012Validator",
    items: _Schema,
    instance: object,
    schema: _Schema,
) -> "Iterator[ValidationError]":
    """Validate the items of a list, unless the list is too long: then its length is the only mistake."""
    if not isinstance(instance, list):
        return
    if len(instance) > schema.get("maxItems", len(instance)):
        return
    is_plain = items.keys() <= {"type", "description"} and items["type"] == "string"
    for index, item in enumerate(instance):
        # To ask the validator about each of a million texts would take minutes.
        if not (is_plain and isinstance(item, str)):
            yield from validator.descend(item, items, path=index)


@cache
def _strict() -> "type[Draft202012Validator]":
    """Return the validator of all contracts."""
    from jsonschema.validators import Draft202012Validator, extend  # noqa: PLC0415  # see above

    strict: type[Draft202012Validator] = extend(  # type: ignore[no-untyped-call]  # the stubs leave it open
        Draft202012Validator,
        validators={
            "type": _silent(_has_other_type),
            "const": _silent(_is_other_value),
            "enum": _silent(_is_none_of),
            "maxItems": _silent(_is_longer),
            "minItems": _silent(_is_shorter),
            "maxLength": _silent(_is_longer),
            "minLength": _silent(_is_shorter),
            "pattern": _silent(_breaks_pattern),
            "items": _items,
        },
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
            {"integer": _is_integer, "number": _is_number}
        ),
    )
    return strict


def _explained(error: "ValidationError") -> Iterator[tuple[str, str]]:
    """Yield path and rule, in words for a reader who doesn't know JSON Schema.

    Strings, lists and objects of the document are never quoted: a rule may end up in a public check,
    and a value may be a secret.
    """
    steps, keyword = error.absolute_path, error.validator
    # The stubs allow for an error without these fields; one from a validator has all of them.
    instance: Any = error.instance
    around: Any = error.schema
    if keyword in _ABOUT_NAMES:
        for name, rule in _ABOUT_NAMES[str(keyword)](around, instance):
            yield _json_path(*steps, name), rule
    elif "propertyNames" in error.absolute_schema_path:
        yield (
            _json_path(*steps, instance),
            f"its name {_rule(str(keyword), around, instance)}",
        )
    else:
        yield _json_path(*steps), _rule(str(keyword), around, instance)


_Names = Iterator[tuple[str, str]]


def _missing(around: Mapping[str, Any], instance: Mapping[str, object]) -> _Names:
    for name in around["required"]:
        if name not in instance:
            yield name, "is required and is missing"


def _unknown(around: Mapping[str, Any], instance: Mapping[str, object]) -> _Names:
    known = around["properties"]
    for name in instance:
        if name not in known:
            similar = get_close_matches(name, known, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            yield name, f"unknown key{hint}"


def _missing_beside(
    around: Mapping[str, Any], instance: Mapping[str, object]
) -> _Names:
    needed_by: dict[str, list[str]] = {}
    for given, needed in around["dependentRequired"].items():
        for name in needed:
            if given in instance and name not in instance:
                needed_by.setdefault(name, []).append(given)
    for name, givens in needed_by.items():
        yield name, f"is required with {' and '.join(givens)}"


_ABOUT_NAMES: Final[
    Mapping[str, Callable[[Mapping[str, Any], Mapping[str, object]], _Names]]
] = MappingProxyType(
    {
        "required": _missing,
        "additionalProperties": _unknown,
        "dependentRequired": _missing_beside,
    }
)
"""Keywords about an object's names, each with a function that yields the names that break it, and how."""


def _rule(keyword: str, around: Mapping[str, Any], instance: object) -> str:
    """Return the rule that a keyword, with the rest of its schema around it, sets for an instance."""
    limit = around[keyword]
    if keyword == "type":
        return _type_rule([limit] if isinstance(limit, str) else limit, instance)
    if "x-rule" in around:
        # The schema's own text, where a keyword alone would say too little.
        return str(around["x-rule"])
    if keyword == "enum":
        return f"must be one of: {', '.join(str(choice) for choice in limit if choice is not None)}"
    if keyword in ("minLength", "minItems") and limit == 1:
        return "must not be empty"
    rule = _LIMITS.get(keyword, f"must keep the contract's rule {keyword}")
    return rule.format(limit) + _quoted(instance)


def _type_rule(kinds: list[str], instance: object) -> str:
    # A reader whose value is wrong doesn't need to know that null counts as absent.
    expected = " or ".join(_JSON_TYPE_NAMES[kind] for kind in kinds if kind != "null")
    if {"integer", "number"} & set(kinds) and _quoted(instance):
        return f"must be {expected}{_quoted(instance)}"
    actual = _PYTHON_TYPE_NAMES.get(type(instance), f"a {type(instance).__name__}")
    return f"must be {expected}, not {actual}"


def _quoted(value: object) -> str:
    """Return `, not N` for a number, which is never a secret, and an empty string for anything else."""
    return f", not {value!r:.40}" if type(value) in (int, float) else ""


def _json_path(*steps: str | int) -> str:
    """Return a JSON path (RFC 9535), with the short form for every bare key of TOML too."""
    return "$" + "".join(map(_in_path, steps))


def _in_path(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    shown = step if len(step) <= _LONGEST_NAME else step[: _LONGEST_NAME - 1] + "…"
    return f".{shown}" if _BARE.fullmatch(shown) else f"[{shown!r}]"


def _place(document: object, error: "ValidationError") -> list[int]:
    """Return the position of an error in a document: for each level the index among its siblings."""
    place = []
    for step in error.absolute_path:
        siblings: Any = document
        place.append(step if isinstance(step, int) else list(siblings).index(step))
        document = siblings[step]
    return place
