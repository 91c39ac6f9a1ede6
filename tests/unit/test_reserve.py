"""The reserve of a state folder, whatever is found in its place."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dispatchd.agent.store.disk_reserve import FILE_BYTES, FILES, Reserve
from dispatchd.agent.store.durable import DurableFolder


def files(folder: Path) -> list[Path]:
    """Return the files of the reserve that have their blocks."""
    return [
        each
        for each in (folder / "reserve").glob("room-*")
        if each.is_file() and each.stat().st_blocks * 512 >= FILE_BYTES
    ]


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, FILE_BYTES)


STRAYS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "an empty file": Path.touch,
    "a file with holes, as a copy has": sparse,
}


@pytest.mark.parametrize("stray", STRAYS.values(), ids=STRAYS)
@pytest.mark.parametrize("name", ["room-1", "room-16", "other"])
def test_what_has_no_space_in_it_is_replaced_or_left_alone(
    tmp_path: Path, stray: Callable[[Path], object], name: str
) -> None:
    Reserve.open(tmp_path)
    path = tmp_path / "reserve" / name
    path.unlink(missing_ok=True)
    stray(path)

    with capture_logs() as logs:
        reserve = Reserve.open(tmp_path)

    assert len(files(tmp_path)) == FILES
    # Only a folder, which may hold something, is still there.
    assert path.is_dir() == (stray is STRAYS["a folder"])
    named = [each["path"] for each in logs if each["log_level"] == "warning"]
    assert named == ([str(path)] if path.is_dir() else [])
    folder = DurableFolder.open(tmp_path / "jobs")
    try:
        for number in range(FILES):
            assert reserve.put(folder, f"{number}.json", b"{}")
    finally:
        folder.close()
