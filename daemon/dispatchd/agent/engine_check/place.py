"""Folder of a trial in the state folder: one trial at a time, and what a killed one has left is removed by the next. Blocks."""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from dispatchd.agent.store.lock import lock_folder
from dispatchd.errors import FolderUnusable, UsageError
from dispatchd.linux.folder_tree import remove_tree

_PREFIX: Final = "engine-check-"


def make_place(state_folder: Path, held: ExitStack) -> Path:
    """Return a new folder, which is locked until `held` is closed.

    Raises:
        UsageError: Another trial is under way: two would take each other's starts back.
        FolderUnusable: The state folder can't be written.
    """
    folder = state_folder / f"{_PREFIX}{secrets.token_hex(4)}"
    try:
        for left in state_folder.glob(f"{_PREFIX}*"):
            _remove_left(left)
        folder.mkdir(mode=0o700, parents=True)
        lock_folder(folder, held)
    except OSError as error:
        raise FolderUnusable(folder=state_folder, error=error) from error
    return folder


def _remove_left(folder: Path) -> None:
    """Remove the folder of a trial that was killed.

    Raises:
        UsageError: It was not.
        OSError: It can't be opened.
    """
    with ExitStack() as own:
        if not lock_folder(folder, own):
            reason = f"another check is under way in {folder}; wait for its end"
            raise UsageError(cannot="check an engine", reason=reason)
    remove_tree(folder)
