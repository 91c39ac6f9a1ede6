"""The reference is that of the code: commands, configuration, exit codes, environment variables, metrics of the hub."""

import ast
import os
import re
import runpy
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dispatchd.brand import DISPATCHD
from dispatchd.cli.completion import VARIABLE
from dispatchd.cli.hub.run import _EXIT_CODES
from dispatchd.cli.manual import ENVIRONMENT, EXITS
from dispatchd.errors import UserError
from dispatchd.protocol.finding import Level
from dispatchd.protocol.published.schemas import schema

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = runpy.run_path(str(DOCS / "reference.py"))["PAGES"]
VARIABLES = (DOCS / "environment.md").read_text("utf-8")
SOURCES = sorted((ROOT / "daemon" / "dispatchd").rglob("*.py"))


@pytest.mark.parametrize("name", MADE)
def test_the_committed_page_is_that_of_the_code(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == MADE[name](), "run: make docs"


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Return every part of the code."""
    trees = ((path, ast.parse(path.read_text("utf-8"))) for path in SOURCES)
    return [(path, node) for path, tree in trees for node in ast.walk(tree)]


def exits() -> Iterator[int]:
    """Yield each code with which the command line may end."""
    for path, node in nodes():
        if isinstance(node, ast.Attribute) and node.attr.startswith("EX_"):
            yield getattr(os, node.attr)
        is_exit = isinstance(node, ast.Call) and ast.unparse(node.func) in {
            *("sys.exit", "ctx.exit"),
        }
        if is_exit and "cli" in path.parts:
            for each in ast.walk(node):
                if isinstance(each, ast.Constant) and isinstance(each.value, int):
                    yield each.value


def test_every_exit_code_is_in_the_table_and_no_other() -> None:
    # 128 + a signal's number; conformance has 2 where the trial ended early.
    known = {*exits(), *_EXIT_CODES.values(), *(int(level) for level in Level)}
    by_signal = {128 + number for number in (2, 15)}

    table = {int(code) for code, _ in EXITS}

    assert known - {128} | by_signal == table


def test_every_error_for_people_has_a_code_of_its_own() -> None:
    def below(kind: type[UserError]) -> Iterator[type[UserError]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    assert [each for each in below(UserError) if each.exit_code == os.EX_SOFTWARE] == []


NAME = re.compile(r"_?[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
"""Form of a variable's name of two words and more; one of a single word counts only where it is looked up."""

NO_VARIABLES = re.compile(
    r"(TLSV1|TLSV13|SSLV3)_\w+|HTTP_REQUEST|\w+_(MISMATCH|VERSION_NUMBER|PROTOCOL|TOO_LONG|AVAILABLE)"
    r"|(BOOT|NODE|RECONFIG|LAUNCH)_(FAIL|FAILED)|OUT_OF_MEMORY|REQUEUE_HOLD|FETCH_HEAD|CHECK_\w+"
)
"""Constants of that form: OpenSSL's reasons, Slurm's states, a ref of git, variables of the trial of an engine."""

BY_LIBRARIES = {
    *("XDG_STATE_HOME", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "OTEL_*"),
    *(
        "FORWARDED_ALLOW_IPS",
        "PGPASSFILE",
        "PEX_ROOT",
        "GIT_CONFIG_*",
        "DISPATCHD_GIVEN_*",
        "DISPATCHD_CLEAN",
    ),
}
"""Variables that a library reads, or whose names are made: by platformdirs, OpenTelemetry, uvicorn, libpq, pex, and for git."""


def looked_up(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """Return of what, and by which name, code looks something up."""
    match node:
        case ast.Call(func=ast.Attribute(value=of, attr="get"), args=[name, *_]):
            return of, name
        case ast.Subscript(value=of, slice=name):
            return of, name
        case ast.Compare(left=name, ops=[ast.In()], comparators=[of]):
            return of, name
        case _:
            return None


OF_BRAND = re.compile(r"(HUB|LICENSE)_(CONFIG|URL|TOKEN|KEY|FILE)")
"""Names without the prefix of the brand, DISPATCHD here."""


def of_brand() -> Iterator[str]:
    """Yield each variable in the code whose prefix is that of the brand."""
    for _, node in nodes():
        match node:
            case ast.Call(args=[ast.Constant(value=str(text))]):
                if ast.unparse(node.func).endswith("variable"):
                    yield DISPATCHD.variable(text)
            case ast.Constant(value=str(text)) if OF_BRAND.fullmatch(text):
                yield DISPATCHD.variable(text)
            case _:
                pass


def variables() -> Iterator[str]:
    """Yield each environment variable in the code."""
    yield from of_brand()
    for path, node in nodes():
        if path.name == "manual.py":
            continue
        match node, looked_up(node):
            case _, (of, ast.Constant(value=str(text))):
                if text.isupper() and "environ" in ast.unparse(of):
                    yield text
            case ast.Constant(value=str(text)), _:
                is_other = NO_VARIABLES.fullmatch(text) or OF_BRAND.fullmatch(text)
                if NAME.fullmatch(text) and not is_other:
                    yield text
            case _:
                pass


def documented() -> set[str]:
    return {*re.findall(r"`(_?[A-Z][A-Z0-9_]+\*?)`", VARIABLES)}


def test_every_variable_of_the_code_is_in_the_reference() -> None:
    found = {*variables()}

    assert {"PATH", "NOTIFY_SOCKET", "DISPATCHD_JOB_ID", "GITHUB_SHA"} <= found
    unknown = found - documented()
    assert {name for name in unknown if not name.startswith("GIT_CONFIG_")} == set()


def test_every_variable_of_the_reference_is_in_the_code() -> None:
    constants = {
        node.value
        for path, node in nodes()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if path.name != "manual.py"
    }

    unknown = documented() - constants - BY_LIBRARIES - {*variables(), VARIABLE}
    # The page says of this one that nothing sets it.
    assert unknown == {"GITHUB_ACTIONS"}


def test_the_manual_page_has_no_variable_that_the_reference_lacks() -> None:
    names = {name for names, _ in ENVIRONMENT for name in names.split(", ")}

    assert names - documented() == set()


def metrics_of_hub() -> Iterator[str]:
    for _, node in nodes():
        match node:
            case ast.Call(func=kind, args=[ast.Constant(value=str(name)), *_]):
                if name.startswith("dispatchd_hub_"):
                    is_counter = "Counter" in ast.unparse(kind)
                    yield f"{name}_total" if is_counter else name
            case _:
                pass


def test_every_metric_of_the_hub_is_documented_and_no_other() -> None:
    page = (DOCS / "hub.md").read_text("utf-8")
    rows = {*re.findall(r"^\| `(dispatchd_hub_\w+)", page, re.MULTILINE)}

    assert {*metrics_of_hub()} == rows


def keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in table["properties"].items():
        if "properties" in each:
            yield from keys(each, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", each.get("default")


def test_every_key_of_the_hub_is_in_its_table_with_its_default() -> None:
    page = (DOCS / "hub.md").read_text("utf-8").partition("\n## hub.toml\n")[2]
    section = page.partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]*) \|", section, re.MULTILINE))
    elsewhere = ("github.", "login.", "schedules", "webhooks")
    known = {
        name: default
        for name, default in keys(schema("hub-config"))
        if not name.startswith(elsewhere)
    }

    assert rows.keys() == known.keys()
    for name, default in known.items():
        if default != "":
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert rows[name].strip("`") == shown, name
