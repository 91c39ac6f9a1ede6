"""What is kept of a job goes when the job leaves, whatever became of it."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import attrs

from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.until import in_time, until

JOBS = 40
TELLS = """
for n in 1 2 3; do
  echo '{"type": "follow_up", "text": "more to do"}' >>"$DISPATCHD_EVENTS"
  echo '{"type": "progress", "completed": 1, "in_progress": 1, "total": 9}' >>"$DISPATCHD_EVENTS"
done
printf 'a last line without its end' >>"$DISPATCHD_EVENTS"
while ! [ -e go ]; do sleep 0.02; done
"""
WORKFLOWS = {
    "tells": ["/bin/sh", "-c", TELLS],
    "quick": ["/bin/true"],
    "killed": ["/bin/sh", "-c", "kill -KILL $$"],
}


def job(number: int) -> dict[str, Any]:
    kinds = [*WORKFLOWS, "unknown"]
    return {
        "id": f"kept-{number}",
        "dag_name": kinds[number % len(kinds)],
        "claim_token": f"claim-kept-{number}",
        "lease_seconds": 60,
        "extensions": ["heartbeat", "release"],
        **({"command": "cancel", "dag_run_id": "none"} if number % 7 == 6 else {}),
    }


def containers() -> Iterable[tuple[str, Iterable[object]]]:
    """Yield every dict, set and sequence that an object of dispatchd has in this process, with its name."""
    for each in gc.get_objects():
        kind = type(each)
        if not str(kind.__module__).startswith("dispatchd.") or not attrs.has(kind):
            continue
        for name in (found.name for found in attrs.fields(kind)):
            held = getattr(each, name, None)
            if isinstance(held, Mapping | AbstractSet | Sequence) and not isinstance(
                held, str
            ):
                yield f"{kind.__module__}.{kind.__name__}.{name}", held


def kept() -> set[str]:
    """Return the names of what still holds something under the id, or the claim, of a job."""
    return {
        name
        for name, held in containers()
        if any("kept-" in str(key) for key in held if isinstance(key, str | Path))
    }


def lose_some(request: Request) -> Answer | None:
    lost = request.call == "heartbeat" and request.job_id.endswith("4")
    return as_json({"message": "lost"}, 409) if lost else None


def hand_out_all(hub: Endpoint) -> None:
    for number in range(JOBS):
        hub.hand_out(job(number))
        if number % 9 == 8:
            # Once more, under another claim.
            hub.hand_out({**job(number), "claim_token": "claim-kept-again"})


async def all_have_left(hub: Endpoint, daemon: DaemonHere) -> bool:
    """Let what has beaten go, and return whether every job has left."""
    for folder in (daemon.state / "runs").glob("*/workspace"):
        if hub.calls("heartbeat", folder.parent.name):
            (folder / "go").touch()
    left = (await call(daemon, "GET", "/v1/status"))["jobs"]
    past = len(list((daemon.state / "history").glob("*.json")))
    return not hub.queue and not any(left.values()) and past == JOBS


async def test_nothing_is_kept_of_jobs_that_have_left(tmp_path: Path) -> None:
    async with endpoint() as hub:
        hub.script = lose_some
        config = write_config(
            tmp_path,
            hub.url,
            WORKFLOWS,
            cloud="hold_s = 1",
            runs="slots = 4\nqueue_ahead = 4\nretry_wait_s = 0.1",
            limits="max_retries = 1",
        )
        async with running_daemon(config) as daemon:
            hand_out_all(hub)
            await in_time(lambda: all_have_left(hub, daemon))
            hub.hand_out({"id": "last", "dag_name": "quick"})
            await hub.until_finished("last")
            await until((daemon.state / "history/last.json").exists)
            await advance(1)

            def nothing_kept() -> bool:
                gc.collect()
                return not kept()

            await until(nothing_kept, what=kept)
