"""Artifacts in a workspace that a run has written: what is found, what is copied, and what a hostile run gets."""

import os
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dispatchd.agent.store.artifacts.find import Search
from dispatchd.agent.store.artifacts.snapshots import (
    Bounds,
    Kept,
    Owner,
    Snapshots,
    Wanted,
)
from dispatchd.agent.store.runs import Runs

MIB = 1 << 20
FILES = (
    *("a.txt", "dist/a.whl", "dist/b.whl", "dist/sub/c.whl", "dist/.d.whl"),
    *("r/x/y/z.xml", "r/.git/config", "[1].txt", "1.txt", ".env"),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in FILES:
        file = tmp_path / "workspace" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "workspace"


def found(workspace: Path, paths: Any = (), patterns: Any = ()) -> list[str]:
    names: list[str] = []
    search = Search(workspace=workspace, take=lambda path, _: names.append(path))
    search.run(paths, patterns)
    return sorted(names)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("dist/*.whl", ["dist/a.whl", "dist/b.whl"]),
        ("**/*.whl", ["dist/a.whl", "dist/b.whl", "dist/sub/c.whl"]),
        ("dist/**/*.whl", ["dist/a.whl", "dist/b.whl", "dist/sub/c.whl"]),
        ("r/**", ["r/x/y/z.xml"]),
        ("r/**/**/z.xml", ["r/x/y/z.xml"]),
        ("r", ["r/.git/config", "r/x/y/z.xml"]),
        ("./dist//a.whl", ["dist/a.whl"]),
        ("dist/.*", ["dist/.d.whl"]),
        ("*", ["1.txt", "[1].txt", "a.txt"]),
        ("[1].txt", ["1.txt"]),
        ("dist/?.whl", ["dist/a.whl", "dist/b.whl"]),
        (".env", [".env"]),
        ("*/a.whl", ["dist/a.whl"]),
        ("none/**", []),
        ("a.txt/b", []),
    ],
)
def test_a_pattern_finds_files(
    workspace: Path, pattern: str, expected: list[str]
) -> None:
    assert found(workspace, patterns=[pattern]) == expected
    assert found(workspace, patterns=[pattern, pattern]) == expected


def test_a_path_is_no_pattern_and_stays_inside(workspace: Path) -> None:
    (workspace.parent / "secret").write_text("s")
    (workspace / "up").symlink_to("..")
    (workspace / "dist/out").symlink_to("/etc")

    assert found(workspace, ["[1].txt"]) == ["[1].txt"]
    for path in (
        *("../secret", "dist/../../secret", "/etc/passwd", "up/secret", "..", "."),
        *("dist/out/passwd", "a\0b", "\ud800", "", "/", "dist/a.whl/"),
    ):
        expected = ["dist/a.whl"] if path.startswith("dist/a") else []
        assert found(workspace, [path]) == expected, path
        assert found(workspace, [], [path]) == expected, path
    assert found(workspace, [], ["**/passwd", "up/*", "*/secret"]) == []
    assert found(workspace / "up", ["secret"]) == []


