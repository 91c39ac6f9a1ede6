"""Submitting and watching jobs. In the development form the loopback address is what protects these."""

import json
from http import HTTPStatus
from typing import Final
from uuid import uuid4

import anyio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.domain.job import Json
from dispatchd.hub import rules
from dispatchd.hub.desk import TEXTS, Desk, read_members, seconds
from dispatchd.hub.rules import Refused
from dispatchd.hub.storage import HubJob, State, Submission

_LARGEST_JOB: Final = 32 * 1024 * 1024 - 16 * 1024
"""Largest job that is taken (bytes): what a machine reads, less what a pull adds to it; contracts/README.md, limits."""
_LONGEST_WATCH_S: Final = 300.0
_LONGEST_LIST: Final = 1000


@frozen
class Jobs:
    """The routes by which people and programs put jobs in and see what becomes of them."""

    desk: Desk

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/api/v1/jobs", self.submit, methods=["POST"]),
            Route("/api/v1/jobs", self.list, methods=["GET"]),
            Route("/api/v1/jobs/{job_id:job}", self.show, methods=["GET"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Queue a job; it is durable when the answer is 201.

        Raises:
            Refused: The id is taken, or the job is larger than what a machine reads.
        """
        found = await read_members(request, "submit-request")
        document = {
            name: member.value for name, member in found.items() if name not in TEXTS
        }
        job_id = str(document.get("id") or uuid4())
        texts = {name: found[name].text if name in found else "null" for name in TEXTS}
        submission = Submission(id=job_id, document={**document, "id": job_id}, **texts)
        if not await self.desk.use(lambda: self._keep(submission)):
            raise Refused(HTTPStatus.CONFLICT, f"there is already a job {job_id}")
        self.desk.queued.ring()
        self.desk.changed.ring()
        return JSONResponse({"id": job_id}, status_code=HTTPStatus.CREATED)

    async def list(self, request: Request) -> Response:
        """Return the newest jobs, oldest of them first."""
        state = request.query_params.get("state", "")
        limit = int(seconds(request.query_params.get("limit", "100"), _LONGEST_LIST))
        jobs = await self.desk.use(lambda: self.desk.storage.list(state, limit))
        # Without their outputs, which may be 16 kB each.
        return JSONResponse({"jobs": [self._view(job) for job in jobs]})

    async def show(self, request: Request) -> Response:
        """Return one job; with `wait` (seconds), once it has reached the state `until` or that time is over.

        Raises:
            Refused: There is no such job.
        """
        job_id = request.path_params["job_id"]
        until = request.query_params.get("until", State.FINISHED)
        deadline = anyio.current_time() + seconds(
            request.query_params.get("wait"), _LONGEST_WATCH_S
        )
        while True:
            bell = self.desk.changed.next
            job = await self.desk.use(lambda: self.desk.storage.get(job_id))
            if job is None:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
            left_s = deadline - anyio.current_time()
            if (
                job.state in (State.FINISHED, until)
                or left_s <= 0
                or self.desk.stopping
            ):
                output = job.result_output
                return JSONResponse({**self._view(job), "result_output": output})
            with anyio.move_on_after(left_s):
                await bell.wait()

    def _keep(self, submission: Submission) -> bool:
        head = json.dumps(submission.document)
        texts = (head, submission.payload, submission.headers)
        if sum(len(text.encode()) for text in texts) > _LARGEST_JOB:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "the job is larger than the 32 MiB that a machine reads",
            )
        storage, now = self.desk.storage, self.desk.now()
        if not rules.is_cancel(submission.document):
            return storage.submit(submission, now=now)
        return storage.submit(
            submission,
            now=now,
            also=lambda job: rules.after_cancel(submission.document, job, now=now),
        )

    def _view(self, job: HubJob) -> dict[str, Json]:
        held = job.state in (State.CLAIMED, State.ACCEPTED)
        expired = held and job.lease_until < self.desk.now()
        return {
            **job.document,
            "state": job.state.value,
            "machine": job.machine,
            "run_id": job.run_id,
            "phase": job.phase,
            "reason": job.reason,
            "progress": json.loads(job.progress or "null"),
            "cancel_requested": job.cancel_requested,
            "lease_expired": expired,
            "result_status": job.result_status,
            "result_summary": job.result_summary,
            "result_cause": job.result_cause,
            "created_at": job.created_at,
            "claimed_at": job.claimed_at,
            "accepted_at": job.accepted_at,
            "finished_at": job.finished_at,
            "deliveries": job.deliveries,
            "accepts": job.accepts,
            "finishes": job.finishes,
        }
