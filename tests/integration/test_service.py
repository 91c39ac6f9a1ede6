"""`dispatchd service` writes what a service needs below a folder, and never over a person's file."""

import os
import pty
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from support.cli import Done, dispatchd, dispatchd_process

ROOT = Path(__file__).parents[2]
PROGRAM = "/opt/dispatchd/bin/dispatchd"
UNITS = "etc/systemd/system"


def service(root: Path, what: str, *options: str) -> Done:
    program = ("--program", PROGRAM) if what == "install" else ()
    words = ("service", what, "--root", str(root), *program, *options)
    return dispatchd(*words)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def what_is_in(unit: Path) -> Path | bytes | None:
    """Return the content of a file or link; None for a pipe."""
    if unit.is_symlink():
        return unit.readlink()
    return unit.read_bytes() if unit.is_file() else None


def without_stamp(text: str) -> str:
    return text.partition("\n")[2]


def test_every_file_is_said_and_is_the_one_in_the_source_tree(tmp_path: Path) -> None:
    done = service(tmp_path, "install")
    hub = service(tmp_path, "install", "--hub")
    one = service(tmp_path, "install", "--name", "one")

    assert (done.returncode, hub.returncode, one.returncode) == (0, 0, 0), done.stderr
    written = tree(tmp_path)
    said = done.stdout + hub.stdout + one.stdout
    assert {str(tmp_path / name) for name in written} == {
        line.split()[1] for line in said.splitlines() if line.startswith("wrote")
    }
    for name in ("dispatchd.service", "dispatchd@.service", "dispatchd-hub.service"):
        source = (ROOT / "systemd" / name).read_text()
        assert without_stamp(written[f"{UNITS}/{name}"]) == source
    for name in ("sysusers.d", "tmpfiles.d"):
        source = (ROOT / "systemd" / name / "dispatchd.conf").read_text()
        assert without_stamp(written[f"etc/{name}/dispatchd.conf"]) == source
    alerts = (ROOT / "docs" / "monitoring" / "alerts.yml").read_text()
    assert without_stamp(written["etc/dispatchd/examples/alerts.yml"]) == alerts
    assert "systemctl enable --now dispatchd.service" in done.stdout
    assert "systemctl enable --now dispatchd@one.service" in one.stdout
    assert "/etc/dispatchd/one.toml" in one.stdout
    assert "dispatchd hub init /var/lib/dispatchd-hub" in hub.stdout


def test_a_dry_run_says_the_same_and_changes_nothing(tmp_path: Path) -> None:
    dry = service(tmp_path, "install", "--dry-run")
    assert tree(tmp_path) == {}
    done = service(tmp_path, "install")
    before = tree(tmp_path)
    removed = service(tmp_path, "uninstall", "--dry-run", "--yes")

    assert dry.stdout.replace("would write", "wrote      ") == done.stdout
    assert tree(tmp_path) == before
    assert f"would delete  {tmp_path}/etc/dispatchd/config.toml" in removed.stdout


@pytest.mark.parametrize("kind", ["edited", "own", "masked", "binary", "pipe"])
def test_what_a_person_wrote_or_edited_stays(tmp_path: Path, kind: str) -> None:
    unit = tmp_path / UNITS / "dispatchd.service"
    service(tmp_path, "install")
    if kind == "edited":
        unit.write_text(unit.read_text().replace("RestartSec=3", "RestartSec=9"))
    elif kind == "own":
        unit.write_text("[Service]\nExecStart=/bin/true\n")
    elif kind == "binary":
        unit.write_bytes(b"\xff\xfe")
    elif kind == "pipe":
        unit.unlink()
        os.mkfifo(unit)
    else:
        unit.unlink()
        unit.symlink_to("/dev/null")
    config = tmp_path / "etc/dispatchd/config.toml"
    config.write_text("# mine\n")
    before = what_is_in(unit)

    again = service(tmp_path, "install")
    removed = service(tmp_path, "uninstall", "--keep-state")

    assert what_is_in(unit) == before
    assert config.read_text() == "# mine\n"
    assert os.path.lexists(unit)
    kept = f"kept          {unit}: a person wrote or edited it"
    assert kept in again.stdout
    assert kept in removed.stdout


