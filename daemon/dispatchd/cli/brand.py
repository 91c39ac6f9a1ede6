"""The brand of this process: the names under which a vendor ships the program. Set once, before any command is loaded."""

import sys

import click

from dispatchd.brand import DISPATCHD, Brand

_brand = DISPATCHD
_renamed: set[click.Command] = set()


def use(brand: Brand) -> None:
    """Run under a brand from now on."""
    global _brand  # noqa: PLW0603  # a process has one name
    _brand = brand


def brand() -> Brand:
    """Return the brand of this process."""
    return _brand


def branded(text: str) -> str:
    """Return a message with the commands, units and variables in it under this process's brand."""
    return _brand.message(text)


def program() -> tuple[str, ...]:
    """Return the command that starts this program again, under the same brand."""
    # Without -P Python would run a folder of the same name in the working directory.
    if _brand == DISPATCHD:
        return (sys.executable, "-P", "-m", "dispatchd")
    code = (
        "from dispatchd.brand import Brand; from dispatchd.program import main; "
        f"main({_brand!r})"
    )
    return (sys.executable, "-P", "-c", code)


def rename(command: click.Command) -> None:
    """Put the help of a command, and of those below it, under this process's brand."""
    if _brand == DISPATCHD or command in _renamed:
        return
    _renamed.add(command)
    command.help = _brand.help_text(command.help or "")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            parameter.help = _brand.help_text(parameter.help or "")
    if isinstance(command, click.Group):
        for below in command.commands.values():
            rename(below)
