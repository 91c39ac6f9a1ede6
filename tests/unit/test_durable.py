import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from dispatchd.agent.store.durable import DurableFolder, put_file, remove_file, sweep
from dispatchd.agent.store.names import file_name
from dispatchd.errors import FolderUnusable, StoreUnavailable


def test_a_put_replaces_the_whole_file(tmp_path: Path) -> None:
    folder = DurableFolder.open(tmp_path / "new" / "folder")

    folder.put("a", b"long content")
    folder.put("a", b"short")

    assert (folder.path / "a").read_bytes() == b"short"
    assert [each.name for each in folder.path.iterdir()] == ["a"]
    assert (folder.path / "a").stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    folder = DurableFolder.open(tmp_path / "folder")
    folder.put("a", b"1")
    shutil.rmtree(folder.path)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(folder.put, f"b{n}", b"2") for n in range(50)]:
            done.result()

    assert len([*folder.path.iterdir()]) == 50
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_half_written_files_of_a_crash_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".aside-a").write_bytes(b"half")
    (tmp_path / "b").write_bytes(b"whole")

    sweep(tmp_path)

    assert [each.name for each in tmp_path.iterdir()] == ["b"]


def test_who_opens_a_folder_takes_nothing_from_who_writes_there(tmp_path: Path) -> None:
    (tmp_path / ".aside-a").write_bytes(b"half")

    DurableFolder.open(tmp_path)

    assert [each.name for each in tmp_path.iterdir()] == [".aside-a"]


def test_many_writers_of_one_file_leave_one_of_their_contents_each_time(
    tmp_path: Path,
) -> None:
    contents = {f"{number}" * 20_000 for number in range(8)}
    seen: set[str] = set()
    put_file(tmp_path, "a", b"0" * 20_000)

    def put_often(content: str) -> None:
        for _ in range(25):
            put_file(tmp_path, "a", content.encode())
            seen.add((tmp_path / "a").read_text())

    with ThreadPoolExecutor() as pool:
        list(pool.map(put_often, contents))

    assert seen <= contents
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_file_whose_folder_cannot_be_opened_is_refused_like_any_other(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnavailable, match="file"):
        put_file(tmp_path / "file", "a", b"x")


def test_a_removed_file_is_gone_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    put_file(tmp_path, "a", b"x")

    remove_file(tmp_path, "a")
    remove_file(tmp_path, "a")

    assert not list(tmp_path.iterdir())


def test_many_threads_share_a_folder(tmp_path: Path) -> None:
    folder = DurableFolder.open(tmp_path)

    def put_ten(number: int) -> None:
        for n in range(10):
            folder.put(f"{number}-{n}", f"{number}".encode())

    threads = [threading.Thread(target=put_ten, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(list(tmp_path.iterdir())) == 160


def test_a_refused_write_names_the_file_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    folder = DurableFolder.open(tmp_path)
    (tmp_path / "taken").mkdir()

    with pytest.raises(StoreUnavailable, match="taken"):
        folder.put("taken", b"x")

    folder.put("after", b"fine")


@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_stored_in_a_folder_that_has_been_moved(
    tmp_path: Path,
    is_replaced: bool,  # noqa: FBT001  # a column of the table
) -> None:
    """Seen: puts were answered as durable, and went into a folder that the next start doesn't read."""
    folder = DurableFolder.open(tmp_path / "jobs")
    (tmp_path / "jobs").rename(tmp_path / "moved")
    if is_replaced:
        (tmp_path / "jobs").mkdir()

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(folder.put, f"{n}", b"1") for n in range(50)]:
            done.result()

    assert len([*(tmp_path / "jobs").iterdir()]) == 50


def test_all_files_are_put_again_into_a_folder_that_was_removed_between_them(
    tmp_path: Path,
) -> None:
    class Removing(dict[str, bytes]):
        is_done = False

        @override
        def items(self) -> Any:
            yield "one", b"1"
            if not self.is_done:
                self.is_done = True
                shutil.rmtree(tmp_path / "jobs")
            yield "two", b"2"

    DurableFolder.open(tmp_path / "jobs").put_all(Removing())

    found = {each.name for each in (tmp_path / "jobs").iterdir()}
    assert found == {"one", "two"}


@pytest.mark.parametrize("way", ["put", "put_all", "adopt"])
def test_content_is_synced_before_it_is_put_in_place_and_the_folder_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    folder = DurableFolder.open(tmp_path / "folder")
    reserved = tmp_path / "reserved"
    reserved.write_bytes(bytes(100))
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        fsync(fd)
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "content")

    def noted_rename(*arguments: Any, **options: Any) -> None:
        rename(*arguments, **options)
        done.append("name")

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    match way:
        case "put":
            folder.put("a", b"x")
        case "put_all":
            folder.put_all({"a": b"x"})
        case _:
            folder.adopt(reserved, "a", b"x")

    assert done == ["content", "name", "folder"]
    assert (folder.path / "a").read_bytes() == b"x"


def test_a_failed_folder_sync_fails_the_put(tmp_path: Path) -> None:
    folder = DurableFolder.open(tmp_path)
    folder.close()

    with pytest.raises(StoreUnavailable):
        folder.put("a", b"x")


def test_a_folder_in_the_way_of_a_file_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FolderUnusable, match="there is a regular file"):
        DurableFolder.open(tmp_path / "file")


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_ids_become_distinct_file_names_that_stay_in_their_folder(
    one: str, other: str
) -> None:
    names = {file_name(one), file_name(other)}

    assert len(names) == len({one, other})
    for name in names:
        assert "/" not in name
        assert not name.startswith(".")
        assert len(os.fsencode(name)) < 230


def test_what_cannot_be_swept_keeps_no_other_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / ".aside-1-of-a-run").mkdir()
    (tmp_path / ".aside-2-of-a-crash").touch()

    sweep(tmp_path)

    assert [each.name for each in tmp_path.iterdir()] == [".aside-1-of-a-run"]
