"""docs/github.md is complete: every key of the configuration with its default, every default action, every cause."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dispatchd.hub.domain.model import State
from dispatchd.hub.github.checks.conclusions import INFRASTRUCTURE, TIMED_OUT
from dispatchd.hub.github.routing.matching import _USUAL_ACTIONS
from dispatchd.hub.init import init
from dispatchd.protocol.contracts import violations
from dispatchd.protocol.published.schemas import schema

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "github.md").read_text()
CONTRACT = (ROOT / "contracts" / "README.md").read_text().partition("\n## GitHub\n")[2]
TABLE: dict[str, Any] = schema("hub-config")["properties"]["github"]["properties"]
RULE: dict[str, Any] = TABLE["rules"]["items"]["properties"]


def rows(title: str) -> dict[str, list[str]]:
    """Return the rows of the tables of a section by what stands in their first cell, in backquotes."""
    section = re.split(
        r"^## ", PAGE.partition(f"\n## {title}\n")[2], flags=re.MULTILINE
    )[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {each[0].strip("`| "): each[1:] for each in cells}


@pytest.mark.parametrize(
    ("title", "properties"), [("[github]", TABLE), ("Rules", RULE)]
)
def test_every_key_is_in_its_table_and_no_other(
    title: str, properties: dict[str, Any]
) -> None:
    events = _USUAL_ACTIONS.keys()

    assert rows(title).keys() - events == properties.keys()


@pytest.mark.parametrize("key", [key for key in TABLE if TABLE[key].get("default")])
def test_a_default_is_that_of_the_schema(key: str) -> None:
    default, written = TABLE[key]["default"], rows("[github]")[key][0].strip("`")

    assert written == str(default)


def test_the_actions_by_default_are_those_of_the_code() -> None:
    table = rows("Rules")

    for event, actions in _USUAL_ACTIONS.items():
        assert table[event][0].startswith(", ".join(actions)), event


def test_every_state_and_cause_has_its_conclusion() -> None:
    for name in (*State, *TIMED_OUT, *INFRASTRUCTURE):
        assert f"`{name}`" in CONTRACT or name in {
            State.RECEIVED,
            State.FAILED,
        }, name
    checks = PAGE.partition("\n## What a check shows\n")[2]
    for name in (*State, *TIMED_OUT, *INFRASTRUCTURE):
        assert name in checks or name == State.IGNORED, name


def test_every_command_on_the_page_exists() -> None:
    named = set(
        re.findall(
            r"dispatchd hub ([a-z]+(?: (?:setup|check|status|redeliver|add))?)", PAGE
        )
    )
    known = (ROOT / "docs" / "dispatchd.1").read_text()

    # What is made elsewhere is looked for by those who make it.
    assert {"route", "github setup", "github check", "deliveries"} <= named
    for words in named - {"github"}:
        assert re.search(rf'\.SS "dispatchd hub {words}\b', known), words


def test_every_configuration_on_the_page_can_be_read() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)

    assert len(blocks) == 2
    for block in blocks:
        assert violations("hub-config", tomllib.loads(block)) == []
    # The second is the drop-in that `setup` writes.
    merged = tomllib.loads(
        blocks[0].replace("[github]\n", blocks[1].rstrip("\n") + "\n")
    )
    assert merged["github"].keys() == {
        *("app_id", "private_key_file", "public_url", "rules"),
        "webhook_secret_files",
    }


def test_what_init_shows_of_github_can_be_read(tmp_path: Path) -> None:
    options = {"listen": "127.0.0.1:0", "database_url": "sqlite:///hub.db"}
    init(tmp_path, license_id="x", **options)
    text = (tmp_path / "hub.toml").read_text()

    shown = text.partition("`dispatchd hub github setup`.\n")[2]
    document = tomllib.loads(re.sub(r"^# ", "", shown, flags=re.MULTILINE))

    assert violations("hub-config", document) == []
    assert document["github"]["rules"][0]["workflow"] == "ci"
