"""Imports of the command line: without what is slow to load, and without looks for garbage meanwhile."""

import gc
import subprocess
import sys

import pytest

from dispatchd.cli.imports import without_collection

SLOW = {"asyncio", "cryptography", "httpx", "jsonschema", "sqlalchemy", "structlog"}
"""Each takes 20 ms or more."""


CODE = """
import sys

import click
from dispatchd.cli.main import cli


def require_quick(command, path):
    context = click.Context(command)
    command.get_help(context)
    loaded = {slow} & sys.modules.keys()
    assert not loaded, f"dispatchd {' '.join(path)}: {loaded}"
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        require_quick(command.get_command(context, name), (*path, name))


require_quick(cli, ())
"""


def test_the_help_of_each_command_loads_nothing_slow() -> None:
    code = CODE.replace("{slow}", repr(SLOW))

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_garbage_is_looked_for_in_a_block_and_again_after_it() -> None:
    def fail_inside() -> None:
        with without_collection():
            assert not gc.isenabled()
            with without_collection():
                pass
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fail_inside()

    assert gc.isenabled()