def test_a_file_of_an_earlier_release_is_replaced(tmp_path: Path) -> None:
    service(tmp_path, "install", "--program", "/opt/earlier/dispatchd")
    unit = tmp_path / UNITS / "dispatchd.service"
    assert "ExecStart=/opt/earlier/dispatchd run" in unit.read_text()

    again = service(tmp_path, "install")

    assert f"replaced      {unit}" in again.stdout
    assert f"ExecStart={PROGRAM} run" in unit.read_text()
    assert f"unchanged     {tmp_path}/etc/sysusers.d/dispatchd.conf" in again.stdout


def test_what_others_need_stays_until_the_last_one_goes(tmp_path: Path) -> None:
    service(tmp_path, "install")
    service(tmp_path, "install", "--hub")
    wants = tmp_path / UNITS / "multi-user.target.wants"
    wants.mkdir()
    for name in ("one", "two"):
        service(tmp_path, "install", "--name", name)
        (wants / f"dispatchd@{name}.service").symlink_to("../dispatchd@.service")
    shared = tmp_path / "etc/sysusers.d/dispatchd.conf"
    template = tmp_path / UNITS / "dispatchd@.service"

    service(tmp_path, "uninstall", "--yes", "--name", "one")
    (wants / "dispatchd@one.service").unlink()  # systemctl disable
    assert template.exists()
    assert not (tmp_path / "etc/dispatchd/one.toml").exists()
    assert (tmp_path / "etc/dispatchd/two.toml").exists()
    service(tmp_path, "uninstall", "--yes", "--name", "two")
    assert not template.exists()
    service(tmp_path, "uninstall", "--yes")
    assert shared.exists()
    service(tmp_path, "uninstall", "--yes", "--hub")
    assert tree(tmp_path) == {}


def test_whatever_runs_have_left_is_deleted(tmp_path: Path) -> None:
    service(tmp_path, "install")
    state = tmp_path / "var/lib/dispatchd"
    run = state / "runs/j/workspace"
    run.mkdir(parents=True)
    # Deeper than Python's recursion limit, and than a path may be long.
    folder = os.open(run, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)

    done = service(tmp_path, "uninstall", "--yes")

    assert f"deleted       {state}" in done.stdout
    assert not state.exists()


def test_state_is_asked_about(tmp_path: Path) -> None:
    service(tmp_path, "install")
    state = tmp_path / "var/lib/dispatchd"
    (state / "jobs").mkdir(parents=True)
    words = ("service", "uninstall", "--root", str(tmp_path))

    nobody = dispatchd(*words)
    assert nobody.returncode == 64
    assert "--yes (delete it) or --keep-state" in nobody.stderr
    assert (tmp_path / UNITS / "dispatchd.service").exists()

    said = on_a_terminal(*words, answer="n\n")
    assert f"Delete its configuration and state, too?\r\n  {tmp_path}" in said
    assert state.exists()
    assert not (tmp_path / UNITS / "dispatchd.service").exists()

    service(tmp_path, "install")
    said = on_a_terminal(*words, answer="y\n")
    assert f"deleted       {state}" in said
    assert tree(tmp_path) == {}
    assert not state.exists()


