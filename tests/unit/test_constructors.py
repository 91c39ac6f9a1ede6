"""Objects are built once, from few parts: the shape of the agent's constructors and of those that it shares."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "daemon" / "dispatchd"

FOLDERS: Final = (
    *("agent", "protocol", "network", "process"),
    *("concurrency", "redaction", "cli", "client"),
)

MOST: Final = 7
"""Most arguments of a constructor (count)."""

RECORDS: Final = (
    *("agent/domain/", "agent/config/", "protocol/"),
    *("client/records.py", "client/steps.py"),
)
"""Folders of records: what a job, a file or a message consists of has as many parts as there are."""

SETTINGS: Final = {"GitWay", "TransportSettings"}
"""Records of settings elsewhere."""

FOREIGN: Final = {
    # Objects of libraries.
    *("request.extensions", "response.stream", "entry.mode", "entry.size"),
    *("error.request", "response.request"),
}
"""Attributes of others' objects that have the name of one of ours."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def is_attrs(kind: ast.ClassDef) -> bool:
    return any(
        ast.unparse(each).startswith(("define", "frozen"))
        for each in kind.decorator_list
    )


def is_argument(line: ast.AnnAssign) -> bool:
    """Return whether a field of an attrs class is an argument of its constructor."""
    return not (
        isinstance(line.value, ast.Call)
        and any(
            each.arg == "init" and ast.unparse(each.value) == "False"
            for each in line.value.keywords
        )
    )


def arguments(kind: ast.ClassDef) -> int:
    """Return the arguments of a class's constructor, itself left out (count)."""
    for each in kind.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return len(each.args.args) - 1 + len(each.args.kwonlyargs)
    fields = [line for line in kind.body if isinstance(line, ast.AnnAssign)]
    return sum(map(is_argument, fields)) if is_attrs(kind) else 0


def fields(kind: ast.ClassDef) -> set[str]:
    """Return the names of the attributes that a class declares or sets itself."""
    declared = {
        line.target.id
        for line in kind.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    return declared | {
        each.attr for each in assigned(kind) if ast.unparse(each.value) == "self"
    }


def assigned(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Yield the attributes that are set somewhere in a tree."""
    for each in ast.walk(tree):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
            yield each


def test_a_constructor_takes_few_parts() -> None:
    many = {
        f"{name}:{kind.name}": count
        for name, tree in modules()
        if not name.startswith(RECORDS)
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef) and kind.name not in SETTINGS
        if (count := arguments(kind)) > MOST
    }

    assert many == {}


def test_nothing_is_set_from_outside_after_construction() -> None:
    """A module may set the attributes of its own classes; those of others are set by their methods."""
    own = {
        name: {
            field
            for kind in ast.walk(tree)
            if isinstance(kind, ast.ClassDef)
            for field in fields(kind)
        }
        for name, tree in modules()
    }
    ours = set().union(*own.values())
    set_from_outside = [
        f"{name}:{each.lineno} {ast.unparse(each)}"
        for name, tree in modules()
        for each in assigned(tree)
        if ast.unparse(each.value) not in {"self", "cls"}
        if each.attr in ours - own[name] and ast.unparse(each) not in FOREIGN
    ]

    assert set_from_outside == []
