"""The JSON Schemas of `contracts/schemas`.

In an installed package the contracts are in `dispatchd/_contracts`. In a source tree, which an editable install
uses, they are in `contracts/`.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

SUFFIX: Final = ".schema.json"
"""End of the name of a schema's file, after the contract's name."""


@cache
def schema(contract: str) -> Mapping[str, Any]:
    """Return a contract's JSON Schema (2020-12). The caller must not change it."""
    text = (_schemas() / (contract + SUFFIX)).read_text(encoding="utf-8")
    document: Mapping[str, Any] = json.loads(text)
    return document


def names() -> list[str]:
    """Return the names of all contracts, sorted."""
    return sorted(
        entry.name.removesuffix(SUFFIX)
        for entry in _schemas().iterdir()
        if entry.name.endswith(SUFFIX)
    )


@cache
def contracts_folder() -> Traversable:
    """Return the folder of the contracts."""
    packaged = files("dispatchd") / "_contracts"
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[4] / "contracts"


def _schemas() -> Traversable:
    return contracts_folder() / "schemas"
