"""A way to the hub that spoils one call in ten: each job runs once, and is reported with its real outcome."""

import random
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import pytest

from support.daemon import running_daemon, write_config
from support.front import Cut, Fault, front
from support.hub import HubHere, hub
from support.torture import Torture
from support.until import until

STATUSES: Final = (200, 301, 400, 401, 403, 404, 409, 410, 418, 500, 502, 503)
BODIES: Final = (
    (b"<html>Sign in</html>", "text/html"),
    (b"404 page not found\n", "text/plain"),
    (b"", "text/plain"),
    (b'{"message": "no Route matched with those values"}', "application/json"),
    (b'{"error": "forbidden"}', "application/json"),
    (b"{}", "application/json"),
)
WORKFLOWS: Final = {
    "good": ("exit 0", "succeeded"),
    "bad": ("exit 3", "failed"),
    "killed": ("kill -9 $$", "failed"),
}
WITHIN_A_DURATION = 100
"""How many jobs there are at most where torture has an end (count); 1,000 take 8 minutes."""

MACHINES: Final = ("srv-test", "a")


def fault(draw: random.Random) -> Fault:
    """Return one of the things that can happen to a call."""
    body, kind = draw.choice(BODIES)
    page = Fault(
        page=body,
        status=draw.choice(STATUSES),
        content_type=kind,
        arrives=draw.random() < 0.5,
    )
    return draw.choice(
        (
            page,
            page,
            page,
            Fault(cut=draw.choice([*Cut])),
            Fault(delay_s=draw.random()),
            Fault(sent_twice=True),
            Fault(answered_twice=True),
        )
    )


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize(
    ("count", "lease_s"),
    [(10, 10.0), pytest.param(1_000, 60.0, marks=pytest.mark.torture(least_s=60))],
)
async def test_each_job_runs_once_and_is_reported_as_it_ended(
    tmp_path: Path, count: int, lease_s: float, torture: Torture
) -> None:
    draw = torture.chance("answers on the way")
    if torture.duration_s:
        count = min(count, WITHIN_A_DURATION)
    ledger = tmp_path / "ledger"
    async with AsyncExitStack() as opened:
        server = await opened.enter_async_context(
            # A claim whose delivery was lost is no fault of the job.
            hub(tmp_path / "hub", lease_s=lease_s, most_expiries=1_000)
        )
        way = await opened.enter_async_context(front(server.url))
        way.decide = lambda _: fault(draw) if draw.random() < 0.1 else None
        for name in MACHINES:
            config = write_config(
                tmp_path / name,
                way.url,
                {
                    each: [
                        "/bin/sh",
                        "-c",
                        f'echo "$DISPATCHD_JOB_ID" >>{ledger}; {end}',
                    ]
                    for each, (end, _) in WORKFLOWS.items()
                },
                runs="slots = 8\nqueue_ahead = 8",
                limits="max_retries = 0",
            )
            text = config.read_text().replace(
                'server_id = "srv-test"', f'server_id = "{name}"'
            )
            config.write_text(text)
            await opened.enter_async_context(running_daemon(config))
        jobs = await submitted(server, count, draw)
        ended = await all_ended(server, jobs)

    ran = Counter(ledger.read_text().split())
    assert ran == Counter(jobs.keys())
    assert ended == {each: WORKFLOWS[name][1] for each, name in jobs.items()}
    assert way.faults


async def submitted(server: HubHere, count: int, draw: random.Random) -> dict[str, str]:
    """Submit jobs, straight to the hub; return the workflow of each."""
    names = draw.choices([*WORKFLOWS], k=count)
    jobs = {f"job-{number}": name for number, name in enumerate(names)}
    for job_id, name in jobs.items():
        job = {"id": job_id, "dag_name": name}
        reply = await call(server, "POST", "/api/v1/jobs", json=job)
        # An id that is taken is that of a try whose answer got lost.
        assert reply.status_code in (201, 409), reply.text
    return jobs


async def all_ended(server: HubHere, jobs: dict[str, str]) -> dict[str, str]:
    """Return the state of each job once all have ended."""
    states: dict[str, str] = {}

    async def have() -> bool:
        for each in jobs.keys() - states.keys():
            reply = await call(server, "GET", f"/api/v1/jobs/{each}")
            job: dict[str, Any] = reply.json()
            if not job["ended"]:
                await anyio.sleep(0.2)
                return False
            states[each] = job["state"]
        return True

    await until(have, within_s=120 + 5 * len(jobs), what=states)
    return states


async def call(server: HubHere, method: str, path: str, **more: Any) -> httpx.Response:
    """Return the hub's answer; on a busy machine a connection may have been idle for too long."""
    while True:
        with suppress(httpx.TransportError):
            return await server.http.request(method, path, **more)
