"""A machine with one workflow, one secret, and a look at what its runs were given."""

from pathlib import Path

from support.daemon import DaemonLog, write_config


def configure(tmp_path: Path, url: str, script: str, options: str) -> Path:
    """Write a configuration whose workflow runs a script, with lines of TOML for its table."""
    file = write_config(
        tmp_path / "machine",
        url,
        {"it": ["/bin/sh", "-c", script]},
        # Tests may run as root, whom no sandbox holds.
        limits=f"forks_without_isolation = true\n{options}",
        runs="retry_wait_s = 0.1",
    )
    file.write_text(file.read_text() + '\n[secrets.key]\nenv = "KEY_OF_THE_DAEMON"\n')
    return file


def environment(daemon: DaemonLog, number: int = 1) -> dict[str, str]:
    """Return the environment that a run has printed with env."""
    file = daemon.state / f"runs/j/attempt-{number}/output.log"
    lines = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
