"""A brand's names: what becomes of a text, which names can't be, and that nothing of the program is forgotten."""

import re
import subprocess
import sys
from pathlib import Path

import attrs
import click
import pytest

from dispatchd.brand import COMMANDS, DISPATCHD, Brand
from dispatchd.cli.main import cli
from dispatchd.cli.manual import page
from dispatchd.errors import UsageError

ROOT = Path(__file__).parents[2]
ACME = Brand(name="acme-agent", environment_prefix="ACME")


def test_a_name_alone_is_a_brand() -> None:
    brand = Brand(name="acme-agent")

    assert brand.environment_prefix == "ACME_AGENT"
    assert re.fullmatch(r"acme-agent/\d.*", brand.user_agent)


@pytest.mark.parametrize(
    "names",
    [
        *({"name": name} for name in ("", "Acme", "a_b", "-a", "a-", "7", "a b", "ä")),
        {"name": "a" * 25},
        *(
            {"name": "a", "environment_prefix": prefix}
            for prefix in ("", "acme", "ACME_", "7A", "A-B")
        ),
        *({"name": "a", "user_agent": text} for text in ("", " a", "a\r\nb: c", "ä")),
    ],
)
def test_a_name_that_cannot_be_is_said(names: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="cannot use the "):
        Brand(**names)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run `dispatchd activate` again", "run `acme-agent activate` again"),
        ("dispatchd bug-report", "acme-agent bug-report"),
        ("dispatchd@one.service", "acme-agent@one.service"),
        ("dispatchd-hub.service", "acme-agent-hub.service"),
        ("set DISPATCHD_LICENSE_KEY", "set ACME_LICENSE_KEY"),
        # What belongs to others, or to the contract.
        ("Fix dispatchd crash", "Fix dispatchd crash"),
        ("dispatchd runs", "dispatchd runs"),
        ("/srv/dispatchd/config.toml", "/srv/dispatchd/config.toml"),
        ("acme/dispatchd run", "acme/dispatchd run"),
        ("DISPATCHD_JOB_ID", "DISPATCHD_JOB_ID"),
        ("MY_DISPATCHD_CONFIG", "MY_DISPATCHD_CONFIG"),
        ("dispatchd_ready", "dispatchd_ready"),
    ],
)
def test_messages_name_the_program_and_leave_others_alone(
    text: str, shown: str
) -> None:
    assert ACME.message(text) == shown
    assert DISPATCHD.message(text) == text


def test_every_command_is_told_from_other_words() -> None:
    assert set(COMMANDS) == set(cli.list_commands(click.Context(cli)))


VARIABLES = set(re.findall(r"DISPATCHD_[A-Z_]+", page(cli, "0")))
"""The variables that the program reads, as the manual has them."""


def test_every_variable_of_the_program_has_the_prefix() -> None:
    assert len(VARIABLES) == 7
    assert "DISPATCHD" not in ACME.message(" ".join(VARIABLES))


def test_the_page_for_vendors_has_each_field_and_each_variable() -> None:
    text = (ROOT / "docs" / "vendor.md").read_text()
    table = text.partition("| field of `Brand` |")[2].partition("\n\n")[0]

    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [
        each.name for each in attrs.fields(Brand)
    ]
    assert set(re.findall(r"ACME_\w+", table)) == set(map(ACME.message, VARIABLES))


def test_to_import_the_agent_is_cheap() -> None:
    code = (
        "import sys, dispatchd.agent, dispatchd.brand\n"
        "assert not {'anyio', 'asyncio', 'httpx', 'structlog'} & sys.modules.keys()\n"
        "try: dispatchd.agent.Nobody\n"
        "except AttributeError: pass\n"
        "else: sys.exit('it has any name')\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
