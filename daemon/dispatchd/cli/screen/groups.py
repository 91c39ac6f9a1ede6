"""Groups of commands: help in sections, one line for each command, and the name that a mistyped one may stand for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from typing_extensions import override

from dispatchd.cli.screen.names import hint

Sections = Mapping[str, Sequence[str]]
"""Titles, and the commands under each."""


class SectionedGroup(click.Group):
    """A group whose `--help` lists the commands in sections."""

    def __init__(self, *args: Any, sections: Sections, **options: Any) -> None:  # noqa: ANN401  # as click has it
        super().__init__(*args, **options)
        self._sections = sections

    def names(self) -> Iterable[str]:
        """Return the names of all commands."""
        return self.commands

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        named = [name for names in self._sections.values() for name in names]
        return [*named, *(name for name in self.names() if name not in named)]

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        # A name that begins with a dash is an unknown option.
        is_unknown = name not in known and not name.startswith("-")
        if is_unknown and not ctx.resilient_parsing:
            ctx.fail(f"no command {name!r}{hint(name, known)}")
        return super().resolve_command(ctx, args)

    @override
    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        named = {name for names in self._sections.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in named]
        for title, names in {**self._sections, "Others": others}.items():
            lines = [(name, self.short_help_of(ctx, name)) for name in names]
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)

    def short_help_of(self, ctx: click.Context, name: str) -> str:
        """Return the line of a command in the help of its group."""
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(limit=68)
