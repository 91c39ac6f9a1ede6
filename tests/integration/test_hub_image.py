"""The hub's image, built from the bundle on a base without anything, without a network, and run as compose.yaml says."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest

import bundle
from support.release import built
from support.until import until

pytestmark = [
    pytest.mark.release,
    pytest.mark.torture(least_s=90),
    pytest.mark.timeout(900),
]

BASE, IMAGE, HUB = (
    f"localhost/dispatchd-test-{kind}:{os.getpid()}" for kind in ("base", "hub", "run")
)
STATE = "/var/lib/dispatchd-hub"


def podman(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["podman", *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    assert not check or done.returncode == 0, (arguments, done)
    return done.stdout


def base(folder: Path) -> None:
    """Make an image of links into this machine's /usr, which is mounted into what is built on it and run of it."""
    archive = folder / "base.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for name in ("usr", "etc", "var", "tmp", "opt"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    podman("import", "--quiet", str(archive), BASE)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Unpack the bundle and build its image; skip where there is no podman that builds."""
    if shutil.which("podman") is None or os.geteuid() != 0:
        pytest.skip("needs podman, and root for it")
    archive = built("*-bundle-*.tar.gz")
    if not Path(f"/usr/bin/python{bundle.PYTHON}").exists():
        pytest.skip(f"the machine has no /usr/bin/python{bundle.PYTHON}")
    folder = tmp_path_factory.mktemp("image")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    [context] = folder.iterdir()
    conf = folder / "containers.conf"
    # As for the other tests of podman (support/images.py).
    limits = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
    runtime = '[engine]\nruntime = "runc"\n' if shutil.which("runc") else ""
    conf.write_text(limits + runtime)
    with (
        pytest.MonkeyPatch.context() as patched,
        (Path(gettempdir()) / "dispatchd-test-podman.lock").open("w") as lock,
    ):
        patched.setenv("CONTAINERS_CONF", str(conf))
        flock(lock, LOCK_EX)
        base(folder)
        tried = podman(
            *("run", "--rm", "--network=none", "--volume=/usr:/usr:ro", BASE),
            *("/bin/echo", "up"),
            check=False,
        )
        if tried != "up\n":
            pytest.skip("podman runs nothing here")
        try:
            yield context
        finally:
            podman("rmi", "--force", "--ignore", IMAGE, BASE)


def service(unpacked: Path) -> dict[str, Any]:
    yaml: Any = pytest.importorskip("yaml")
    document = yaml.safe_load((unpacked / "compose.yaml").read_text())
    found: dict[str, Any] = document["services"]["hub"]
    return found


async def test_it_is_built_without_a_network_and_serves_as_a_user_without_privileges(
    unpacked: Path,
) -> None:
    podman(
        *("build", "--quiet", "--format=docker", "--layers=false", "--network=none"),
        *("--volume=/usr:/usr:ro", f"--build-arg=BASE={BASE}", f"--tag={IMAGE}"),
        str(unpacked),
    )
    about = json.loads(podman("image", "inspect", IMAGE))[0]["Config"]
    compose = service(unpacked)
    name = f"dispatchd-test-hub-{os.getpid()}"
    # As compose.yaml has it.
    options = [
        "--network=none",
        "--volume=/usr:/usr:ro",
        f"--volume={name}:{STATE}",
        *(["--read-only"] if compose["read_only"] else []),
        *(f"--cap-drop={each}" for each in compose["cap_drop"]),
        *(f"--security-opt={each}" for each in compose["security_opt"]),
    ]
    try:
        listen = ("--listen", "0.0.0.0:8484")
        podman("run", "--rm", *options, IMAGE, "hub", "init", *listen, STATE)
        podman("run", "--detach", f"--name={name}", *options, IMAGE)

        async def healthy() -> bool:
            checked = ["podman", "healthcheck", "run", name]
            return subprocess.run(checked, check=False).returncode == 0

        # A container's health is announced by nothing.
        await until(healthy, 180)
        program = ("exec", name, "/opt/dispatchd/bin/dispatchd", "hub")
        added = json.loads(podman(*program, "machine", "add", "build-1", "--json"))
        who = podman("exec", name, "id", "-u")
        podman("stop", "--time=60", name)
        ended = json.loads(podman("container", "inspect", name))[0]["State"]
        podman("rm", name)
        podman("run", "--detach", f"--name={name}", *options, IMAGE)
        await until(healthy, 180)
        machines = json.loads(podman(*program, "machines", "--json"))
    finally:
        podman("rm", "--force", "--ignore", "--time=0", name, check=False)
        podman("volume", "rm", "--force", name, check=False)

    assert (added["name"], who.strip()) == ("build-1", "10001")
    assert ended["ExitCode"] == 0
    assert [each["name"] for each in machines] == ["build-1"]
    assert about["User"] == "10001:10001"
    assert STATE in about["Volumes"]


def test_there_is_no_registry_in_it(unpacked: Path) -> None:
    lines = (unpacked / "Containerfile").read_text().splitlines()

    assert [line for line in lines if line.startswith(("ARG", "FROM"))] == [
        "ARG BASE",
        "FROM ${BASE}",
    ]
    assert service(unpacked)["build"]["args"] == {"BASE": "${BASE:-}"}
