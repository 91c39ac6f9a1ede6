"""Small C libraries that are preloaded into a real daemon, to do what no hook in our code does."""

import shutil
import subprocess
from pathlib import Path

import pytest


def build(source: Path, folder: Path) -> Path:
    """Return the library made of a C file; without a compiler the test is skipped, and says so."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip(f"no C compiler here to build {source.name}")
    library = folder / source.with_suffix(".so").name
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True
    )
    return library
