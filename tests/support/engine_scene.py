"""A daemon whose workflows run on an engine beside its own processes, with its endpoint, and what they have left."""

import json
from pathlib import Path
from typing import Any

from attrs import frozen

from support.daemon_process import DaemonProcess
from support.endpoint import Endpoint
from support.until import until

WAITS = "echo ran >>{folder}/ran; trap 'echo term >>{folder}/term; exit 9' TERM; while ! [ -e {folder}/go ]; do sleep 0.1; done; exit 4"

_TEXTS = (
    *("event_name", "event_action", "delivery_id", "binding_id", "repository_name"),
    *("ref", "sha", "command", "actor_login", "title"),
)
"""Fields of a job that are texts, but its id and its workflow."""

JOB_ID = "$(touch PWNED)`x`'\"--wrap %j"
"""Id of a hostile job."""

LONG = 100_000
"""Length of hostile values that are long (bytes)."""


def hostile_job(folder: Path, length: int = 0) -> dict[str, Any]:
    """Return each field of a job with a value that a shell, or an option, would act on; at least as long as asked for."""
    acts = f"`touch {folder}/PWNED` $(touch {folder}/PWNED) '; touch {folder}/PWNED #\n${{HOME}} --wrap=x"
    value = acts.ljust(length, "x")
    return {
        **dict.fromkeys(_TEXTS, value),
        "payload": {"pull_request": {"title": value, value: value}, "action": value},
        "headers": {"X-GitHub-Event": value, "X-GitHub-Delivery": value},
    }


@frozen
class EngineScene:
    """An endpoint, a daemon, and what its runs have left."""

    folder: Path
    cloud: Endpoint
    daemon: DaemonProcess

    def hand_out(self, job_id: str, workflow: str, **more: Any) -> None:
        self.cloud.hand_out({"id": job_id, "dag_name": workflow, **more})

    async def finished(self, job_id: str) -> dict[str, Any]:
        (end,) = await self.cloud.until_finished(job_id, within_s=180)
        return end

    def go(self) -> None:
        (self.folder / "go").touch()

    @property
    def runs(self) -> int:
        ran = self.folder / "ran"
        return len(ran.read_text().splitlines()) if ran.exists() else 0

    async def until_running(self) -> None:
        await until(lambda: self.runs, 180, "the command")

    def record(self, job_id: str) -> dict[str, Any]:
        path = self.daemon.state / "jobs" / f"{job_id}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    async def until_recorded(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's attempt to have its identity on the engine, and return that."""

        def look() -> dict[str, Any] | None:
            attempts = self.record(job_id).get("attempts", [])
            newest = attempts[-1] if attempts else {}
            return (
                newest.get("batch_job")
                or newest.get("dag_run")
                or newest.get("engine_run")
            )

        found = await until(look, 180, "the record")
        return dict(found or {})


def commands(folder: Path, scripts: dict[str, str]) -> dict[str, list[str]]:
    """Return the commands of workflows that are scripts, in which `{folder}` is the test's."""
    return {
        name: ["/bin/sh", "-c", script.replace("{folder}", str(folder))]
        for name, script in scripts.items()
    }
