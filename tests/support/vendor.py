"""Programs of a vendor, as docs/vendor.md has them, in processes of their own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define
from typing_extensions import override

from support.cli import Done
from support.daemon_process import DaemonProcess

PAGE = Path(__file__).parents[2] / "docs" / "vendor.md"
NAME = "acme-agent"


def write_programs(folder: Path) -> None:
    """Write the files of the page, and the console script that an installer makes of its table."""
    text = PAGE.read_text()
    files = re.findall(
        r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    assert len(files) == 2
    for name, content in files:
        (folder / name).write_text(content)
    module, function = re.findall(rf'^{NAME} = "(\w+):(\w+)"$', text, re.MULTILINE)[0]
    script = folder / NAME
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\n"
        f"sys.exit({function}())\n"
    )
    script.chmod(0o755)


def _environment(folder: Path, env: dict[str, str]) -> dict[str, str]:
    """Return the environment of a program of a user whose home is empty."""
    gone = ("XDG_CONFIG_HOME", "XDG_STATE_HOME")
    inherited = {name: text for name, text in os.environ.items() if name not in gone}
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**inherited, "HOME": str(folder / "home"), "PYTHONPATH": path, **env}


def acme(folder: Path, *arguments: str, **env: str) -> Done:
    """Run a command of the vendor's program."""
    return subprocess.run(
        [str(folder / NAME), *arguments],
        cwd=folder,
        env=_environment(folder, env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@define(kw_only=True)
class VendorProcess(DaemonProcess):
    """A program that runs until a signal, in the folder of its configuration; its log goes to a file."""

    command: tuple[str, ...]

    @override
    def start(self) -> None:
        folder = self.config.parent
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env=_environment(folder, dict(self.env)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@contextmanager
def running(config: Path, *command: str, **options: Any) -> Iterator[VendorProcess]:
    """Run a program for the length of a block; it is killed at the end, and its log shown on failure."""
    program = VendorProcess(config=config, command=command, **options)
    program.start()
    try:
        yield program
    except BaseException:
        print(program.log_file.read_text())
        raise
    finally:
        program.process.kill()
        program.process.wait()
