"""The bundle: it installs without a network, and an upgrade is whole or not there."""

import ensurepip
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from attrs import frozen

import bundle
from commands import packed
from support.release import bare_environment, built, fence
from support.until import until

pytestmark = [pytest.mark.release, pytest.mark.timeout(600)]

LONGEST_S = 60
"""From the archive to the end of the first jobs (seconds of work, as others may use the machine too)."""

OFFLINE = """
ip -o link show up | grep -q . && exit 3
mount -t tmpfs none /opt
COMMANDS
ip link set lo up
/opt/dispatchd/bin/dispatchd demo
cat /proc/net/snmp /proc/net/snmp6
"""


@frozen
class Bundle:
    """An unpacked bundle whose dispatchd is a stub that prints its version and waits if told to."""

    folder: Path
    release: str

    def install(
        self, prefix: Path, *more: str, wrapper: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(prefix, *more, wrapper=wrapper),
            env=bare_environment(prefix.parent),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def command(
        self, prefix: Path, *more: str, wrapper: tuple[str, ...] = ()
    ) -> list[str]:
        # The Python that has just loaded the bundle's builder, as that one was built for it.
        options = ("--prefix", str(prefix), "--python", sys.executable)
        return [*wrapper, str(self.folder / "install"), *options, *more]


def stub(folder: Path, version: str) -> Bundle:
    """Build a bundle by the release's own builder, from a wheel of one module."""
    folder.mkdir()
    wheels = folder / "wheels"
    wheels.mkdir()
    [pip] = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(pip, wheels)
    wheel = wheels / f"dispatchd-{version}-py3-none-any.whl"
    about = f"dispatchd-{version}.dist-info"
    code = f"import sys, time\ndef main():\n    print('{version}', flush=True)\n    'wait' in sys.argv and time.sleep(600)\n"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("dispatchd.py", code)
        named = f"Metadata-Version: 2.1\nName: dispatchd\nVersion: {version}\n"
        file.writestr(f"{about}/METADATA", named)
        kind = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        file.writestr(f"{about}/WHEEL", kind)
        script = "[console_scripts]\ndispatchd = dispatchd:main\n"
        file.writestr(f"{about}/entry_points.txt", script)
        file.writestr(f"{about}/RECORD", "")
    locked = folder / "requirements.txt"
    locked.write_text(bundle.requirement("dispatchd", version, wheel))
    archive = folder / f"dispatchd-{version}.tar.gz"
    bundle.build(archive, version, wheels, {"requirements.txt": locked})
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    shutil.rmtree(wheels)
    unpacked = folder / f"dispatchd-{version}"
    [line] = [
        line
        for line in (unpacked / "install").read_text().splitlines()
        if line.startswith("release_name=")
    ]
    return Bundle(unpacked, line.split("'")[1])


def worked_s() -> float:
    """Return how long the processes that have ended were at work (seconds)."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def version_of(prefix: Path) -> str:
    program = (prefix / "bin/dispatchd", "--version")
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def releases(prefix: Path) -> set[str]:
    return {each.name for each in (prefix / "releases").iterdir()}


def counters(text: str) -> dict[str, int]:
    """Return the counters in /proc/net/snmp and snmp6, by name."""
    found: dict[str, int] = {}
    heads: dict[str, list[str]] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(":")
        if rest and kind in heads:
            values = zip(heads[kind], map(int, rest.split()), strict=True)
            found |= {f"{kind}{name}": value for name, value in values}
        elif rest:
            heads[kind] = rest.split()
        elif line.startswith(("Ip6", "Udp6")):
            name, value = line.split()
            found[name] = int(value)
    return found


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, unshare"
)
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (Debian: iproute2)")
def test_root_installs_it_without_a_network_and_runs_the_first_jobs(
    tmp_path: Path,
) -> None:
    archive = built("*-bundle-*.tar.gz")
    python = Path(f"/usr/bin/python{bundle.PYTHON}")
    if not python.exists():
        pytest.skip(f"the machine has no {python}, for which the bundle was built")

    before = worked_s()
    shutil.copy(archive, tmp_path)
    commands = OFFLINE.replace("COMMANDS", fence("The bundle: without a network"))
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-euc", commands],
        cwd=tmp_path,
        env=bare_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    took_s = worked_s() - before

    assert done.returncode == 0, done
    assert "installed dispatchd" in done.stdout
    assert "8 jobs, each started at most once and reported." in done.stdout
    assert "  no  " not in done.stdout
    sent = counters("Ip: " + done.stdout.partition("Ip: ")[2])
    # Over loopback, which is the namespace's only interface; a packet to elsewhere has no route.
    assert sent["IpOutRequests"] > 0
    left = ("IpOutNoRoutes", "UdpOutDatagrams", "Ip6OutNoRoutes", "Udp6OutDatagrams")
    assert [sent[name] for name in left] == [0, 0, 0, 0]
    assert took_s < LONGEST_S


def test_an_upgrade_keeps_what_runs_and_the_release_before(tmp_path: Path) -> None:
    first, second, third = (stub(tmp_path / v, v) for v in ("1", "2", "3"))
    prefix = tmp_path / "a folder/dispatchd"
    assert first.install(prefix).returncode == 0
    with subprocess.Popen(
        [prefix / "bin/dispatchd", "wait"], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "1\n"
        assert second.install(prefix).returncode == 0
        said = third.install(prefix)
        with_a_process = releases(prefix)
        running.kill()
    again = third.install(prefix)
    back = second.install(prefix)

    assert "systemctl restart dispatchd" in said.stdout
    assert with_a_process == {first.release, second.release, third.release}
    assert "already" in again.stdout
    assert (back.returncode, version_of(prefix)) == (0, "2")
    # Nothing runs from the first one now.
    assert releases(prefix) == {second.release, third.release}


async def test_an_install_that_is_killed_leaves_the_release_before_and_is_repeated(
    tmp_path: Path,
) -> None:
    first, second = (stub(tmp_path / v, v) for v in ("1", "2"))
    prefix = tmp_path / "prefix"
    assert first.install(prefix).returncode == 0
    held = second.folder / "held"
    os.mkfifo(held)
    # Pip reads its requirements from a pipe that nobody writes to, and so it is killed at work.
    (second.folder / "requirements.txt").rename(second.folder / "kept")
    (second.folder / "requirements.txt").symlink_to(held)
    with subprocess.Popen(
        second.command(prefix),
        env=bare_environment(tmp_path),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        await until(lambda: second.release in releases(prefix), 60)
        other = second.install(prefix)
        os.killpg(process.pid, signal.SIGKILL)
    before = version_of(prefix)
    (second.folder / "kept").replace(second.folder / "requirements.txt")
    after = second.install(prefix)

    assert (other.returncode, before) == (75, "1")
    assert (after.returncode, version_of(prefix)) == (0, "2")


def test_every_user_may_read_what_root_installs_with_a_narrow_umask(
    tmp_path: Path,
) -> None:
    unpacked, prefix = stub(tmp_path / "1", "1"), tmp_path / "prefix"

    done = unpacked.install(prefix, wrapper=("sh", "-c", 'umask 077; "$@"', "sh"))

    assert done.returncode == 0, done
    modes = {path: path.stat().st_mode for path in prefix.rglob("*")}
    assert not [path for path, mode in modes.items() if not mode & 0o004]


def test_a_wheel_that_was_changed_is_refused(tmp_path: Path) -> None:
    first, second = (stub(tmp_path / v, v) for v in ("1", "2"))
    prefix = tmp_path / "prefix"
    assert first.install(prefix).returncode == 0
    with next((second.folder / "wheels").glob("dispatchd-*")).open("ab") as file:
        file.write(b"x")

    refused = second.install(prefix)

    assert refused.returncode == 70
    assert "HASHES" in refused.stderr
    assert version_of(prefix) == "1"


OLD = "#!/bin/sh\necho 3.9 cpython x86_64 2.36\n"

REFUSALS = {
    "--no": (64, "there is no option --no; see ./install --help"),
    "--prefix": (64, "--prefix needs a value"),
    "--python=/bin/false": (69, "name one with --python"),
    "--python=OLD": (69, "old is 3.9 cpython x86_64 2.36;"),
    "--prefix=OTHER": (73, "has another installation in it"),
    "--prefix=/proc/no": (73, "choose a folder with --prefix"),
}


@pytest.mark.parametrize("option", REFUSALS)
def test_a_refusal_says_what_to_do_and_installs_nothing(
    tmp_path: Path, option: str
) -> None:
    unpacked, other = stub(tmp_path / "1", "1"), tmp_path / "other"
    old = tmp_path / "old"
    old.write_text(OLD)
    old.chmod(0o755)
    (other / "bin").mkdir(parents=True)
    code, message = REFUSALS[option]
    option = option.replace("OLD", str(old)).replace("OTHER", str(other))

    done = unpacked.install(tmp_path / "prefix", option)

    assert (done.returncode, message in done.stderr) == (code, True), done
    assert done.stderr.splitlines()[-1].startswith("install: ")
    assert not list(tmp_path.glob("*/releases/*"))


def test_help_names_what_the_bundle_is_for(tmp_path: Path) -> None:
    unpacked = stub(tmp_path / "1", "1")

    done = unpacked.install(tmp_path / "prefix", "--help")

    assert done.returncode == 0
    assert f"CPython {bundle.PYTHON} on" in " ".join(done.stdout.split())


def test_an_archive_depends_on_nothing_but_names_contents_and_modes(
    tmp_path: Path,
) -> None:
    made = []
    for name, umask in (("a", 0o077), ("b", 0o002)):
        folder = tmp_path / name / "it"
        before = os.umask(umask)
        for file in ("second", "first") if name == "a" else ("first", "second"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(file)
            os.utime(folder / file, (umask, umask))
        os.umask(before)
        packed(folder, tmp_path / f"{name}.tar.gz", 1_700_000_000)
        made.append((tmp_path / f"{name}.tar.gz").read_bytes())

    assert made[0] == made[1]
