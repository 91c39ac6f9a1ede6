"""docs/login.md is complete: every key of `[login]` with its default, and configurations that can be read."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dispatchd.protocol.contracts import violations
from dispatchd.protocol.published.schemas import schema

PAGE = (Path(__file__).parents[2] / "docs" / "login.md").read_text("utf-8")


def keys(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, each in table["properties"].items():
        if "properties" in each:
            yield from keys(each, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", each.get("default")


def test_every_key_is_in_the_table_with_its_default() -> None:
    found = re.findall(r"^\| `(login\.[a-z_.]+)` \|([^|]*)\|", PAGE, re.MULTILINE)
    rows = {name: default.strip() for name, default in found}
    known = dict(keys(schema("hub-config")["properties"]["login"], "login"))

    assert rows.keys() == known.keys()
    for name, default in known.items():
        if default is None or name == "login.public_url":
            continue
        written = rows[name].replace("`", "")
        shown = ", ".join(default) or "[]" if isinstance(default, list) else default
        assert written == (str(shown).lower() if shown is True else str(shown)), name


def test_every_configuration_on_the_page_can_be_read() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)

    assert len(blocks) == 2
    for block in blocks:
        assert violations("hub-config", tomllib.loads(block)) == []
