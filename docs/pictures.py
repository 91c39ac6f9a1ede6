"""Draw the programs from their imports, as Mermaid, into docs/architecture.md; `make docs` runs it."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grimp

PAGE: Final = Path(__file__).parent / "architecture.md"
PROGRAMS: Final = ("dispatchd", "dispatchd.agent", "dispatchd.hub")

_PICTURE: Final = r"(<!-- picture of {program} -->\n```mermaid\n).*?(```\n)"


def drawn(page: str) -> str:
    """Return a page with its pictures drawn again."""
    graph = grimp.build_graph("dispatchd")
    for program in PROGRAMS:
        picture = "".join(f"{line}\n" for line in _mermaid(graph, program))
        place = re.compile(_PICTURE.format(program=re.escape(program)), re.DOTALL)
        page = place.sub(lambda found, new=picture: found[1] + new + found[2], page)  # type: ignore[misc]  # bound now
    return page


def _mermaid(graph: grimp.ImportGraph, program: str) -> Iterable[str]:
    arrows = _reduced(_arrows(graph, program))
    yield "graph TD"
    for room in sorted({each for arrow in arrows for each in arrow}):
        is_folder = bool(graph.find_children(f"{program}.{room}"))
        yield f"  {room}[{room}/]" if is_folder else f"  {room}[{room}.py]"
    for above, below in sorted(arrows):
        yield f"  {above} --> {below}"


def _arrows(graph: grimp.ImportGraph, program: str) -> set[tuple[str, str]]:
    """Return which room of a program imports which other one."""
    arrows = set()
    for module in graph.find_descendants(program):
        for imported in graph.find_modules_directly_imported_by(module):
            if imported.startswith(f"{program}."):
                above, below = (_room(each, program) for each in (module, imported))
                if above not in {below, "__main__"}:
                    arrows.add((above, below))
    return arrows


def _room(module: str, program: str) -> str:
    return module.removeprefix(f"{program}.").partition(".")[0]


def _reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return arrows without those that a way over other rooms stands for; there are no cycles."""
    below: dict[str, set[str]] = {}
    for start, end in arrows:
        below.setdefault(start, set()).add(end)

    def reached(room: str) -> set[str]:
        direct = below.get(room, set())
        return direct.union(*map(reached, direct))

    return {
        (start, end)
        for start, end in arrows
        if not any(end in reached(other) for other in below[start] - {end})
    }


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
