"""The Debian package under a real systemd: installed, upgraded under live runs, removed, purged."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.endpoint import SECRET, endpoint
from support.nspawn import Machine, booted_with_packages
from support.release import built
from support.until import until

pytestmark = [pytest.mark.release, pytest.mark.timeout(900)]

RUNS = 20
SLOW_S = 600
"""Longest wait for dpkg on a machine that does much else (seconds)."""

SCRIPT = 'while ! [ -e go ]; do sleep 0.2; done; exit "${DISPATCHD_JOB_ID#job-}"'

CONFIG = f"""
[cloud]
url = "URL"
license_id = "lic-test"
server_id = "srv-test"
secret_credential = "machine-secret"
hold_s = 1
[store]
min_free_mib = 0
[runs]
slots = {RUNS}
[workflows.it]
command = ["/bin/sh", "-c", {json.dumps(SCRIPT)}]
"""

OURS = ("/etc/dispatchd", "/var/lib/dispatchd", "/var/cache/dispatchd")


@pytest.fixture(scope="module")
def package() -> Path:
    if shutil.which("dpkg") is None or not Path("/var/lib/dpkg/status").exists():
        pytest.skip("this machine isn't Debian")
    file = built("dispatchd_*.deb")
    needs = subprocess.run(
        ["dpkg-deb", "--field", file, "Depends"], capture_output=True, check=True
    ).stdout.decode()
    python = needs.split("python")[1].split(",")[0].strip()
    if not Path(f"/usr/bin/python{python}").exists():
        pytest.skip(f"this machine has no python{python}, which the package needs")
    return file


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot a machine with the packages of this one, whose own stay as they are."""
    folder = tmp_path_factory.mktemp("machine")
    with booted_with_packages(folder) as found:
        yield found


async def dpkg(machine: Machine, *arguments: str) -> str:
    done = await machine.run("dpkg", *arguments, within_s=SLOW_S)
    return done.stdout + done.stderr


async def put(machine: Machine, path: str, text: str) -> None:
    await machine.run("sh", "-c", 'printf %s "$1" >"$2"', "sh", text, path)


async def bring(machine: Machine, file: Path) -> str:
    """Copy a file into the machine, and return its path there."""
    place = f"/run/{file.name}"
    with file.open("rb") as content:
        subprocess.run(
            ["nsenter", "-t", str(machine.init), "-a", "--", "tee", place],
            stdin=content,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return place


def newer(package: Path, folder: Path) -> Path:
    """Return the same package as a later release."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    text = control.read_text().replace("\nVersion: ", "\nVersion: 1:")
    control.write_text(text)
    file = folder / "newer.deb"
    command = ("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, file)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return file


async def runs_alive(machine: Machine) -> int:
    """Return how many runs have a process, by the file that each waits for."""
    found = await machine.run(
        "pgrep", *("-u", "dispatchd", "-fc", "--", "-e go"), check=False
    )
    return int(found.stdout)


async def test_it_is_installed_upgraded_under_live_runs_removed_and_purged(
    package: Path, machine: Machine, tmp_path: Path
) -> None:
    said = await dpkg(machine, "-i", await bring(machine, package))
    listed = (await machine.run("dpkg", "-L", "dispatchd")).stdout.split("\n")
    shipped = await machine.run("cat", "/etc/dispatchd/config.toml")
    idle = await machine.shown("ActiveState", "UnitFileState")
    async with endpoint() as hub:
        await put(machine, "/etc/credstore/dispatchd.machine-secret", SECRET)
        await put(machine, "/etc/dispatchd/config.toml", CONFIG.replace("URL", hub.url))
        await machine.run("systemctl", "enable", "--now", "dispatchd", within_s=120)
        for number in range(RUNS):
            hub.hand_out({"id": f"job-{number}", "dag_name": "it"})

        async def all_run() -> bool:
            return await runs_alive(machine) >= RUNS

        # Another machine's state: nothing announces it here.
        await until(all_run, 180)
        before = await machine.shown("MainPID")
        later = await bring(machine, newer(package, tmp_path))
        upgraded = await dpkg(machine, "-i", later)
        after = await machine.until({"ActiveState": "active"}, within_s=180)
        alive = await runs_alive(machine)
        half = [f"job-{number}" for number in range(0, RUNS, 2)]
        runs = "/var/lib/dispatchd/runs"
        await machine.run("touch", *(f"{runs}/{each}/workspace/go" for each in half))
        finishes = await hub.until_finished(*half, within_s=180)

        await dpkg(machine, "--remove", "dispatchd")
        removed = await machine.shown("ActiveState")
        left_alive = await runs_alive(machine)
        await machine.run("ls", *OURS, "/etc/credstore/dispatchd.machine-secret")
        await dpkg(machine, "--purge", "dispatchd")
        left = await machine.run(
            *("find", "/etc", "/usr/lib/dispatchd", "/usr/bin", "/usr/share/doc"),
            *("/var/lib", "/var/cache", "/run/dispatchd", "/usr/lib/systemd"),
            *("-name", "*dispatchd*"),
            check=False,
        )
        still = await runs_alive(machine)

    assert "dispatchd" in said
    assert not [each for each in listed if each.startswith(("/opt", "/usr/local"))]
    assert "[workflows.hello]" in shipped.stdout
    assert idle == {"ActiveState": "inactive", "UnitFileState": "disabled"}
    assert "error" not in upgraded.lower()
    assert (alive >= RUNS, after["MainPID"] != before["MainPID"]) == (True, True)
    numbers = [f"exit code {each.partition('-')[2]} " for each in half[1:]]
    summaries = [finish["result_summary"] for finish in finishes]
    assert finishes[0]["result_status"] == "succeeded"
    assert all(
        code in text for code, text in zip(numbers, summaries[1:], strict=True)
    ), summaries
    assert (removed["ActiveState"], left_alive > 0, still) == ("inactive", True, 0)
    assert left.stdout.split() == []


@pytest.mark.skipif(shutil.which("lintian") is None, reason="needs lintian")
@pytest.mark.torture(least_s=60)
def test_lintian_finds_no_error_but_those_that_are_explained(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--fail-on", "error", "--tag-display-limit", "0", package],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )

    assert done.returncode == 0, done.stdout
