"""The unit files, judged by systemd's own tools, without a running systemd."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE, TEMPLATE = UNITS / "dispatchd.service", UNITS / "dispatchd@.service"
HUB = UNITS / "dispatchd-hub.service"
LOOSEN = UNITS / "dispatchd.service.d" / "loosen.conf"

WORST_EXPOSURE = 3.0
"""Of 10, as `systemd-analyze security` counts."""

WORST_EXPOSURE_OF_HUB = 1.5

OPTION = re.compile(r"#?[A-Z][A-Za-z]+=")

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed"
)


def as_installed(folder: Path, unit: Path, *, instance: str = "one") -> Path:
    """Return a copy of a unit with a program that exists, as systemd would load it."""
    copy = folder / unit.name.replace("@.", f"@{instance}.")
    text = unit.read_text().replace("/opt/dispatchd/bin/dispatchd", "/bin/true")
    copy.write_text(text)
    return copy


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def options(text: str) -> dict[str, list[str]]:
    """Return the options of a unit and their values, in their order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.startswith(("#", "[")) and "=" in line:
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def exposure(unit: Path) -> float:
    said = analyze("security", "--offline=true", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


@needs_analyze
@pytest.mark.parametrize("unit", [SERVICE, TEMPLATE, HUB], ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say_against_a_unit(tmp_path: Path, unit: Path) -> None:
    done = analyze("verify", "--man=no", as_installed(tmp_path, unit))

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize("unit", [SERVICE, TEMPLATE], ids=lambda unit: unit.name)
def test_a_unit_is_exposed_no_more_than_a_program_that_starts_commands_has_to_be(
    tmp_path: Path, unit: Path
) -> None:
    assert exposure(as_installed(tmp_path, unit)) <= WORST_EXPOSURE


@needs_analyze
@pytest.mark.parametrize(
    "unit", sorted((UNITS / "user").iterdir()), ids=lambda unit: unit.name
)
def test_systemd_has_nothing_to_say_against_a_unit_of_a_user(
    tmp_path: Path, unit: Path
) -> None:
    """Nor does it need root: what only the manager of the system can set is not in it."""
    # Short: other packages' units of users have sockets in it, whose paths have at most 107 bytes (unix(7)).
    with TemporaryDirectory(dir="/tmp") as run:
        done = subprocess.run(
            [
                *("systemd-analyze", "--no-pager", "verify", "--user", "--man=no"),
                as_installed(tmp_path, unit),
            ],
            env={**os.environ, "XDG_RUNTIME_DIR": run},
            capture_output=True,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert not {"User", "Group", "CapabilityBoundingSet"} & {*options(unit.read_text())}


@needs_analyze
def test_the_hub_which_starts_no_commands_is_exposed_less(tmp_path: Path) -> None:
    assert exposure(as_installed(tmp_path, HUB)) <= WORST_EXPOSURE_OF_HUB


@needs_analyze
def test_what_the_example_loosens_systemd_understands(tmp_path: Path) -> None:
    """Each option is commented out; here they are not."""
    unit = as_installed(tmp_path, SERVICE)
    lines = LOOSEN.read_text().splitlines()
    bare = [line.lstrip("#") if OPTION.match(line) else line for line in lines]
    folder = tmp_path / f"{unit.name}.d"
    folder.mkdir()
    (folder / LOOSEN.name).write_text("\n".join(bare) + "\n")

    done = analyze("verify", "--man=no", unit)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert exposure(unit) > WORST_EXPOSURE


def test_the_example_changes_nothing_until_somebody_edits_it() -> None:
    assert options(LOOSEN.read_text()) == {}


def test_an_instance_differs_from_the_one_service_only_in_its_names() -> None:
    one, instance = options(SERVICE.read_text()), options(TEMPLATE.read_text())
    named = {name for name, values in instance.items() if "%i" in " ".join(values)}

    assert list(one) == list(instance)
    assert {name for name in one if one[name] != instance[name]} == named
    assert named == {
        *("Description", "ExecStart", "ExecReload"),
        *("StateDirectory", "RuntimeDirectory", "LoadCredential"),
        *("CacheDirectory", "BindPaths", "Environment"),
    }


def test_nothing_leaves_the_service_dead_but_what_a_person_has_to_put_right() -> None:
    found = options(SERVICE.read_text())

    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]
    kinds = {str(kind) for kind in (os.EX_USAGE, os.EX_CONFIG)}
    assert set(found["RestartPreventExitStatus"][0].split()) == kinds


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0,
    reason="systemd-sysusers isn't installed, or this isn't root",
)
def test_the_user_of_the_units_is_made(tmp_path: Path) -> None:
    users = tmp_path / "etc" / "sysusers.d"
    users.mkdir(parents=True)
    shutil.copy(UNITS / "sysusers.d" / "dispatchd.conf", users)

    subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], check=True)

    found, hub = options(SERVICE.read_text()), options(HUB.read_text())
    names = [
        line.split(":")[0]
        for line in (tmp_path / "etc" / "passwd").read_text().splitlines()
    ]
    assert [*found["User"], *hub["User"]] == names
    assert [*found["Group"], *hub["Group"]] == names


@pytest.mark.skipif(
    shutil.which("systemd-tmpfiles") is None or os.geteuid() != 0,
    reason="systemd-tmpfiles isn't installed, or this isn't root",
)
def test_the_folders_of_an_administrator_are_made(tmp_path: Path) -> None:
    file = UNITS / "tmpfiles.d" / "dispatchd.conf"
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("dispatchd-hub:x:777:777::/:/bin/false\n")
    (etc / "group").write_text("dispatchd-hub:x:777:\n")

    done = subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", file],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert (etc / "dispatchd").is_dir()
    assert (etc / "credstore").stat().st_mode & 0o077 == 0
    hub = tmp_path / "var" / "lib" / "dispatchd-hub"
    assert (hub.stat().st_uid, hub.stat().st_mode & 0o077) == (777, 0)
