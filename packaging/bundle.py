"""The bundle: one archive that installs dispatchd on a machine without network and compiler, by pip from wheels."""

import hashlib
import platform
import shutil
import sys
from pathlib import Path
from typing import Final

from commands import commit_time, packed, run

FILES: Final = Path(__file__).with_name("bundle_files")

PYTHON: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"
GLIBC: Final = "2.28"
"""The oldest glibc that wheels are taken for: Debian 10, RHEL 8, Ubuntu 18.10."""

_NAMES: Final = ("manylinux2014", "manylinux2010", "manylinux1")
"""Names of wheels for the glibc of 2.17, 2.12 and 2.5 before PEP 600."""


def kind() -> str:
    """Return what a bundle is for, as a file's name says it."""
    return f"cp{PYTHON.replace('.', '')}-linux_{platform.machine()}"


def download(requirements: Path, wheels: Path) -> None:
    """Put the wheels of locked requirements into a folder: those for this Python, and for any glibc that isn't too old."""
    numbered = [f"manylinux_2_{minor}" for minor in range(28, 4, -1)]
    machine = platform.machine()
    platforms = [
        argument
        for name in (*numbered, *_NAMES)
        for argument in ("--platform", f"{name}_{machine}")
    ]
    pip = (sys.executable, "-m", "pip", "download", "--quiet")
    only = ("--disable-pip-version-check", "--only-binary=:all:", "--no-deps")
    this = ("--implementation", "cp", "--python-version", PYTHON)
    into = ("--require-hashes", "--requirement", requirements, "--dest", wheels)
    run(*pip, *only, *this, *platforms, *into)


def requirement(project: str, version: str, wheel: Path, extras: str = "") -> str:
    """Return the line that names a wheel with its hash."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{project}{extras}=={version} --hash=sha256:{digest}\n"


def build(archive: Path, version: str, wheels: Path, parts: dict[str, Path]) -> None:
    """Build the bundle from the wheels of a release, dispatchd's own among them.

    Args:
        archive: The archive to write; without its suffix it is the name of the folder in it.
        version: The release.
        wheels: Folder with a wheel of each package.
        parts: Further files, by their names in the bundle; `requirements.txt` locks the wheels.
    """
    folder = archive.parent / "bundle" / archive.name.removesuffix(".tar.gz")
    folder.mkdir(parents=True)
    shutil.copytree(wheels, folder / "wheels")
    for name, file in parts.items():
        shutil.copyfile(file, folder / name)
    locked = hashlib.sha256(parts["requirements.txt"].read_bytes()).hexdigest()
    values = {
        "VERSION": version,
        "RELEASE": f"{version}-{locked[:12]}",
        "PYTHON": PYTHON,
        "MACHINE": platform.machine(),
        "GLIBC": GLIBC,
    }
    for file in sorted(FILES.iterdir()):
        text = file.read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        (folder / file.name).write_text(text)
        (folder / file.name).chmod(file.stat().st_mode)
    packed(folder, archive, commit_time())
    shutil.rmtree(folder.parent)
