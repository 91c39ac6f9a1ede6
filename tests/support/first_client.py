"""A client of the first protocol: its fields and nothing else, its calls in its order, its way to read answers.

As Dagu's GitHub dispatch worker (its `internal/service/scheduler/github_dispatch.go` and `internal/license/client.go`
at commit 1659a181): a pull every 10 s, an accept at once, reports every 10 s; the run has the job's id. It has no
`Prefer`, no claim token, no heartbeat, no release, and reads no more of a job than it knows.
"""

import json
import re
from enum import Enum
from pathlib import Path
from typing import Any, Final

import httpx
from attrs import define, field

from support.endpoint import SECRET
from support.machine import PATH, encoded

RUN_ID: Final = re.compile(r"[-a-zA-Z0-9_]{1,64}")
"""What it takes as the id of a run."""


class Phase(Enum):
    PENDING_ACCEPT = "pending_accept"
    ACCEPTED = "accepted"


class CloudError(Exception):
    """An answer that isn't a success."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"cloud API error (status {status}): {message}")


@define(kw_only=True)
class FirstClient:
    """Keeps what it tracks in a file, so that another one can go on with it."""

    url: str
    folder: Path
    name: str = "m1"
    license_id: str = "lic-test"
    secret: str = SECRET
    http: httpx.AsyncClient
    ran: list[str] = field(factory=list)
    """The runs that it has begun, in order."""

    @property
    def tracked(self) -> dict[str, str]:
        """Return the phase of each job that it tracks."""
        file = self.folder / "tracked.json"
        phases: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        return phases

    def _track(self, job_id: str, phase: Phase | None) -> None:
        known = {k: v for k, v in self.tracked.items() if k != job_id}
        more = {} if phase is None else {job_id: phase.value}
        self.folder.mkdir(exist_ok=True)
        (self.folder / "tracked.json").write_text(json.dumps({**known, **more}))

    async def pull(self) -> str:
        """Pull once, begin the run, accept it; return the job's id, or nothing where there is none."""
        job = await self._post("pull", {"heartbeat_secret": self.secret})
        if job is None:
            return ""
        job_id: str = job["id"]
        if str(job.get("command", "")).lower() == "cancel":
            await self._finish(job_id, "aborted", "is not supported by this worker")
            return job_id
        assert RUN_ID.fullmatch(job_id), job_id
        if job_id not in self.ran:
            self.ran.append(job_id)
        self._track(job_id, Phase.PENDING_ACCEPT)
        await self.accept(job_id)
        return job_id

    async def accept(self, job_id: str) -> None:
        await self._post(
            f"{encoded(job_id)}/accept", {"secret": self.secret, "dag_run_id": job_id}
        )
        self._track(job_id, Phase.ACCEPTED)

    async def report(self, status: str = "succeeded") -> None:
        """Report each run that it tracks, as ended."""
        for job_id, phase in self.tracked.items():
            if phase == Phase.PENDING_ACCEPT.value:
                await self.accept(job_id)
            await self._finish(
                job_id, status, f"Dagu run `it` finished with `{status}`."
            )
            self._track(job_id, None)

    async def finish_again(self, job_id: str, status: str = "succeeded") -> None:
        """Finish a job as a worker does whose tracker has forgotten that it has."""
        await self._finish(job_id, status, f"Dagu run `it` finished with `{status}`.")

    async def _finish(self, job_id: str, status: str, summary: str) -> None:
        fields = {"result_status": status, "result_summary": summary}
        await self._post(f"{encoded(job_id)}/finish", {"secret": self.secret, **fields})

    async def _post(self, call: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Return the object that is answered, or None for a success without a body.

        Raises:
            CloudError: It is no success.
        """
        identity = {"license_id": self.license_id, "server_id": self.name}
        reply = await self.http.post(
            f"{self.url}{PATH}/{call}",
            json={**identity, **fields},
            headers={"user-agent": "dagu-oss/1"},
        )
        if not reply.is_success:
            raise CloudError(reply.status_code, reply.text)
        if reply.status_code == 204 or not reply.content:
            return None
        document: dict[str, Any] = reply.json()
        return document
