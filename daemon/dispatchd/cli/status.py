"""`dispatchd status`: what the daemon is doing, from the file that it keeps up to date."""

import json
from pathlib import Path
from typing import Any

import click

from dispatchd.cli.options import (
    config_option,
    json_option,
    load_config,
    print_json,
    print_pairs,
)
from dispatchd.config import Config
from dispatchd.errors import NotReachable


@click.command()
@config_option
@json_option
def status(config_file: Path | None, *, as_json: bool) -> None:
    """Say what the daemon is doing, and what the endpoint has shown that it can."""
    config = load_config(config_file)
    found = _last_word(config)
    if as_json:
        print_json(found)
        return
    print_pairs(
        {
            "daemon": f"pid {found['pid']}, version {found['version']}"
            if found["running"]
            else "not running; this is its last word",
            "endpoint": found["endpoint"],
            "held polls": {
                None: "not seen yet",
                True: "yes",
                False: "no, polled at intervals",
            }[found["long_poll"]],
            "extensions": ", ".join(found["extensions"]) or "none seen",
            "clock": found.get("clock_skew") or "",
            "last pull": found["last_pull_at"] or "never",
            "last report": found["last_report_at"] or "never",
            **{f"{name} loop": doing for name, doing in found["loops"].items()},
            "jobs": ", ".join(
                f"{count} {phase}" for phase, count in found["jobs"].items() if count
            )
            or "none",
        }
    )


def _last_word(config: Config) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(
            (config.state_folder / "status.json").read_text()
        )
    except FileNotFoundError as error:
        reason = f"no daemon has run on {config.state_folder} yet; start one with `dispatchd run`"
        raise NotReachable(
            cannot="say what the daemon is doing", reason=reason
        ) from error
    alive = Path(f"/proc/{found['pid']}").exists() and _is_holder(
        config.state_folder, found["pid"]
    )
    return {"running": alive, **found}


def _is_holder(folder: Path, pid: int) -> bool:
    try:
        return (folder / "lock").read_text().strip() == str(pid)
    except OSError:
        return False
