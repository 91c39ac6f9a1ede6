"""The control socket against its description in `contracts/`: the same calls, and the answers that it names."""

import json
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from dispatchd.agent.control.client import stream
from dispatchd.errors import UsageError
from dispatchd.protocol.contracts import check
from dispatchd.protocol.job import Json
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

OPENAPI: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "contracts" / "control.openapi.json").read_text()
)


async def test_every_call_of_the_description_exists(tmp_path: Path) -> None:
    """The server names what it takes for a known path, and knows no other."""
    missing = []
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            for path, operations in OPENAPI["paths"].items():
                try:
                    await call(daemon, "PATCH", path.replace("{job}", "x"))
                except UsageError as error:
                    words = str(error)
                    missing += [m for m in operations if m.upper() not in words]
                    assert "not PATCH" in words

    assert missing == []


async def test_status_jobs_and_job_keep_their_contracts(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "a/1", "dag_name": "it", "claim_token": "secret-token"})
            await daemon.until_logged("job_finish_acknowledged")
            status = await call(daemon, "GET", "/v1/status")
            jobs = await call(daemon, "GET", "/v1/jobs?past=5")
            like = await call(daemon, "GET", "/v1/jobs?like=a%2F")
            none = await call(daemon, "GET", "/v1/jobs?past=0")
            job = await call(daemon, "GET", "/v1/jobs/a%2F1")

    check("control-status", status)
    check("tracked-job", job)
    assert jobs == like == {"jobs": [job]}
    assert none == {"jobs": []}
    assert "secret-token" not in json.dumps([status, jobs, job])


async def test_events_come_as_they_happen_and_keep_their_contract(
    tmp_path: Path,
) -> None:
    events: list[Any] = []
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:

            def follow() -> None:
                for event in stream(daemon.state, "/v1/events", cannot="follow"):
                    events.append(event)
                    if isinstance(event, dict) and event["phase"] == "history":
                        return

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(to_thread.run_sync, follow)
                # A stream that has begun knows of no earlier event: hand out until one is seen.
                number = 0
                while not events:
                    number += 1
                    hub.hand_out({"id": f"job-{number}", "dag_name": "it"})
                    await hub.until_finished(f"job-{number}")

    for event in events:
        check("control-event", event)
    assert events[-1]["event"] == "finish_acknowledged"
    assert events[-1]["outcome"] == "succeeded"


async def test_a_drain_is_followed_to_its_end(tmp_path: Path) -> None:
    lines: list[Json] = []
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"]}, cloud="hold_s = 1"
        )
        async with running_daemon(config) as daemon:
            answer = await call(daemon, "POST", "/v1/drain", {"deadline_s": 60})

            def follow() -> None:
                lines.extend(stream(daemon.state, "/v1/drain", cannot="follow"))

            await to_thread.run_sync(follow)

    assert answer["mode"] == "draining"
    assert answer["until"] is not None
    assert lines[-1] == {"mode": "draining", "left": 0}
