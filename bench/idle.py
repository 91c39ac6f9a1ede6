"""Memory and processor time of an idle daemon, installed as a user would install it."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.agents import tree_cpu_s
from bench.harness import daemon, folder, hub, wait_until, write_config

SETTLE_JOBS: Final = 20
WATCH_S: Final = 20.0
"""Time for which the daemon is watched while nothing happens (seconds)."""


def main() -> None:
    """Print memory and processor time of an idle daemon, beside a bare interpreter with an event loop."""
    with folder() as path, hub(path) as server:
        python = clean_install(path)
        config = write_config(path, server.url, ["/bin/true"])
        with daemon(config, python) as process:
            wait_until((path / "state" / "control.sock").exists)
            for number in range(SETTLE_JOBS):
                server.submit(f"job-{number}")
            for number in range(SETTLE_JOBS):
                server.finished(f"job-{number}")
            before = tree_cpu_s(process.pid)
            time.sleep(WATCH_S)
            used_s, resident = (
                tree_cpu_s(process.pid) - before,
                resident_mib(process.pid),
            )
        bare = bare_mib(python)
    print("idle, with a held poll, after some jobs")
    print(f"  reference: Python with asyncio    {bare:7.1f} MiB")
    print(f"  daemon                            {resident:7.1f} MiB   aim: under 45")
    print(f"  ratio                             {resident / bare:7.2f}")
    print(f"  processor time in {WATCH_S:.0f} s            {used_s * 1e3:7.0f} ms")


def clean_install(path: Path) -> str:
    """Install the project alone into a new environment: other packages change what httpx imports."""
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-m", "venv", str(path / "venv")], check=True)
    python = str(path / "venv" / "bin" / "python")
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            str(root),
        ],
        check=True,
    )
    return python


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process (MiB; VmRSS of proc_pid_status(5)).

    Raises:
        ProcessLookupError: It is gone.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def bare_mib(python: str) -> float:
    """Return the resident memory of an interpreter that has only imported asyncio (MiB)."""
    command = [python, "-c", "import asyncio; print(flush=True); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is not None:
            process.stdout.readline()
        resident = resident_mib(process.pid)
        process.kill()
    return resident


if __name__ == "__main__":
    main()
