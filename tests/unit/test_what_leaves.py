"""docs/what-leaves.md names each call that a machine may make, each field of it, and no other; and what traces have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "what-leaves.md").read_text()
CONTRACTS = ROOT / "contracts"
CALLS: dict[str, Any] = {
    f"{method.upper()} {path}": call
    for path, calls in json.loads((CONTRACTS / "openapi.json").read_text())[
        "paths"
    ].items()
    for method, call in calls.items()
    if method in {"get", "put", "post", "delete", "patch"}
}


def sections() -> dict[str, str]:
    """Return the part of the page about each call."""
    parts = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)
    return {
        found[1]: part for part in parts if (found := re.match(r"`([A-Z]+ .*)`", part))
    }


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def named(text: str) -> list[str]:
    """Return the names in the first column of a table."""
    return [name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])]


def fields(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield each field of a body, those of objects in it behind a dot."""
    for name, value in schema.get("properties", {}).items():
        yield f"{above}{name}"
        yield from fields(value, f"{above}{name}.")
        yield from fields(value.get("items", {}), f"{above}{name}.")


def test_each_call_of_the_contract_has_a_part() -> None:
    assert sections().keys() == CALLS.keys()
    assert len(CALLS) > 10


@pytest.mark.parametrize("call", CALLS)
def test_each_field_of_a_call_is_named_and_no_other(call: str) -> None:
    content = CALLS[call]["requestBody"]["content"]["application/json"]
    schema = json.loads((CONTRACTS / content["schema"]["$ref"]).read_text())

    assert sorted(named(sections()[call])) == sorted(fields(schema))
    for row in rows(sections()[call]):
        assert len(row) == 3, row
        assert all(cell.strip() for cell in row), row


def test_each_attribute_of_traces_is_named_and_no_other() -> None:
    code = [
        (ROOT / "daemon" / "dispatchd" / "agent" / name).read_text()
        for name in ("domain/trace.py", "health/tracing.py")
    ]
    sent = set(re.findall(r'"((?:dispatchd|service)\.[a-z.]+)"', "\n".join(code)))

    table = PAGE.partition("\n## Traces\n")[2].partition("\n## ")[0]
    assert set(named(table)) == sent
    assert len(sent) > 8
