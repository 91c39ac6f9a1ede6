"""The shape of the code: imports go one way, and pictures come from the tables."""

import ast
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from dispatchd.agent.domain import phase
from dispatchd.hub.domain import transitions

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


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


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{each.name}" for each in PAGES)]
)
def test_the_modules_that_a_page_names_exist(page: str) -> None:
    files = {
        f"/{each.relative_to(ROOT).as_posix()}"
        for folder in ("daemon", "tests", "bench", "docs", "examples", "packaging")
        for each in (ROOT / folder).rglob("*.py")
    }
    named = re.findall(r"`([\w./]+\.py)`", (ROOT / page).read_text())

    gone = [
        name for name in named if not any(file.endswith(f"/{name}") for file in files)
    ]
    assert gone == []


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


HELD = ("client", "hub", "protocol", "network", "process", "concurrency", "redaction")
"""Packages whose constructors and attributes are held; `agent` and `cli` are still to come."""

OF_LIBRARIES = {
    # ssl: a context is made first and set up then.
    *("check_hostname", "context", "minimum_version", "sni_callback"),
    *("verify_flags", "verify_mode"),
    # Starlette and uvicorn: no constructor takes these.
    *("redirect_slashes", "should_exit", "ssl"),
    # threading.Timer.
    "daemon",
}
"""Attributes of libraries' objects, which they want to be set from outside."""


def _held() -> Iterator[tuple[str, ast.AST]]:
    package = ROOT / "daemon" / "dispatchd"
    for path in (each for name in HELD for each in (package / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            yield str(path.relative_to(package)), node


def _decoration(of: ast.ClassDef) -> str:
    return " ".join(ast.unparse(each) for each in of.decorator_list)


def _is_record(of: ast.ClassDef) -> bool:
    """Return whether a class is a record: frozen, made by keywords, and nothing in it waits."""
    waits = any(isinstance(each, ast.AsyncFunctionDef) for each in of.body)
    return _decoration(of) == "frozen(kw_only=True)" and not waits


def _taken(of: ast.ClassDef) -> int:
    """Return how many arguments a class takes."""
    for each in of.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            of_init = each.args
            return len([*of_init.args, *of_init.kwonlyargs]) - 1
    if not _decoration(of).startswith(("define", "frozen")):
        return 0
    fields = [each for each in of.body if isinstance(each, ast.AnnAssign)]
    return sum(
        "init=False" not in ast.unparse(each) and "ClassVar" not in ast.unparse(each)
        for each in fields
    )


def test_no_constructor_takes_too_much() -> None:
    greedy = {
        f"{path}:{node.name}": taken
        for path, node in _held()
        if isinstance(node, ast.ClassDef)
        and not _is_record(node)
        and (taken := _taken(node)) > 7
    }

    assert greedy == {}


def test_no_attribute_is_set_from_outside() -> None:
    written = {
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path, node in _held()
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
        and node.attr not in OF_LIBRARIES
    }

    assert written == set()