def on_a_terminal(*words: str, answer: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "dispatchd", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        said = b""
        while chunk := _read(ours):
            said += chunk
        assert process.wait(60) == 0, said
    os.close(ours)
    return said.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: the other end is closed
        return b""


def test_a_user_has_a_service_without_root(tmp_path: Path) -> None:
    env = {"HOME": "/home/me", "XDG_CONFIG_HOME": None, "XDG_STATE_HOME": None}
    words = ("--root", str(tmp_path), "--user", "--program", "/home/me/bin/dispatchd")
    one = dispatchd("service", "install", *words, "--name", "one", env=env)
    hub = dispatchd("service", "install", *words, "--hub", env=env)

    assert (one.returncode, hub.returncode) == (0, 0), one.stderr + hub.stderr
    written = tree(tmp_path / "home/me")
    assert sorted(written) == [
        ".config/dispatchd/examples/alerts.yml",
        ".config/dispatchd/examples/config.example.toml",
        ".config/dispatchd/one.toml",
        ".config/systemd/user/dispatchd-hub.service",
        ".config/systemd/user/dispatchd@.service",
    ]
    unit = written[".config/systemd/user/dispatchd@.service"]
    assert "ExecStart=/home/me/bin/dispatchd run --config %E/dispatchd/%i.toml" in unit
    # Two instances of one user must not share a state.
    folder = "/home/me/.local/state/dispatchd-one"
    assert f'folder = "{folder}"' in written[".config/dispatchd/one.toml"]
    assert "systemctl --user enable --now dispatchd@one.service" in one.stdout
    assert "dispatchd hub init /home/me/.local/state/dispatchd-hub" in hub.stdout
    removed = dispatchd(
        *("service", "uninstall", *words[:3], "--name", "one", "--yes"), env=env
    )
    assert removed.returncode == 0
    assert sorted(tree(tmp_path / "home/me")) == [
        ".config/dispatchd/examples/alerts.yml",
        ".config/dispatchd/examples/config.example.toml",
        ".config/systemd/user/dispatchd-hub.service",
    ]


@pytest.mark.parametrize("home", ["CORP\\bob", 'a"b', "a\nb", "a\x7fb", "ü 🚀"])
def test_a_state_folder_is_the_one_that_the_users_name_says(
    tmp_path: Path, home: str
) -> None:
    env = {"HOME": f"/home/{home}", "XDG_CONFIG_HOME": None, "XDG_STATE_HOME": None}
    words = ("--root", str(tmp_path), "--user", "--program", "/opt/d", "--name", "one")
    done = dispatchd("service", "install", *words, env=env)

    assert done.returncode == 0, done.stderr
    file = tmp_path / "home" / home / ".config/dispatchd/one.toml"
    folder = tomllib.loads(file.read_text())["store"]["folder"]
    assert folder == f"/home/{home}/.local/state/dispatchd-one"


def test_a_folder_that_no_configuration_can_name_is_said(tmp_path: Path) -> None:
    home = os.fsdecode(b"/home/b\xffb")
    env = {"HOME": home, "XDG_CONFIG_HOME": None, "XDG_STATE_HOME": None}
    words = ("--root", str(tmp_path), "--user", "--program", "/opt/d", "--name", "one")
    done = dispatchd("service", "install", *words, env=env)

    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "not UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--hub", "--name", "x"), "a machine has one hub service"),
        (("--name", "config"), "neither 'config' nor 'hub'"),
        (("--name", "hub"), "neither 'config' nor 'hub'"),
        (("--name", "../x"), "use letters, digits"),
        (("--program", "dispatchd"), "must be an absolute path"),
        (("--program", "/a b/dispatchd"), "must be an absolute path"),
        (("--program", "/a%i/dispatchd"), "must be an absolute path"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_written(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    done = service(tmp_path, "install", *options)

    assert done.returncode == 64
    assert reason in done.stderr
    assert tree(tmp_path) == {}


def test_a_program_that_the_unit_could_not_see_is_refused(tmp_path: Path) -> None:
    venv = tmp_path / "bin"
    venv.mkdir()
    program = venv / "dispatchd"
    program.write_text(
        f"#!{sys.executable}\nfrom dispatchd.__main__ import main\nmain()\n"
    )
    program.chmod(0o755)
    words = (str(program), "service", "install", "--root", str(tmp_path / "root"))

    done = subprocess.run(words, capture_output=True, text=True, check=False)
    user = subprocess.run(
        (*words, "--user", "--dry-run"), capture_output=True, text=True, check=False
    )

    assert str(tmp_path).startswith("/tmp/")
    assert done.returncode == 64
    assert f"{program} is in a folder that the unit hides from it" in done.stderr
    assert user.returncode == 0, user.stderr


def test_without_systemd_it_says_so() -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("this machine runs systemd")
    done = dispatchd("service", "install", "--program", PROGRAM)

    assert done.returncode == 69
    assert "systemd doesn't run this machine" in done.stderr
    assert "--root" in done.stderr


def test_the_wheel_has_all_of_it(tmp_path: Path) -> None:
    """From the wheel alone the same files are written as from the source tree."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    trees = []
    for name, path in (("wheel", tmp_path / "site"), ("source", ROOT / "daemon")):
        for options in ((), ("--hub",), ("--user",)):
            done = dispatchd_process(
                *("service", "install", "--root", str(tmp_path / name)),
                *("--program", PROGRAM, *options),
                env={"PYTHONPATH": str(path)},
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stderr
        trees.append(tree(tmp_path / name))
        shutil.rmtree(tmp_path / name)
    assert trees[0] == trees[1]
    assert len(trees[0]) > 8


def test_a_file_that_does_not_fit_on_the_disk_is_named(tmp_path: Path) -> None:
    install = f"service install --program {PROGRAM} --root '{tmp_path}'"
    done = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -f 0; exec {sys.executable} -m dispatchd {install}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 74
    unit = tmp_path / UNITS / "dispatchd.service"
    assert done.stderr == f"dispatchd: cannot use {unit}: File too large\n"
    assert done.stdout == ""
    assert tree(tmp_path) == {}
