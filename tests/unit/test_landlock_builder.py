"""A builder of many walls: each is exactly what was asked for, whatever was prepared for it."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import dispatchd
from dispatchd.linux.landlock import READ, Builder, Rule, able

pytestmark = pytest.mark.skipif(not able().abi, reason="needs Landlock (Linux 5.13)")

INSIDE = """
import sys
sys.path.append(sys.argv[1])
from dispatchd.linux.landlock import enter
enter(int(sys.argv[2]))
for path in sys.argv[3:]:
    try:
        open(path).close()
    except OSError:
        continue
    print(path)
"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("a", "b", "c")}
    for folder in paths.values():
        folder.mkdir()
        (folder / "file").touch()
    return paths


def rules(*folders: Path) -> list[Rule]:
    return [Rule(str(folder), int(READ)) for folder in folders]


def within_reach(builder: Builder, opened: list[Rule], asked: list[Path]) -> set[Path]:
    """Return the files that a process behind the builder's next wall can read; then prepare for another one."""
    wall = builder.build([*rules(Path(sys.base_prefix)), *opened])
    try:
        root = str(Path(dispatchd.__file__).parents[1])
        files = [str(folder / "file") for folder in asked]
        command = [sys.executable, "-I", "-S", "-c", INSIDE, root, str(wall), *files]
        output = subprocess.run(
            command, pass_fds=[wall], capture_output=True, text=True, check=True
        ).stdout
    finally:
        os.close(wall)
    builder.prepare()
    return {Path(line).parent for line in output.splitlines()}


def test_a_wall_opens_nothing_that_only_earlier_ones_opened(
    folders: dict[str, Path],
) -> None:
    a, b, c = folders.values()
    builder = Builder(able())
    wanted: list[list[Path]] = [[a, b], [a, b], [a, c], [c], [a, b, c], [a, b], []]

    for opened in wanted:
        seen = within_reach(builder, rules(*opened), [a, b, c])
        assert seen == set(opened)


def test_a_folder_that_was_replaced_meanwhile_is_opened_as_it_is_now(
    folders: dict[str, Path],
) -> None:
    a, b, _ = folders.values()
    builder = Builder(able())
    for _ in range(2):
        within_reach(builder, rules(a, b), [a])
    a.rename(a.with_name("former"))
    a.mkdir()
    (a / "file").touch()

    assert within_reach(builder, rules(a, b), [a, a.with_name("former")]) == {a}


def test_a_link_in_the_place_of_a_real_path_opens_nothing(
    folders: dict[str, Path],
) -> None:
    """Also one that a run puts there after the path was resolved, or after the wall was prepared."""
    a, b, c = folders.values()
    builder = Builder(able())
    real = [Rule(str(a), int(READ), is_real=True), *rules(b)]
    for _ in range(2):
        assert within_reach(builder, real, [a, b, c]) == {a, b}
    a.rename(a.with_name("former"))
    a.symlink_to(c)
    for _ in range(2):
        assert within_reach(builder, real, [a, b, c]) == {b}
    for _ in range(2):
        within_reach(builder, [Rule(str(b), int(READ), is_real=True)], [b])
    b.rename(b.with_name("moved"))
    b.symlink_to(b.with_name("moved"))
    assert within_reach(builder, [Rule(str(b), int(READ), is_real=True)], [b]) == set()
    below = [Rule(str(a / "file"), int(READ), is_real=True)]
    assert within_reach(builder, below, [a, c]) == set()


def test_a_folder_that_was_missing_is_opened_once_it_is_there(
    folders: dict[str, Path],
) -> None:
    a, b, _ = folders.values()
    late = a.with_name("late")
    builder = Builder(able())
    for _ in range(2):
        within_reach(builder, rules(late, b), [b])
    late.mkdir()
    (late / "file").touch()

    assert within_reach(builder, rules(late, b), [late, b]) == {late, b}


def test_a_builder_holds_one_prepared_wall_at_most(folders: dict[str, Path]) -> None:
    def held() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    a, b, c = folders.values()
    before = held()
    builder = Builder(able())
    for opened in ([a, b], [a, b], [b], [c], [a, b], [a, b]):
        os.close(builder.build(rules(*opened)))
        builder.prepare()
        builder.prepare()

    assert held() <= before + 1


def test_a_wall_that_can_not_be_prepared_is_not_tried_again_and_again(
    folders: dict[str, Path],
) -> None:
    """The starter prepares when it is idle: it must not wake up for it for ever."""
    a, b, _ = folders.values()
    builder = Builder(able())
    for _ in range(2):
        os.close(builder.build(rules(a, b)))
    before = builder.is_prepared
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        builder.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert (before, builder.is_prepared) == (False, True)
    assert within_reach(builder, rules(a, b), [a, b]) == {a, b}
