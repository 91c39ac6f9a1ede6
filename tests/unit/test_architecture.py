"""The shape of the code: imports go one way, and pictures come from the tables."""

import ast
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from dispatchd.agent.domain import phase
from dispatchd.hub.domain import transitions

ROOT = Path(__file__).parents[2]


def test_imports_go_one_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)

    code = lint_imports(no_cache=True)

    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "picture"),
    [("phases", phase.diagram), ("hub-states", transitions.diagram)],
)
def test_the_committed_pictures_are_those_of_the_tables(
    name: str, picture: Callable[[], str]
) -> None:
    assert (ROOT / "docs" / f"{name}.mmd").read_text() == picture(), "run: make docs"


def test_the_committed_architecture_is_that_of_the_imports() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "pictures.py"))["drawn"]
    page = (ROOT / "docs" / "architecture.md").read_text()

    assert drawn(page) == page, "run: make docs"


def test_every_error_is_in_one_tree() -> None:
    bases = {
        f"{path.relative_to(ROOT)}:{each.name}": (
            each.name,
            {ast.unparse(base).rpartition(".")[2] for base in each.bases},
        )
        for path in (ROOT / "daemon").rglob("*.py")
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.ClassDef)
    }
    tree = {"DispatchdError"}
    while grown := {name for name, of in bases.values() if of & tree} - tree:
        tree |= grown
    elsewhere = {
        place
        for place, (name, of) in bases.items()
        if name != "DispatchdError"
        and not of & tree
        and any(base.endswith(("Error", "Exception", "Warning")) for base in of)
    }

    assert elsewhere == set()
    assert len(tree) > 50


def test_no_folder_holds_too_much_and_each_says_what_it_is() -> None:
    crowded, silent = {}, []
    for init in (ROOT / "daemon" / "dispatchd").rglob("__init__.py"):
        folder = str(init.parent.relative_to(ROOT))
        modules = [*init.parent.glob("*.py")]
        if len(modules) - 1 > 15:
            crowded[folder] = len(modules) - 1
        if not ast.get_docstring(ast.parse(init.read_text())):
            silent.append(folder)

    assert (crowded, silent) == ({}, [])


def test_no_module_hides_too_much() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "daemon").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }

    assert long == {}


def test_no_function_is_too_long() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{each.name}": lines
        for path in (ROOT / "daemon").rglob("*.py")
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (each.end_lineno or 0) - each.lineno + 1) > 60
    }

    assert long == {}
