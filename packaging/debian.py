"""The Debian package: the program in an environment of its own in /usr/lib/dispatchd, with units, man page and examples."""

import gzip
import hashlib
import os
import shutil
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

import bundle
from commands import ROOT, commit_time, run

FILES: Final = Path(__file__).with_name("debian_files")
SCRIPTS: Final = ("prerm", "postinst", "postrm")

PYTHON: Final = f"python{bundle.PYTHON}"
"""Program and package of the Python that the wheels are for."""

HOME: Final = "usr/lib/dispatchd"
"""Folder of the program in the package."""

PROGRAM: Final = f"""\
#!/{HOME}/bin/python
import sys

from dispatchd.__main__ import main

sys.exit(main())
"""


def is_possible() -> bool:
    """Return whether this machine has what builds a package."""
    return shutil.which("dpkg-deb") is not None


def build(folder: Path, version: str, wheels: Path, locked: Path) -> None:
    """Build the package from wheels and their locked versions; the release's other files are in `folder` already."""
    architecture = run("dpkg", "--print-architecture").strip()
    root = folder / "debian"
    program(root, wheels, locked)
    surroundings(root, version, next(folder.glob("*-licenses.txt")))
    control(root, version, architecture)
    file = folder / f"dispatchd_{version}-1_{architecture}.deb"
    # With one thread, as the division among several is in the compressed file.
    options = ("--root-owner-group", "-Zxz", "-z1", "--threads-max=1")
    run("dpkg-deb", *options, "--build", root, file)
    shutil.rmtree(root)


def program(root: Path, wheels: Path, locked: Path) -> None:
    """Put the program and what it needs into the package's tree, as a virtual environment has it."""
    home = root / HOME
    packages = home / "lib" / PYTHON / "site-packages"
    into = ("uv", "pip", "install", "--quiet", "--python", sys.executable)
    offline = ("--offline", "--no-index", "--find-links", wheels, "--link-mode=copy")
    run(*into, "--target", packages, *offline, "--require-hashes", "-r", locked)
    # Programs of the packages, and what names the place where the package was built.
    shutil.rmtree(packages / "bin")
    for name in ("RECORD", "INSTALLER", "REQUESTED", "uv_cache.json"):
        for file in packages.glob(f"*.dist-info/{name}"):
            file.unlink()
    (packages / ".lock").unlink(missing_ok=True)
    put(home / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    put(home / "bin" / "dispatchd", PROGRAM, 0o755)
    (home / "bin" / "python").symlink_to(f"../../../bin/{PYTHON}")
    (root / "usr" / "bin").mkdir()
    (root / "usr" / "bin" / "dispatchd").symlink_to("../lib/dispatchd/bin/dispatchd")


def surroundings(root: Path, version: str, licenses: Path) -> None:
    """Put units, configuration, man page and documents into the package's tree."""
    for unit in (ROOT / "systemd").glob("*.service"):
        text = unit.read_text().replace("/opt/dispatchd/bin/", "/usr/bin/")
        text = text.replace("README.md beside this file", "/usr/share/doc/dispatchd")
        put(root / "usr/lib/systemd/system" / unit.name, text)
    for kind in ("sysusers.d", "tmpfiles.d"):
        text = (ROOT / "systemd" / kind / "dispatchd.conf").read_text()
        put(root / "usr/lib" / kind / "dispatchd.conf", text)
    put(root / "etc/dispatchd/config.toml", (FILES / "config.toml").read_text())
    overrides = (FILES / "lintian-overrides").read_text()
    put(root / "usr/share/lintian/overrides/dispatchd", overrides)

    documents = root / "usr/share/doc/dispatchd"
    examples = documents / "examples"
    shutil.copytree(ROOT / "systemd/dispatchd.service.d", examples)
    for name in ("config.example.toml", "docs/monitoring/alerts.yml"):
        shutil.copy(ROOT / name, examples)
    compressed(root / "usr/share/man/man1/dispatchd.1", ROOT / "docs/dispatchd.1")
    compressed(documents / "changelog", ROOT / "CHANGELOG.md")
    own = documents / "own-changelog"
    date = format_datetime(datetime.fromtimestamp(commit_time(), UTC))
    entry = "  * The release of that number; its changes are in changelog.gz."
    head = f"dispatchd ({version}-1) unstable; urgency=medium"
    put(own, f"{head}\n\n{entry}\n\n -- {maintainer()}  {date}\n")
    compressed(documents / "changelog.Debian", own)
    own.unlink()
    packages = licenses.read_text()
    license_text = (ROOT / "LICENSE").read_text()
    about = (FILES / "copyright").read_text().replace("@PACKAGES@\n", packages)
    put(documents / "copyright", f"{license_text}\n{about}")


def control(root: Path, version: str, architecture: str) -> None:
    """Write what dpkg wants to know, and give every file the mode and the time of a package."""
    for path in root.rglob("*"):
        if not path.is_symlink():
            # No file of a package of Python has to be executable, whatever its wheel says.
            executable = path.is_dir() or path == root / HOME / "bin" / "dispatchd"
            path.chmod(0o755 if executable else 0o644)
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    sums = [
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
        if not path.is_symlink() and path.relative_to(root).parts[0] != "etc"
    ]
    size = sum(path.lstat().st_size for path in files)
    values = {
        "VERSION": f"{version}-1",
        "ARCHITECTURE": architecture,
        "MAINTAINER": maintainer(),
        "KIB": str(size // 1024),
        "GLIBC": bundle.GLIBC,
        "PYTHON": PYTHON,
    }
    about = root / "DEBIAN"
    for name in ("control", *SCRIPTS):
        text = (FILES / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        put(about / name, text, 0o755 if name in SCRIPTS else 0o644)
    put(about / "md5sums", "".join(sums))
    put(about / "conffiles", "/etc/dispatchd/config.toml\n")
    made = commit_time()
    for path in (*root.rglob("*"), root):
        os.utime(path, (made, made), follow_symlinks=False)


def maintainer() -> str:
    """Return who made the commit that is built."""
    return run("git", "-C", ROOT, "log", "-1", "--format=%an <%ae>").strip()


def put(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of the package."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def compressed(file: Path, source: Path) -> None:
    """Write a compressed copy, with `.gz` to its name, that depends on the contents alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = gzip.compress(source.read_bytes(), 9, mtime=0)
    file.with_name(f"{file.name}.gz").write_bytes(content)
