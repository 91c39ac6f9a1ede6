"""Build a release into dist/: wheel, sdist, locked requirements, SBOM, licenses, and the checksums of them all.

Run it by `make dist`. Everything is built twice, and nothing is kept if the two differ. No file names an index or an address to
download from: `pip install --require-hashes` finds the packages wherever the site has them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
EXTRAS: Final = ("hub", "otel")
"""The extras that a user may install."""


def main() -> int:
    """Return 0, or 1 after a line that says what differs between two builds."""
    target = ROOT / "dist"
    os.environ.update(index_of_pip())
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        for folder in (first, second):
            build(Path(folder))
        built = sorted(file.name for file in Path(first).iterdir())
        for name in built:
            if Path(first, name).read_bytes() != Path(second, name).read_bytes():
                print(f"two builds of {name} differ", file=sys.stderr)
                return 1
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(first, target)
    print(*(f"dist/{name}" for name in built), sep="\n")
    return 0


def build(folder: Path) -> None:
    """Build every file of a release into an empty folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stem = f"{project['name']}-{project['version']}"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": commit_time()}
    package = (
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder,
        ROOT,
    )
    run(*package, env=environment)

    requirements = folder / f"{stem}-requirements.txt"
    extras = [argument for extra in EXTRAS for argument in ("--extra", extra)]
    lock = ("uv", "pip", "compile", "pyproject.toml", *extras, "--generate-hashes")
    plain = ("--no-annotate", "--no-header", "--no-emit-index-url", "--quiet")
    # One file for every platform and each Python that the project supports.
    everywhere = ("--universal", "--python-version", "3.11")
    run(*lock, *plain, *everywhere, "--output-file", requirements)

    with installed(requirements, next(folder.glob("*.whl"))) as python:
        scan = ("cyclonedx-py", "environment", "--pyproject", "pyproject.toml")
        same = ("--output-reproducible", "--short-PURLs")
        bom = json.loads(run(*scan, *same, python, env=environment))
    for component in (*bom["components"], *bom["metadata"]["tools"]["components"]):
        component.pop("externalReferences", None)
    text = json.dumps(bom, indent=2, sort_keys=True)
    (folder / f"{stem}-sbom.cdx.json").write_text(text + "\n")
    lines = [
        f"{each['name']} {each['version']}: {licenses(each)}"
        for each in bom["components"]
    ]
    (folder / f"{stem}-licenses.txt").write_text("\n".join(sorted(lines)) + "\n")

    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}"
        for file in sorted(folder.iterdir())
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


@contextmanager
def installed(requirements: Path, wheel: Path) -> Iterator[Path]:
    """Install a wheel and what it needs, by hash, into an environment of its own; yield its Python."""
    with TemporaryDirectory() as folder:
        run("uv", "venv", "--quiet", "--python", sys.executable, folder)
        python = Path(folder, "bin", "python")
        into = ("uv", "pip", "install", "--quiet", "--python", python)
        run(*into, "--require-hashes", "--requirements", requirements)
        run(*into, "--no-deps", wheel)
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


def index_of_pip() -> dict[str, str]:
    """Return the variable that leads uv to the index that pip uses; uv doesn't read pip's configuration."""
    configured = (sys.executable, "-m", "pip", "config", "get", "global.index-url")
    found = subprocess.run(configured, capture_output=True, text=True, check=False)
    index = os.environ.get("PIP_INDEX_URL") or found.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index else {}


def commit_time() -> str:
    """Return when the commit that is built was made (seconds since the epoch)."""
    return run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command in the project's folder, and return what it prints. Ends the build if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
