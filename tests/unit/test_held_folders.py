"""Modes that a run takes from the daemon's folders, and from other runs', and that are given back."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.agent.store.held_folders import HeldFolders, restore_state
from dispatchd.agent.store.runs import Runs

ACL = "system.posix_acl_default"
MOST = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def mode(path: Path) -> int:
    return path.stat(follow_symlinks=False).st_mode & 0o777


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    for name in (".", "jobs", "runs", "runs/a", "runs/b"):
        (state / name).mkdir(mode=0o700)
    return state


@pytest.fixture
def held(state: Path) -> Iterator[HeldFolders]:
    found = HeldFolders.open(state)
    found.watch()
    yield found
    found.close()


def flood(state: Path) -> None:
    """Change more than the kernel keeps, each other than the one before it: of two alike it tells once."""
    for _ in range(MOST // 2 + 1):
        (state / "runs/a").chmod(0o700)
        (state / "runs/b").chmod(0o700)


def restored(held: HeldFolders) -> int:
    """Return how many modes are given back until all changes have been looked at."""
    count = 0
    for _ in range(MOST // 1000):
        count += held.restore()
    return count


@pytest.mark.parametrize("name", [".", "jobs", "runs", "runs/a", "jobs/x.json"])
def test_what_has_changed_is_given_back(
    held: HeldFolders, state: Path, name: str
) -> None:
    (state / "jobs/x.json").touch(mode=0o600)
    (state / name).chmod(0)

    assert held.restore() == 1
    assert mode(state / name) == (0o600 if name.endswith("json") else 0o700)
    assert held.restore() == 0


def deny_in(folder: Path) -> None:
    """Set a default access list that denies everything, as `setfacl -d -m u::-,g::-,o::-` does (acl(5))."""
    entries = ((tag, 0, 0xFFFFFFFF) for tag in (1, 4, 0x20))
    packed = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in entries
    )
    try:
        os.setxattr(folder, ACL, packed)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            pytest.skip("needs a file system with access lists")
        raise


@pytest.mark.parametrize("name", [".", "jobs", "runs"])
def test_a_default_access_list_is_taken_away(
    held: HeldFolders, state: Path, name: str
) -> None:
    deny_in(state / name)

    held.restore()

    assert ACL not in os.listxattr(state / name)


def test_a_run_s_folder_is_usable_below_a_folder_whose_list_denies_everything(
    state: Path,
) -> None:
    deny_in(state / "runs")
    runs = Runs.open(state)

    runs.create("c", payload="{}", headers="{}")
    attempt = runs.prepare_attempt("c", 1)

    for folder in (runs.folder("c").path, runs.folder("c").workspace, attempt):
        assert mode(folder) == 0o700
        assert ACL not in os.listxattr(folder)


def test_a_list_of_a_time_without_a_daemon_is_taken_away_at_its_start(
    state: Path,
) -> None:
    deny_in(state / "runs")

    restore_state(state)

    assert ACL not in os.listxattr(state / "runs")


def test_without_a_watch_everything_that_is_needed_is_looked_at(state: Path) -> None:
    runs = Runs.open(state)
    runs.create("c", payload="{}", headers="{}")
    runs.prepare_attempt("c", 1)
    unwatched = HeldFolders.open(state)
    with unwatched.guarding(runs.folder("c"), 1):
        for path in ("jobs", "runs/c", "runs"):
            (state / path).chmod(0)

        assert unwatched.restore() == 3
    unwatched.close()


def test_a_socket_is_given_back_to_its_group_too(
    held: HeldFolders, state: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(state / "control.sock"))
    (state / "control.sock").chmod(0)

    assert held.restore() == 1
    assert mode(state / "control.sock") == 0o660


def test_a_link_is_followed_nowhere(held: HeldFolders, state: Path) -> None:
    outside = state / "runs/a/outside"
    outside.touch()
    outside.chmod(0)
    (state / "jobs/x.json").symlink_to(outside)
    os.utime(state / "jobs/x.json", (0, 0), follow_symlinks=False)

    assert held.restore() == 0
    assert mode(outside) == 0


NEEDED = (
    *("", "workspace", "event.json", "headers.json"),
    *("attempt-1", "attempt-1/run", "attempt-1/output.log"),
    *("attempt-1/run/outputs", "attempt-1/run/summary.md"),
)


@pytest.mark.parametrize("is_queued", [False, True])
@pytest.mark.parametrize("name", NEEDED)
def test_what_a_live_or_queued_run_needs_is_given_back_and_nothing_in_its_workspace(
    held: HeldFolders, state: Path, name: str, *, is_queued: bool
) -> None:
    runs = Runs.open(state)
    runs.create("live", payload="{}", headers="{}")
    runs.prepare_attempt("live", 1)
    run = runs.folder("live")
    run.output_file(1).touch(mode=0o600)
    own = run.workspace / "own"
    own.touch()
    with held.guarding(run, 1, is_queued=is_queued):
        held.restore()
        own.chmod(0)
        (run.path / name).chmod(0)
        assert held.restore() == 1
        assert mode(run.path / name) & 0o600 == 0o600
        assert mode(own) == 0
    (run.path / "workspace").chmod(0)
    held.restore()

    # It has ended.
    assert mode(run.workspace) == 0


def test_all_at_once_is_given_back_from_the_outside_in(
    held: HeldFolders, state: Path
) -> None:
    runs = Runs.open(state)
    runs.create("live", payload="{}", headers="{}")
    runs.prepare_attempt("live", 1)
    run = runs.folder("live")
    with held.guarding(run, 1):
        for each in ("attempt-1/run", "attempt-1", "workspace", ""):
            (run.path / each).chmod(0)
        restored(held)

        assert {mode(run.path / each) for each in ("", "attempt-1", "workspace")} == {
            0o700
        }


def test_a_flood_of_changes_hides_none_of_a_live_run(
    held: HeldFolders, state: Path
) -> None:
    runs = Runs.open(state)
    runs.create("live", payload="{}", headers="{}")
    runs.prepare_attempt("live", 1)
    run = runs.folder("live")
    with held.guarding(run, 1):
        flood(state)
        run.attempt(1).chmod(0)
        run.path.chmod(0)
        state.chmod(0)
        restored(held)

        assert {mode(each) for each in (state, run.path, run.attempt(1))} == {0o700}


def test_what_was_taken_while_there_was_no_daemon_is_given_back(state: Path) -> None:
    """A run goes on then, and the next daemon has to start."""
    record = state / "jobs/x.json"
    record.touch(mode=0o600)
    for each in (record, state / "runs/a", state / "runs", state / "jobs", state):
        each.chmod(0)

    assert restore_state(state) == 5
    assert mode(record) == 0o600
    assert {mode(each) for each in (state, state / "jobs", state / "runs/a")} == {0o700}
    assert restore_state(state) == 0
    assert restore_state(state / "nothing") == 0


def test_a_folder_that_no_daemon_has_used_is_left_alone(tmp_path: Path) -> None:
    """Such as /etc, which somebody has named as store.folder by mistake."""
    (tmp_path / "runs").mkdir(mode=0o500)
    for name in ("sudoers", "runs/mine"):
        (tmp_path / name).touch(mode=0o440)

    assert restore_state(tmp_path) == 0
    modes = [path.stat().st_mode & 0o777 for path in sorted(tmp_path.rglob("*"))]
    assert modes == [0o500, 0o440, 0o440]


@pytest.mark.parametrize("name", ["", "etc", "etc/secret", "etc/link"])
def test_what_is_needed_elsewhere_is_given_back(
    held: HeldFolders, tmp_path: Path, name: str
) -> None:
    """Whoever owns the machine's secret can take its mode away, and with it all jobs from the machine."""
    home = tmp_path / "home"
    (home / "etc").mkdir(parents=True)
    (home / "etc/secret").touch(mode=0o400)
    (home / "etc/link").symlink_to("secret")
    (home / "other").touch(mode=0)
    held.need_elsewhere([home / "etc/link", tmp_path / "missing"])
    held.restore()

    before = (mode(home), mode(home / "etc"))

    (home / name).chmod(0)

    assert held.restore() == 1
    assert mode(home / "etc/secret") == 0o400
    assert (mode(home), mode(home / "etc")) == before
    assert mode(home / "other") == 0


def test_an_owner_may_close_a_secret_to_others(
    held: HeldFolders, tmp_path: Path
) -> None:
    secret = tmp_path / "etc-secret"
    secret.touch()
    secret.chmod(0o644)
    held.need_elsewhere([secret])
    secret.chmod(0o600)
    held.restore()
    secret.chmod(0)
    held.restore()

    assert mode(secret) == 0o600


def test_what_has_taken_a_secret_s_place_is_given_back(
    held: HeldFolders, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    secret = tmp_path / "etc/secret"
    secret.touch(mode=0o600)
    held.need_elsewhere([secret])
    (tmp_path / "etc/aside").touch(mode=0o600)
    (tmp_path / "etc/aside").replace(secret)
    restored(held)

    secret.chmod(0)

    assert held.restore() == 1
    assert mode(secret) == 0o600


def test_what_is_not_needed_any_more_is_left_alone(
    held: HeldFolders, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch(mode=0o600)
        held.need_elsewhere([tmp_path / name])
    held.restore()

    (tmp_path / "one").chmod(0)
    held.restore()

    assert mode(tmp_path / "two") == 0o600
