"""Folders as runs leave them."""

import os
from pathlib import Path


def nest(folder: Path, depth: int, name: str = "nested") -> None:
    """Make folders in folders, each with a file, as `cd` does it: without a path to the last one."""
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
