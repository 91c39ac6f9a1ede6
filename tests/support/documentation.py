"""The documentation: its pages, their links and anchors, and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import click
from attrs import frozen
from markdown_it import MarkdownIt
from markdown_it.token import Token

from dispatchd.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    file.relative_to(ROOT).as_posix()
    for file in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / folder / "README.md" for folder in ("bench", "contracts", "systemd")),
    )
)
"""Pages for people, relative to the root."""

FILTERS = {"jq", "head", "sudo", "tee"}
"""Programs that read what a command prints."""

_PARSER = MarkdownIt("commonmark").enable("table")


def tokens(page: str) -> Iterator[Token]:
    """Yield every token of a page, those within lines too."""
    for block in _PARSER.parse((ROOT / page).read_text("utf-8")):
        yield block
        yield from block.children or ()


def fences(page: str) -> Iterator[Token]:
    """Yield the fenced blocks of a page."""
    return (each for each in tokens(page) if each.type == "fence")


def links(page: str) -> Iterator[str]:
    """Yield where the links and pictures of a page lead, as they are written."""
    for token in tokens(page):
        target = token.attrGet("href") or token.attrGet("src")
        if isinstance(target, str):
            yield target
        if token.type in {"html_block", "html_inline"}:
            yield from re.findall(r'(?:href|src)="([^"]+)"', token.content)


@cache
def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    blocks = _PARSER.parse((ROOT / page).read_text("utf-8"))
    for opening, inline in pairwise(blocks):
        if opening.type == "heading_open":
            text = "".join(each.content for each in inline.children or ())
            anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found[anchor] = found.get(anchor, -1) + 1
            if found[anchor]:
                found[f"{anchor}-{found[anchor]}"] = 0
    return set(found)


def command_lines(page: str) -> Iterator[str]:
    """Yield each text of a page that calls this program, without comments and what stands behind it."""
    for token in tokens(page):
        if token.type == "fence":
            joined = token.content.replace("\\\n", " ")
            for line in joined.splitlines():
                # A comment, or a column with words behind the call.
                code = re.split(r"(?:^|\s)#\s|(?<=\S)\s{3,}", line)[0]
                call = re.search(r"(?:^|[\s/(])dispatchd +(?=[a-z]|--help)(.*)", code)
                if call:
                    yield call[1]
        elif token.type == "code_inline":
            call = re.match(r"(?:dispatchd |(?=hub ))([a-z-].*)", token.content)
            if call:
                yield call[1]


@frozen
class Fault:
    """A command line that the program would refuse, and why."""

    line: str
    reason: str


def faults(line: str) -> Iterator[Fault]:
    """Yield what the program would refuse of a text that calls it; `a | b` may name siblings and alternatives."""
    for number, part in enumerate(re.split(r"&&|\|\||;", line)):
        before: tuple[click.Context, ...] = ()
        for call in part.split("|"):
            if call.split()[:1] and call.split()[0] in FILTERS:
                break
            text = re.sub(r"[<>].*|\)$|\$\(.*", "", call).strip()
            words = [word for word in shlex.split(text) if word != "..."]
            if words[:1] == ["dispatchd"]:
                words = words[1:]
            elif number and not before and words[:1] not in _first_words():
                # Another program's call.
                continue
            if words:
                before, reason = _judged(words, before)
                if reason:
                    yield Fault(line, reason)


def _first_words() -> list[list[str]]:
    return [[name] for name in cli.list_commands(click.Context(cli))]


def _judged(
    words: list[str], before: tuple[click.Context, ...]
) -> tuple[tuple[click.Context, ...], str]:
    """Return the contexts of a call, the innermost last, and why the program would refuse it.

    Args:
        words: The call; beside another one it may begin with any of that one's words.
        before: The contexts of the call to its left.
    """
    for depth in range(len(before), 0, -1):
        group = before[depth - 1].command
        if words[0].startswith("-") or (
            isinstance(group, click.Group)
            and group.get_command(before[depth - 1], words[0])
        ):
            return _read(words, before[:depth])
    if before:
        return before, f"no command {words[0]}"
    return _read(words, (click.Context(cli, info_name="dispatchd"),))


def _read(
    words: list[str], contexts: tuple[click.Context, ...]
) -> tuple[tuple[click.Context, ...], str]:
    context, rest = contexts[-1], list(words)
    while isinstance(context.command, click.Group) and rest:
        if rest[0].startswith("-"):
            break
        name = rest.pop(0)
        command = context.command.get_command(context, name)
        if command is None:
            return contexts, f"no command {name}"
        context = click.Context(command, info_name=name, parent=context)
        contexts = (*contexts, context)
    try:
        _, left, _ = context.command.make_parser(context).parse_args(rest)
    except click.UsageError as error:
        return contexts, error.format_message()
    return contexts, f"too many arguments: {left}" if left else ""
