"""The loops of both programs as their code has them, and a fence that breaks a round of each."""

import ast
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field
from typing_extensions import override

from dispatchd.concurrency.bug_fence import BugFence, Containment

ROOT = Path(__file__).parents[2] / "daemon" / "dispatchd"
FENCE = ROOT / "concurrency" / "bug_fence.py"

_FENCED = {"rounds", "named"}
"""The methods of the fence that run a loop."""


class Injected(Exception):
    """What no code expects."""


@define
class FaultyFence(BugFence):
    """Breaks the first round of every loop, and the first time that something is done for an item."""

    broken: set[tuple[str, bool]] = field(factory=set, init=False)
    """The loops that have had their fault: name, and whether it was done for an item."""
    worked_after: set[str] = field(factory=set, init=False)
    """The loops of which a later round has begun."""

    _repeated: set[str] = field(factory=set, init=False)

    @override
    async def complete(
        self,
        loop: str,
        act: Callable[[], Awaitable[None]],
        *,
        item: str = "",
        on_pause: Callable[[float], None] | None = None,
        longest_s: float = 60.0,
    ) -> None:
        self._repeated.add(loop)

        async def broken_once() -> None:
            self._break(loop, for_item=bool(item))
            await act()

        await super().complete(
            loop, broken_once, item=item, on_pause=on_pause, longest_s=longest_s
        )

    @override
    @contextmanager
    def named(self, loop: str, item: str = "") -> Iterator[Containment]:
        with super().named(loop, item) as containment:
            yield containment
            # Others are broken where they begin.
            if loop not in self._repeated:
                self._break(loop, for_item=bool(item))

    def _break(self, loop: str, *, for_item: bool) -> None:
        if (loop, for_item) in self.broken:
            self.worked_after.add(loop)
            return
        self.broken.add((loop, for_item))
        message = f"injected into {loop}"
        raise Injected(message)


def loops_of(*folders: str, without: tuple[str, ...] = ()) -> set[str]:
    """Return the names of all loops that run in a fence, by the code of some folders below the package."""
    names: set[str] = set()
    for file in _files(folders, without):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign)
            and isinstance(node.value, ast.Constant)
            for target in (
                node.targets if isinstance(node, ast.Assign) else [node.target]
            )
            if isinstance(target, ast.Name)
        }
        servers = {
            keyword.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "server" and isinstance(keyword.value, ast.Constant)
        }
        names |= {str(server) for server in servers}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and node.args and _is_fenced(node.func)):
                continue
            match node.args[0]:
                case ast.Constant(value=str() as name):
                    names.add(name)
                case ast.Name(id=name):
                    names.add(str(constants[name]))
                case ast.Attribute(attr="server"):
                    pass
                case other:
                    message = f"{file}:{node.lineno}: name the loop by a constant, not by {ast.unparse(other)}"
                    raise AssertionError(message)
    return names


def endless_loops() -> dict[str, list[int]]:
    """Return each function with a loop that nothing in its head ends, with the lines of these loops."""
    lines_by_function: dict[str, list[int]] = {}
    for file in _files(("",), ("cli",)):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            lines = [
                node.lineno
                for node in _own(function)
                if isinstance(node, ast.stmt) and _is_endless(node)
            ]
            if lines:
                name = f"{file.relative_to(ROOT)}:{function.name}"
                lines_by_function[name] = lines_by_function.get(name, []) + lines
    return lines_by_function


def catchers() -> list[str]:
    """Return each place that catches every exception."""
    return [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in _files(("",), ())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or "Exception" in {ast.unparse(each) for each in ast.walk(node.type)}
        )
    ]


def _files(folders: tuple[str, ...], without: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not any(file.is_relative_to(ROOT / excluded) for excluded in without):
                yield file


def _is_fenced(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and called.attr in _FENCED
        and ast.unparse(called.value).endswith("bugs")
    )


def _own(function: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield what is in a function, without the functions in it."""
    pending: list[ast.AST] = [*function.body]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def _is_endless(node: ast.AST) -> bool:
    if isinstance(node, ast.AsyncFor):
        return True
    return isinstance(node, ast.While) and not isinstance(node.test, ast.Compare)
