"""Run every import of the installed package, those inside of functions included, and `--help` of every command."""

# a program of its own
import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import click
from click.testing import CliRunner

import dispatchd
from dispatchd.cli.main import cli

NOT_IMPORTED = {"dispatchd.__main__", "dispatchd.hub.storage.migrations.env"}
"""The first runs the command line, the second a migration; their imports are run all the same."""


def modules() -> list[str]:
    """Return the name of every module of the package."""
    infos = walk_packages(dispatchd.__path__, "dispatchd.")
    return [info.name for info in infos if info.name not in NOT_IMPORTED]


def imports() -> set[tuple[str, str]]:
    """Return every import statement of the package, wherever it stands: a module, and a name in it or nothing."""
    statements = set()
    for file in Path(dispatchd.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                statements |= {(alias.name, "") for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                statements |= {(node.module, alias.name) for alias in node.names}
    return {statement for statement in statements if statement[0] not in NOT_IMPORTED}


def fetch(module: str, name: str) -> None:
    """Do what an import statement does."""
    if name and not hasattr(import_module(module), name):
        import_module(f"{module}.{name}")
    import_module(module)


def commands(
    command: click.Command, context: click.Context, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield every command below one, and itself, by its words."""
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from commands(below, context, (*path, name))


def main() -> int:
    """Return 0, or 1 after a line for each failure."""
    failures = []
    for module, name in sorted(imports() | {(module, "") for module in modules()}):
        try:
            fetch(module, name)
        except Exception as error:  # noqa: BLE001  # whatever a version that is too old raises
            failures.append(f"{module} {name}: {error!r}")
    paths = [] if failures else list(commands(cli, click.Context(cli)))
    for path in paths:
        result = CliRunner().invoke(cli, [*path, "--help"])
        if result.exit_code or not result.output.startswith("Usage: "):
            failures.append(f"{' '.join(path)} --help: {result.exception!r}")
    for line in failures:
        print(line)  # its whole purpose
    return 1 if failures or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
