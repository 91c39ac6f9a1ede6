"""The trial's ways to act on the endpoint's other side: submit a job, restart it, revoke the machine."""

import json
import os
import subprocess
from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

import anyio
import httpx
from anyio import to_thread
from attrs import field, frozen

from dispatchd.errors import NotReachable
from dispatchd.protocol.job import Json

_MOST_REPLY: Final = 64 << 10


class Submits(Protocol):
    """Queues the trial's own jobs."""

    async def submit(self, job: Mapping[str, Json]) -> None:
        """Queue a job for the machine of the trial.

        Raises:
            NotReachable: It can't be queued.
        """
        ...


class Acts(Protocol):
    """Does one thing to the endpoint."""

    async def act(self) -> None:
        """Do it, and return when it is done.

        Raises:
            NotReachable: It failed.
        """
        ...


@frozen(kw_only=True)
class Hooks:
    """The ways that a trial has; None for a way that it lacks."""

    submits: Submits
    restart: Acts | None = None
    revoke: Acts | None = None


@frozen(kw_only=True)
class Command:
    """A command of the user's, by a shell. Its output is not shown: it may hold secrets."""

    name: str
    line: str
    environment: Mapping[str, str] = field(repr=False)
    within_s: float = 60.0

    async def act(self) -> None:
        """Run it without input."""
        await self.run("")

    async def submit(self, job: Mapping[str, Json]) -> None:
        """Run it with a job as JSON in its input."""
        await self.run(json.dumps(job))

    async def run(self, text: str) -> None:
        """Run it to its end.

        Raises:
            NotReachable: It failed, or took too long.
        """
        problem = await to_thread.run_sync(partial(self._problem, text))
        if problem:
            raise NotReachable(cannot=f"run {self.name}", reason=problem)

    def _problem(self, text: str) -> str:
        """Run it, and return why it failed; empty if it did not. Blocks."""
        process = subprocess.Popen(  # noqa: S602  # the user's own command
            self.line,
            shell=True,
            stdin=subprocess.PIPE,
            # A service that it starts would keep a pipe open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(self.environment),
            start_new_session=True,
        )
        try:
            process.communicate(text.encode(), timeout=self.within_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return f"it was not done within {self.within_s:g} s"
        code = process.returncode
        return f"it ended with exit code {code}" if code else ""


@frozen(kw_only=True)
class SubmitCall:
    """The submit call of a hub: POST /api/v1/jobs with a token."""

    http: httpx.AsyncClient
    token: str = field(repr=False)
    within_s: float

    async def submit(self, job: Mapping[str, Json]) -> None:
        """Submit a job.

        Raises:
            NotReachable: The answer is not 201.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            with anyio.fail_after(self.within_s):
                status = await self._status(job, headers)
        except TimeoutError:
            reason = f"no answer within {self.within_s:g} s"
            raise NotReachable(cannot="submit a job", reason=reason) from None
        except (httpx.HTTPError, OSError) as error:
            reason = f"no answer: {type(error).__name__}"
            raise NotReachable(cannot="submit a job", reason=reason) from error
        if status != httpx.codes.CREATED:
            reason = f"POST /api/v1/jobs was answered with {status} in place of 201"
            raise NotReachable(cannot="submit a job", reason=reason)

    async def _status(self, job: Mapping[str, Json], headers: Mapping[str, str]) -> int:
        async with self.http.stream(
            "POST", "/api/v1/jobs", json=job, headers=headers
        ) as response:
            read = 0
            async for part in response.aiter_raw():
                read += len(part)
                if read > _MOST_REPLY:
                    break
            return response.status_code
