"""Build a release into dist/: wheel, sdist, locked requirements, bundle, Debian package, one file, SBOM, licenses, and the checksums of them all.

Run it by `make dist`. Everything is built twice, and nothing is kept if the two differ. No file names an index or an address to
download from: `pip install --require-hashes` finds the packages wherever the site has them.
"""

import hashlib
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import bundle
import debian
import one_file
from commands import ROOT, commit_time, index_of_pip, run

EXTRAS: Final = ("hub", "otel")
"""The extras that a user may install."""

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STEM: Final = f"{PROJECT['name']}-{PROJECT['version']}"


def main() -> int:
    """Return 0, or 1 after a line that says what differs between two builds."""
    target = ROOT / "dist"
    os.environ.update(index_of_pip(), SOURCE_DATE_EPOCH=str(commit_time()))
    with TemporaryDirectory() as top:
        first, second, taken = (Path(top, name) for name in ("1", "2", "taken"))
        take(taken)
        with ThreadPoolExecutor(2) as pool:
            # list() raises what went wrong in one of them.
            list(pool.map(build, (first, second), (taken, taken)))
        built = sorted(file.name for file in first.iterdir())
        # The checksums last, as they differ with any other.
        built.sort(key="SHA256SUMS".__eq__)
        for name in built:
            if (first / name).read_bytes() != (second / name).read_bytes():
                print(f"two builds of {name} differ", file=sys.stderr)
                return 1
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(first, target)
    print(*(f"dist/{name}" for name in built), sep="\n")
    return 0


def take(folder: Path) -> None:
    """Lock what a release needs, and put the wheels of it, and of pip, into a new folder."""
    folder.mkdir()
    (folder / "pip.in").write_text("pip\n")
    extras = [argument for extra in EXTRAS for argument in ("--extra", extra)]
    lock("pyproject.toml", *extras, into=folder / "requirements.txt")
    lock(folder / "pip.in", into=folder / "pip.txt")
    for name in ("requirements.txt", "pip.txt"):
        bundle.download(folder / name, folder / "wheels")


def lock(*sources: str | Path, into: Path) -> None:
    """Lock requirements with hashes, for every platform and each Python that the project supports."""
    plain = ("--no-annotate", "--no-header", "--no-emit-index-url", "--quiet")
    everywhere = ("--universal", "--python-version", PROJECT["requires-python"][2:])
    compiled = ("uv", "pip", "compile", *sources, "--generate-hashes")
    run(*compiled, *plain, *everywhere, "--output-file", into)


def build(folder: Path, taken: Path) -> None:
    """Build every file of a release into a new folder, from the sources and from what was taken."""
    folder.mkdir()
    package = (sys.executable, "-m", "build", "--no-isolation", "--outdir")
    run(*package, folder, ROOT)
    requirements = folder / f"{STEM}-requirements.txt"
    shutil.copyfile(taken / "requirements.txt", requirements)

    with TemporaryDirectory() as inside:
        wheels, locked = Path(inside, "wheels"), Path(inside, "requirements.txt")
        shutil.copytree(taken / "wheels", wheels)
        wheel = Path(shutil.copy(next(folder.glob("*.whl")), wheels))
        extras = f"[{','.join(EXTRAS)}]"
        own = bundle.requirement(PROJECT["name"], PROJECT["version"], wheel, extras)
        pip = (taken / "pip.txt").read_text()
        locked.write_text(requirements.read_text() + pip + own)
        inventory(folder, wheels, locked)
        parts = {
            "requirements.txt": locked,
            "sbom.cdx.json": folder / f"{STEM}-sbom.cdx.json",
            "licenses.txt": folder / f"{STEM}-licenses.txt",
        }
        version = PROJECT["version"]
        archive = folder / f"{STEM}-bundle-{bundle.kind()}.tar.gz"
        bundle.build(archive, version, wheels, parts)
        locked.write_text(requirements.read_text() + own)
        one_file.build(folder / f"{STEM}-{bundle.kind()}.pex", wheels, locked)
        if debian.is_possible():
            debian.build(folder, version, wheels, locked)
        else:
            print("no dpkg-deb here: dist/ has no Debian package")

    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}"
        for file in sorted(folder.iterdir())
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def inventory(folder: Path, wheels: Path, locked: Path) -> None:
    """Write the SBOM and the licenses of what a release consists of."""
    with installed(wheels, locked) as python:
        scan = ("cyclonedx-py", "environment", "--pyproject", "pyproject.toml")
        same = ("--output-reproducible", "--short-PURLs")
        bom = json.loads(run(*scan, *same, python))
    for component in (*bom["components"], *bom["metadata"]["tools"]["components"]):
        component.pop("externalReferences", None)
    text = json.dumps(bom, indent=2, sort_keys=True)
    (folder / f"{STEM}-sbom.cdx.json").write_text(text + "\n")
    lines = [
        f"{each['name']} {each['version']}: {licenses(each)}"
        for each in bom["components"]
    ]
    (folder / f"{STEM}-licenses.txt").write_text("\n".join(sorted(lines)) + "\n")


@contextmanager
def installed(wheels: Path, locked: Path) -> Iterator[Path]:
    """Install wheels, by hash and from nowhere else, into an environment of its own; yield its Python."""
    with TemporaryDirectory() as folder:
        run("uv", "venv", "--quiet", "--python", sys.executable, folder)
        python = Path(folder, "bin", "python")
        into = ("uv", "pip", "install", "--quiet", "--python", python)
        offline = ("--offline", "--no-index", "--find-links", wheels)
        run(*into, *offline, "--require-hashes", "--requirements", locked)
        yield python


def licenses(component: dict[str, Any]) -> str:
    """Return the licenses of a component as its metadata names them: SPDX where it does, else in its own words."""
    entries = component.get("licenses", [])
    spdx = [each.get("expression") or each["license"].get("id") for each in entries]
    words = [
        each["license"]["name"]
        for each in entries
        if "license" in each and "name" in each["license"]
    ]
    named = [each for each in spdx if each] or [each.splitlines()[0] for each in words]
    return ", ".join(dict.fromkeys(named)) or "not named"


if __name__ == "__main__":
    sys.exit(main())
