"""Write the reference pages that come from the code: commands, configuration, exit codes; `make docs` runs it."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import click

from dispatchd.agent.config.keys import RESTART, File
from dispatchd.cli.main import cli
from dispatchd.cli.manual import EXITS, commands_below
from dispatchd.protocol.published.schemas import schema

FOLDER: Final = Path(__file__).parent

_MADE: Final = (
    "<!-- Made from the code by docs/reference.py; write it again with: make docs -->"
)

_CLI: Final = """
Every command takes `--help` (or `-h`), and `dispatchd --version` prints the release. The manual page [dispatchd(1)](dispatchd.1) has the same
text. Exit codes are in [a table of their own](exit-codes.md), and so are [environment variables](environment.md).
"""

_CONFIGURATION: Final = """
Two programs, two TOML files. `dispatchd config check` names every mistake of a machine's file at once; the hub does so for its own when it starts.
`dispatchd config schema` (`--hub` for hub.toml) prints the rules of this page as JSON Schema, for [an editor](operating.md#change-the-configuration). Unknown keys
are refused. Relative paths count from the file's folder, and nothing expands `~` and `$VARIABLE`.
"""

_AGENT_FILE: Final = """
The daemon's configuration: the file of `--config`, else of `DISPATCHD_CONFIG`, else `~/.config/dispatchd/config.toml`, else `/etc/dispatchd/config.toml`. Files
`config.toml.d/*.toml` beside it are read after it, in the order of their names. [config.example.toml](../config.example.toml) shows every key in its place. Keys marked
with ↻ need [a restart](operating.md#change-the-configuration); the others count from the next reload on.
"""

_HUB_FILE: Final = """
The hub's configuration: the file of `--config`, else of `DISPATCHD_HUB_CONFIG`, else `hub.toml` in the current folder, else
`/var/lib/dispatchd-hub/hub.toml`. It is read at the start of the hub. Files `hub.toml.d/*.toml` beside it are read after it, in the order of their names.
More about its tables: [the hub](hub.md#hubtoml), [GitHub](github.md#github), [login](login.md#login), [webhooks](webhooks.md), [schedules](hub.md#schedules).
"""

_EXIT_CODES: Final = """
Codes from 64 on are those of sysexits.h(3head). An error is one line on stderr that says what is wrong, where, and what to do.
"""


def cli_page() -> str:
    """Return the page of all commands."""
    root = click.Context(cli, info_name="dispatchd")
    commands = (
        line
        for command, below in commands_below(cli, root)
        for line in _command(command, below)
    )
    lines = ["# Commands", _MADE, _CLI.strip(), *commands]
    return "\n\n".join(lines) + "\n"


def configuration_page() -> str:
    """Return the page of all keys of both configuration files."""
    agent, hub = schema("config"), schema("hub-config")
    lines = [
        *("# Configuration", _MADE, _CONFIGURATION.strip()),
        *("## config.toml", _AGENT_FILE.strip(), *_tables(agent, "", _restart_keys())),
        *("## hub.toml", _HUB_FILE.strip(), *_tables(hub, "", frozenset())),
    ]
    return "\n\n".join(lines) + "\n"


def exit_codes_page() -> str:
    """Return the page of all exit codes."""
    names = {
        str(value): name for name, value in vars(os).items() if name.startswith("EX_")
    }
    rows = [
        f"| {code} | {names.get(code, '')} | {_escaped(re.sub(r' [(]EX_[A-Z]+[)]', '', text))} |"
        for code, text in EXITS
    ]
    table = "\n".join(("| code | name | meaning |", "| --- | --- | --- |", *rows))
    return f"# Exit codes\n\n{_MADE}\n\n{_EXIT_CODES.strip()}\n\n{table}\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "cli.md": cli_page,
    "configuration.md": configuration_page,
    "exit-codes.md": exit_codes_page,
}
"""Pages by their file."""


def _command(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f"## {ctx.command_path}"
    yield f"```text\n{ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}\n```"
    shown = (command.help or "").split("\f", 1)[0].replace("\b\n", "")
    for paragraph in re.split(r"\n\s*\n", shown.strip()):
        yield _escaped(" ".join(paragraph.split()))
    rows = [
        f"| {_code(record[0])} | {_escaped(' '.join(record[1].split()))} |"
        for option in command.get_params(ctx)
        if isinstance(option, click.Option) and not option.hidden
        if "--help" not in option.opts
        if (record := option.get_help_record(ctx)) is not None
    ]
    if rows:
        yield "\n".join(("| option | meaning |", "| --- | --- |", *rows))


def _tables(
    node: Mapping[str, Any], name: str, restart: frozenset[str]
) -> Iterator[str]:
    """Yield the heading and the keys of a table of TOML, then the tables in it."""
    paths = {key: f"{name}.{key}" if name else key for key in node["properties"]}
    inner: list[tuple[str, Mapping[str, Any]]] = []
    rows = []
    for key, value in node["properties"].items():
        if table := _table_in(paths[key], value):
            inner.append(table)
        else:
            is_needed, mark = key in node.get("required", ()), paths[key] in restart
            rows.append(_row(key, value, is_needed=is_needed, mark=mark))
    if name:
        yield f"### [{name}]"
        yield _escaped(node["description"])
    if rows:
        head = ("| key | value | default | meaning |", "| --- | --- | --- | --- |")
        yield "\n".join((*head, *rows))
    for path, table in inner:
        yield from _tables(table, path, restart)


def _table_in(
    path: str, value: Mapping[str, Any]
) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and the schema of the table, or of each of the tables, that a key has."""
    forms = (
        (path, value),
        (f"{path}.NAME", value.get("additionalProperties")),
        (f"[{path}]", value.get("items")),
    )
    for name, schema_of_it in forms:
        if schema_of_it and "properties" in schema_of_it:
            return name, schema_of_it
    return None


def _row(key: str, value: Mapping[str, Any], *, is_needed: bool, mark: bool) -> str:
    default = "(required)" if is_needed else ""
    if value.get("default", "") not in (None, ""):
        default = f"`{_toml(value['default'])}`"
    cells = (f"`{key}`{' ↻' if mark else ''}", _value(value), default)
    return f"| {' | '.join(cells)} | {_escaped(value['description'])} |"


def _value(value: Mapping[str, Any]) -> str:
    """Return in words what a key may have."""
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    match value["type"]:
        case "array":
            return f"list: {_value(value['items'])}"
        case "object":
            entry = value.get("additionalProperties")
            return f"table: {_value(entry)}" if entry else "table"
        case [kind, "null"]:
            return f"{kind} {_range(value)}".strip()
        case kind:
            return f"{kind} {_range(value)}".strip()


def _range(value: Mapping[str, Any]) -> str:
    least, most = value.get("minimum"), value.get("maximum")
    if least is not None and most is not None:
        return f"{least} to {most}"
    if (above := value.get("exclusiveMinimum")) is not None:
        return f"above {above}" + (f", to {most}" if most is not None else "")
    return "" if least is None else f"from {least}"


def _toml(value: object) -> str:
    return "{}" if value == {} else json.dumps(value)


def _restart_keys() -> frozenset[str]:
    tables = attrs.fields(attrs.resolve_types(File))
    return frozenset(
        f"{table.name}.{key.name}"
        for table in tables
        if table.type is not None and attrs.has(table.type)
        for key in attrs.fields(table.type)
        if key.metadata == RESTART
    )


def _code(text: str) -> str:
    """Return a text as code in a cell, where a pipe between backquotes would end the cell."""
    if "|" not in text:
        return f"`{text}`"
    return f"<code>{text.replace('|', '&#124;')}</code>"


def _escaped(text: str) -> str:
    """Return a text as Markdown that shows it; what stands between backquotes is shown as it is."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        shown = re.sub(r"([*\\])", r"\\\1", parts[number])
        parts[number] = shown.replace("<", "&lt;")
    return "`".join(parts).replace("|", r"\|")


if __name__ == "__main__":
    for file, page in PAGES.items():
        (FOLDER / file).write_text(page(), encoding="utf-8")
