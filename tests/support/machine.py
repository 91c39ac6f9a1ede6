"""A machine that speaks the dispatch protocol by hand, one call at a time, over real HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import httpx
from attrs import define, field, frozen

from dispatchd.protocol.contracts import check
from dispatchd.protocol.extensions import OF_MACHINES
from support.endpoint import SECRET
from support.hub import Hub
from support.until import until

PATH = "/api/v1/github/dispatch"
JOBS = "/api/v1/jobs"

ME = {"license_id": "lic-test", "server_id": "m1"}
PROOF = {**ME, "secret": SECRET, "heartbeat_secret": SECRET}
"""Who a machine says that it is, in each call, and what proves it."""


def encoded(job_id: str) -> str:
    """Return an id as one segment of a path; dots too, which clients take for folders."""
    return quote(job_id, safe="").replace(".", "%2E")


@frozen(kw_only=True)
class Machine:
    """Credentials, and the calls that they allow."""

    http: httpx.AsyncClient
    name: str = "m1"
    license_id: str = "lic-test"
    secret: str = SECRET
    workflows: list[str] | None = None
    extensions: tuple[str, ...] | None = OF_MACHINES
    """What it names in its pulls; None for a client of the first protocol, which has no such field."""

    said: dict[str, Any] | None = None
    """What it says about itself in its pulls; None for a machine of an earlier release."""

    async def ask(self, *, wait: str = "") -> httpx.Response:
        """Pull, and return whatever is answered."""
        return await self.http.post(
            f"{PATH}/pull",
            json={
                **self._identity,
                "heartbeat_secret": self.secret,
                **({} if self.workflows is None else {"workflows": self.workflows}),
                **({} if self.extensions is None else {"extensions": self.extensions}),
                **({} if self.said is None else {"machine": self.said}),
            },
            headers={"prefer": f"wait={wait}"} if wait else {},
        )

    async def pull(self, *, wait: str = "") -> "Held":
        """Pull a job that must come."""
        reply = await self.ask(wait=wait)
        assert reply.status_code == 200, (reply.status_code, reply.text)
        job = reply.json()
        check("dispatch-job", job)
        return Held(machine=self, job=job, text=reply.text)

    @property
    def _identity(self) -> dict[str, str]:
        return {"license_id": self.license_id, "server_id": self.name}

    async def call(self, name: str, job_id: str, **fields: Any) -> httpx.Response:
        """Make one of the calls about a job."""
        return await self.http.post(
            f"{PATH}/{encoded(job_id)}/{name}",
            json={**self._identity, "secret": self.secret, **fields},
        )


@frozen(kw_only=True)
class Held:
    """A job in a machine's hands; `text` is the exact reply that brought it."""

    machine: Machine
    job: dict[str, Any]
    text: str

    @property
    def id(self) -> str:
        job_id: str = self.job["id"]
        return job_id

    @property
    def token(self) -> str:
        token: str = self.job["claim_token"]
        return token

    async def accept(self, run_id: str = "") -> httpx.Response:
        return await self._call("accept", dag_run_id=run_id or self.id)

    async def finish(
        self, status: str = "succeeded", summary: str = "Done."
    ) -> httpx.Response:
        return await self._call("finish", result_status=status, result_summary=summary)

    async def beat(self, phase: str = "running", **fields: Any) -> httpx.Response:
        return await self._call("heartbeat", phase=phase, **fields)

    async def release(self) -> httpx.Response:
        return await self._call("release", reason="stopping")

    async def _call(self, name: str, **fields: Any) -> httpx.Response:
        claim = {"claim_token": self.token} if "claim_token" in self.job else {}
        return await self.machine.call(name, self.id, **claim, **fields)


@define
class HeldPoll:
    """A poll that is waiting at the hub; `reply` is there once it has ended, at the end of the block at the latest."""

    reply: httpx.Response = field(init=False)
    has_ended: bool = field(default=False, init=False)

    async def run(self, machine: Machine, wait: str) -> None:
        self.reply = await machine.ask(wait=wait)
        self.has_ended = True


@asynccontextmanager
async def held_poll(machine: Machine, wait: str = "60") -> AsyncIterator[HeldPoll]:
    """Hold a poll for the length of a block, which has to bring about its answer."""
    poll = HeldPoll()
    before = await _held_polls(machine.http)

    async def is_held() -> bool:
        return await _held_polls(machine.http) > before

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poll.run, machine, wait)
        await until(is_held)
        yield poll


async def _held_polls(http: httpx.AsyncClient) -> float:
    """Return how many polls a hub holds (count)."""
    text = (await http.get("/metrics")).text
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("dispatchd_hub_held_polls ")
    ]
    return float(line.split()[1])


async def row(server: Hub, job_id: str) -> dict[str, Any]:
    """Return what the hub shows of a job."""
    reply = await server.http.get(f"{JOBS}/{encoded(job_id)}")
    job: dict[str, Any] = reply.json()
    return job


def refuses(reply: httpx.Response, status: int) -> str:
    """Return the message of a refusal, which always has one."""
    assert reply.status_code == status, (reply.status_code, reply.text)
    message: str = reply.json()["message"]
    assert message
    return message
