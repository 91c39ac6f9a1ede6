"""Descriptions of the APIs, each as one OpenAPI document that refers to no other file."""

import json
from enum import StrEnum
from functools import cache
from typing import Any, Final

from dispatchd.protocol.published.schemas import SUFFIX, contracts_folder, schema

_BESIDE: Final = "./schemas/"
"""Begin of a reference to the file of a schema."""

_OF_A_FILE: Final = ("$schema", "$id")
"""Keywords that a schema has as a file of its own, and not as a part of a description."""


class Api(StrEnum):
    """An API, by the file that describes it in `contracts/`."""

    ENDPOINT = "openapi.json"
    """Calls of machines to a dispatch endpoint."""
    HUB = "hub.openapi.json"
    """Calls of people and programs to the hub."""
    CONTROL = "control.openapi.json"
    """Calls of people and tools to a daemon, on its socket."""


@cache
def bundled(api: Api) -> str:
    """Return the description of an API (OpenAPI 3.1, JSON), with the schemas that it refers to among its components.

    It takes some milliseconds, once.

    Raises:
        OSError: A file can't be read.
    """
    description = json.loads((contracts_folder() / api).read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    description = _inlined(description, found)
    description["components"]["schemas"] |= found
    return json.dumps(description, separators=(",", ":"))


def _inlined(node: Any, found: dict[str, Any]) -> Any:  # noqa: ANN401  # a part of a JSON document
    """Return a part of a description whose references stay within it, and note the schemas that they lead to."""
    if isinstance(node, list):
        return [_inlined(each, found) for each in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref", "")
    if not reference.startswith(_BESIDE):
        return {key: _inlined(each, found) for key, each in node.items()}
    name = reference.removeprefix(_BESIDE).removesuffix(SUFFIX)
    found[name] = {
        key: each for key, each in schema(name).items() if key not in _OF_A_FILE
    }
    return {**node, "$ref": f"#/components/schemas/{name}"}