def test_too_many_names_and_a_deep_folder_end_the_search(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(2_000):
        os.close(os.open(tmp_path / f"many/{number}", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "many/wanted").touch()
    deep = tmp_path
    for _ in range(100):
        deep /= "d"
        deep.mkdir()
    taken: list[str] = []
    search = Search(
        workspace=tmp_path,
        take=lambda path, _: taken.append(path),
        most_entries=1000,
    )

    search.run(["many/wanted"], ["**/x"])

    assert taken == ["many/wanted"]
    assert any("more than 1000 entries" in each for each in search.problems)
    search = Search(workspace=tmp_path / "d", take=lambda path, _: taken.append(path))
    search.run([], ["**"])
    assert any("deeper than 64" in each for each in search.problems)
    search = Search(workspace=tmp_path, take=lambda *_: None)
    search.run([f"p{number}/q/{number}" for number in range(200_000)], [])
    assert search.problems == ["more than 1000 paths are named"]


def take(
    folder: Path,
    workspace: Path,
    patterns: tuple[str, ...] = ("**",),
    attempt: int = 1,
    **bounds: Any,
) -> Kept:
    given = {"most_bytes": MIB, "min_free_bytes": 0, "is_late": lambda: False, **bounds}
    return Snapshots.open(folder).take(
        Owner(job_id="a/../j", attempt=attempt),
        workspace,
        Wanted(paths=(), patterns=patterns),
        Bounds(**given),
    )


def contents(folder: Path) -> dict[str, bytes]:
    snapshots = Snapshots.open(folder)
    [name] = snapshots.names()
    snapshot = snapshots.read(name)
    assert snapshot is not None
    found = {
        file.path: snapshot.read(file, 0, file.size + 1)
        for file in snapshot.listed.files
    }
    for file in snapshot.listed.files:
        assert sha256(found[file.path]).hexdigest() == file.sha256
        assert len(found[file.path]) == file.size
    return found


def test_a_copy_stays_as_it_was_announced(workspace: Path, tmp_path: Path) -> None:
    kept = take(tmp_path / "state", workspace, ("dist/*.whl",))
    for name in ("dist/a.whl", "dist/b.whl"):
        (workspace / name).write_text("changed")

    assert (kept.files, kept.size, kept.left_out) == (2, 20, ())
    assert contents(tmp_path / "state") == {
        "dist/a.whl": b"dist/a.whl",
        "dist/b.whl": b"dist/b.whl",
    }
    take(tmp_path / "state", workspace, ("a.txt",), attempt=2)
    assert contents(tmp_path / "state") == {"a.txt": b"a.txt"}
    for path in (tmp_path / "state/artifacts").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        assert not path.name.startswith(".new")


def test_what_is_no_plain_file_with_a_plain_name_is_left_out(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    odd = (b"line\nend", b"\xff\xfe", b"esc\x1b[2J", b"%00", b"%2e%2e", b"a" * 255)
    for name in (*odd, "\N{BLACK SUN WITH RAYS}".encode(), b"back\\slash", b" "):
        (workspace / os.fsdecode(name)).write_text("x")
    os.mkfifo(workspace / "pipe")
    (workspace / "link").symlink_to("/etc/passwd")
    (workspace / "loop").symlink_to("loop")
    (workspace / "locked").mkdir(mode=0)
    (workspace / "unreadable").write_text("x")
    (workspace / "unreadable").chmod(0)
    with (workspace / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
    with (workspace / "holes").open("wb") as holes:
        holes.write(b"x")
        holes.truncate(MIB // 2)

    kept = take(tmp_path / "state", workspace)

    copied = contents(tmp_path / "state")
    left = {*copied} - {"unreadable"}
    assert left == {
        *("%00", "%2e%2e", "a" * 255, "\N{BLACK SUN WITH RAYS}"),
        *("back\\slash", " ", "holes"),
    }
    assert copied["holes"] == b"x" + bytes(MIB // 2 - 1)
    said = "\n".join(kept.left_out)
    assert said.count("isn't a regular file") == 3
    assert said.count("control characters, or isn't UTF-8") == 3
    assert "sparse: all together would be larger than 1 MiB" in said


def test_bounds_of_count_size_and_time_hold(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for number in range(1010):
        (workspace / f"{number:04}").write_bytes(b"x" * 1000)

    assert take(tmp_path / "s", workspace, most_bytes=10_000).files == 10
    (workspace / "z").mkdir()
    (workspace / "z/required").touch()
    names: list[str] = []
    search = Search(workspace=workspace, take=lambda path, _: names.append(path))
    search.run(["z/required", "0007"], ["**"])
    assert names[:2] == ["0007", "z/required"]
    assert len(names) == len({*names}) == 1011
    kept = take(tmp_path / "s", workspace)
    assert kept.files == 1000
    assert any("more than 1000 files" in each for each in kept.left_out)
    assert take(tmp_path / "s", workspace, min_free_bytes=1 << 60).files == 0
    looks = iter(range(10_000))
    kept = take(tmp_path / "s", workspace, is_late=lambda: next(looks) > 100)
    assert 0 < kept.files < 100
    assert "the rest: the time for copies is over" in kept.left_out


def test_a_file_that_changes_while_it_is_copied_is_left_out(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    file = workspace / "f"
    file.write_bytes(os.urandom(3 * MIB))
    calls = []

    def is_late() -> bool:
        # Between two pieces.
        calls.append(1)
        if len(calls) == 3:
            with file.open("r+b") as written:
                written.write(b"changed")
                os.utime(written.fileno(), (1, 1))
        return False

    kept = take(tmp_path / "s", workspace, most_bytes=64 * MIB, is_late=is_late)
    assert kept.left_out[0].startswith("f: it changed while it was copied")


def test_what_a_crash_or_a_stranger_has_left_is_no_snapshot(
    workspace: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    take(state, workspace, ("a.txt",))
    (state / "artifacts/.new-x").mkdir()
    (state / "artifacts/.new-x/part").write_text("x")
    (state / "artifacts/odd").write_text("no folder")
    (state / "artifacts/bad").mkdir()
    (state / "artifacts/bad/list.json").write_text('{"files": [{}]}')
    snapshots = Snapshots.open(state)

    assert not (state / "artifacts/.new-x").exists()
    names = snapshots.names()
    read = {name: snapshots.read(name) for name in names}
    good = [name for name, snapshot in read.items() if snapshot is not None]
    assert len(names) == 3
    assert len(good) == 1
    for name in names:
        snapshots.remove(name, read[name])
    assert snapshots.names() == []


def test_a_snapshot_stays_known_while_its_folder_is_away(
    workspace: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    take(state, workspace, ("a.txt",))
    snapshots = Snapshots.open(state)
    [name] = snapshots.names()
    (state / "artifacts").rename(state / "away")

    snapshots.remove(name, snapshots.read(name))
    (state / "away").rename(state / "artifacts")

    assert snapshots.names() == [name]
    snapshots.remove(name, snapshots.read(name))
    assert snapshots.names() == []
    assert [*(state / "artifacts").iterdir()] == []


def test_a_snapshot_that_is_taken_is_known_at_once_and_after_a_restart(
    workspace: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    runs = Runs.open(state)
    bounds = Bounds(most_bytes=MIB, min_free_bytes=0, is_late=lambda: False)
    runs.snapshots.take(
        Owner(job_id="j", attempt=1),
        workspace,
        Wanted(paths=("a.txt",), patterns=()),
        bounds,
    )

    assert runs.snapshots.names() == Snapshots.open(state).names() == ["j"]


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    for folder in (workspace / "d/e", outside / "e"):
        folder.mkdir(parents=True)
    (workspace / "d/e/f").write_text("inside")
    (outside / "e/f").write_text("outside")
    (workspace / "link").symlink_to(outside)
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for one, other in (("d", "aside"), ("link", "d")):
                Path(workspace / one).rename(workspace / other)
            for one, other in (("d", "link"), ("aside", "d")):
                Path(workspace / one).rename(workspace / other)

    thread = threading.Thread(target=swap)
    thread.start()
    seen: list[bytes] = []
    try:
        for _ in range(50):
            take(tmp_path / "s", workspace, ("d/**", "**/f", "d/e/f"))
            seen += contents(tmp_path / "s").values()
    finally:
        is_over.set()
        thread.join()

    assert set(seen) == {b"inside"}
