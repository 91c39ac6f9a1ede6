"""The program as one file, by pex: it unpacks itself into an environment in the user's cache when it is first called."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bundle import PYTHON
from commands import run


def build(file: Path, wheels: Path, locked: Path) -> None:
    """Build the file from wheels and their locked versions."""
    only = ("--no-pypi", "--find-links", wheels, "--no-transitive", "-r", locked)
    # An environment of its own, as the program starts itself again by `python -m dispatchd`.
    called = ("--venv", "prepend", "--sh-boot", "--console-script", "dispatchd")
    runs_on = ("--interpreter-constraint", f"CPython=={PYTHON}.*")
    with TemporaryDirectory() as cache:
        pex = (sys.executable, "-m", "pex", *only, *called, *runs_on)
        run(*pex, "--output-file", file, env={**os.environ, "PEX_ROOT": cache})
