"""The least agent that keeps the first promise: `python -m bench.floor_agent URL FOLDER SLOTS PROGRAM`.

Asks for a job, makes it durable, accepts it, starts its program, makes the end durable, reports it. Nothing more:
no retries, cancels, logs, walls or recovery. dispatchd's speed is a ratio of this agent's.
"""

import asyncio  # noqa: TID251  # the floor takes the shortest way
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx

from bench.harness import IDENTITY, SECRET

API: Final = "/api/v1/github/dispatch"
HOLD_S: Final = 50
"""Time for which a pull is held (seconds)."""

CALL_S: Final = 90
WRITERS: Final = 4
"""Threads that write records (count)."""


async def serve(url: str, folder: Path, slots: int, program: str) -> None:
    """Take and run jobs until the process is ended."""
    records, runs = folder / "jobs", folder / "runs"
    records.mkdir(parents=True)
    runs.mkdir()
    free = asyncio.Semaphore(slots)
    writers = ThreadPoolExecutor(WRITERS)

    async def put(job_id: str, record: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(writers, put_durably, records, job_id, record)

    async def run(http: httpx.AsyncClient, job: dict[str, Any]) -> None:
        job_id = str(job["id"])
        claim = {**IDENTITY, "secret": SECRET, "claim_token": job["claim_token"]}
        workspace = runs / job_id
        try:
            await put(job_id, {"job": job, "phase": "received"})
            body = {**claim, "dag_run_id": job_id}
            await call(http, f"{API}/{job_id}/accept", body)
            await put(job_id, {"job": job, "phase": "running"})
            workspace.mkdir()
            with (workspace / "output.log").open("wb") as output:
                process = subprocess.Popen(  # noqa: ASYNC220
                    [program],
                    cwd=workspace,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            status = "succeeded" if await ended(process) == 0 else "failed"
            await put(job_id, {"job": job, "phase": "ended", "status": status})
            body = {**claim, "result_status": status}
            await call(http, f"{API}/{job_id}/finish", body)
            (records / f"{job_id}.json").unlink()
        finally:
            free.release()

    timeout, limits = httpx.Timeout(CALL_S), httpx.Limits(max_connections=6)
    async with (
        httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits) as http,
        asyncio.TaskGroup() as tasks,
    ):
        while True:
            await free.acquire()
            body = {
                **IDENTITY,
                "heartbeat_secret": SECRET,
                "extensions": ["claim", "lease"],
            }
            job = await call(http, f"{API}/pull", body, {"prefer": f"wait={HOLD_S}"})
            if job is None:
                free.release()
            else:
                tasks.create_task(run(http, job))


async def call(
    http: httpx.AsyncClient,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> dict[str, Any] | None:
    """Return the answer to a call; None if it has no content."""
    reply = await http.post(path, json=body, headers=headers)
    reply.raise_for_status()
    answer: dict[str, Any] | None = reply.json() if reply.content else None
    return answer


def put_durably(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Write a record so that it outlives a power cut: file, rename, folder."""
    file, part = f"{folder}/{name}.json", f"{folder}/{name}.part"
    with open(part, "wb") as target:  # noqa: PTH123  # the floor takes the shortest way
        target.write(json.dumps(record).encode())
        target.flush()
        os.fsync(target.fileno())
    os.rename(part, file)  # noqa: PTH104
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a process once it has ended (pidfd_open(2))."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)
    done = loop.create_future()
    loop.add_reader(descriptor, done.set_result, None)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
