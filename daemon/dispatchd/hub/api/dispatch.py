"""Calls about a job that a machine has: accept, finish, heartbeat, release (contracts/README.md)."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Final

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.auth.hashing import hashed
from dispatchd.hub.context import Context
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.decisions import rules as decisions
from dispatchd.hub.domain.json_shortener import Shortener
from dispatchd.hub.domain.model import ENDED, HubJob
from dispatchd.hub.domain.reported import (
    result_of,
    standing_of,
    with_whole_characters,
    without_excess,
)
from dispatchd.hub.http_bodies import FINISH, KIB, MIB, Limits, Refused, read_proven
from dispatchd.protocol.job import Json
from dispatchd.protocol.report import MOST_ANNOTATIONS

_PATH: Final = "/api/v1/github/dispatch"
_LONGEST_REASON: Final = 48 * KIB
"""Length that contains 4,000 characters, however they are escaped (bytes)."""
_OF_FINISH: Final = Limits(
    most=FINISH,
    shortener=partial(
        Shortener,
        longest=512 * KIB,
        longest_inside=_LONGEST_REASON,
        most_items=MOST_ANNOTATIONS,
    ),
    texts=16 * MIB,
    trim=without_excess,
)
"""Limits of a finish. 512 KiB contain all that is stored of any text, and of all outputs, however they are escaped;
16 MiB contain all texts."""
_WITH_REASON: Final = Limits(
    shortener=partial(
        Shortener,
        longest=_LONGEST_REASON,
        longest_inside=_LONGEST_REASON,
        most_items=MOST_ANNOTATIONS,
    ),
    trim=with_whole_characters,
)
"""Limits of calls with a reason."""


@frozen
class Dispatch:
    """Routes on which machines report jobs."""

    context: Context

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        calls = {
            "accept": self.accept,
            "finish": self.finish,
            "heartbeat": self.heartbeat,
            "release": self.release,
        }
        return [
            Route(f"{_PATH}/{{job_id:job}}/{name}", call, methods=["POST"])
            for name, call in calls.items()
        ]

    async def accept(self, request: Request) -> Response:
        """Confirm that a job is the machine's, or end it if its cancellation was requested before it began.

        Raises:
            Refused: The job has ended.
        """
        body = await read_proven(request, "accept-request", Limits(), self._prove)
        run_id, now = str(body["dag_run_id"]), self.context.now()
        lease_until = now + self.context.settings.leases.seconds
        job = await self._change(
            request,
            body,
            lambda job, claim: claim_rules.accept(
                job, claim, run_id=run_id, now=now, lease_until=lease_until
            ),
        )
        if job.state in ENDED:
            raise Refused(HTTPStatus.GONE, f"the job has ended as {job.state}")
        if claim_rules.wants_end(job):
            return JSONResponse({"cancel_requested": True})
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def finish(self, request: Request) -> Response:
        """Store the outcome of a job."""
        body = await read_proven(request, "finish-request", _OF_FINISH, self._prove)
        result = await self.context.use(lambda: result_of(body))
        now = self.context.now()
        await self._change(
            request,
            body,
            lambda job, claim: claim_rules.finish(job, claim, result=result, now=now),
        )
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def heartbeat(self, request: Request) -> Response:
        """Extend a lease; return whether the run is to be cancelled, and a person's decision about a parked job."""
        body = await read_proven(
            request, "heartbeat-request", _WITH_REASON, self._prove
        )
        standing = standing_of(body)
        lease_s, now = self.context.settings.leases.seconds, self.context.now()

        def beat(job: HubJob, claim: Claim) -> HubJob:
            beaten = claim_rules.beat(
                job, claim, standing=standing, lease_until=now + lease_s
            )
            beaten = claim_rules.note_phase(beaten, now=now)
            beaten = decisions.note_stay(job, beaten, now=now)
            return decisions.note_sent(beaten, standing, now=now)

        job = await self._change(request, body, beat)
        reply: dict[str, Json] = {
            "lease_seconds": lease_s,
            "cancel_requested": claim_rules.wants_end(job),
        }
        if decision := decisions.answer(job, standing):
            reply["resolve"] = {
                "parked": decision.parked,
                "as": decision.choice,
                "note": decision.note,
                "by": decision.by,
            }
        if await self.context.use(
            lambda: self.context.logs.is_watched(job.id, now=self.context.now())
        ):
            reply["watching"] = True
        return JSONResponse(reply)

    async def release(self, request: Request) -> Response:
        """Release a job that hasn't started."""
        body = await read_proven(request, "release-request", _WITH_REASON, self._prove)
        now = self.context.now()
        await self._change(
            request, body, lambda job, claim: claim_rules.release(job, claim, now=now)
        )
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _change(
        self,
        request: Request,
        body: dict[str, Json],
        decide: Callable[[HubJob, Claim], HubJob],
    ) -> HubJob:
        job_id = request.path_params["job_id"]
        token_hash = hashed(body.get("claim_token"))

        def change() -> tuple[HubJob, HubJob] | None:
            machine = self.context.holder(body)
            claim = Claim(machine=machine.server_id, token_hash=token_hash)
            return self.context.stores.jobs.change(
                job_id, lambda job: decide(job, claim)
            )

        changed = await self.context.write(change)
        if changed is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such job")
        before, after = changed
        if after.state is not before.state:
            self.context.waiting.notify(after)
        elif _reported(after) != _reported(before):
            self.context.waiting.watchers.notify(after.id)
            self.context.waiting.changed.notify()
        return after

    async def _prove(self, credentials: dict[str, Json]) -> None:
        await self.context.use(lambda: self.context.holder(credentials))


def _reported(job: HubJob) -> tuple[str, ...]:
    """Return the parts of a job that its machine may change without changing its state."""
    return job.phase, job.reason, job.progress, job.parked
