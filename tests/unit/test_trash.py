"""The trash, with something else in its place."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatchd.agent.store.trash import Trash, remove_tree

PLACES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "a file": Path.touch,
    "a pipe": os.mkfifo,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("put", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("look_first", [True, False])
def test_something_else_in_its_place_is_replaced(
    tmp_path: Path,
    put: Callable[[Path], object],
    look_first: bool,  # noqa: FBT001  # a column of the table
) -> None:
    trash, folder = Trash(tmp_path / "gone"), tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("private")
    put(trash.path)

    if look_first:
        for each in trash.contents():
            remove_tree(each)
    [taken] = trash.take([folder])

    assert not folder.exists()
    assert (taken / "file").read_text() == "private"
    assert trash.contents() == [taken]
