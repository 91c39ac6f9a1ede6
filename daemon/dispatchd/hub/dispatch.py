"""The dispatch calls: pull, accept, finish, heartbeat, release (contracts/README.md)."""

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Final

import anyio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.domain.job import Json
from dispatchd.hub import rules
from dispatchd.hub.desk import THREAD_BYTES, Desk, hash_token, read_body, seconds
from dispatchd.hub.rules import Claim, Refused
from dispatchd.hub.storage import Claimed, HubJob, Result, Standing

_PATH: Final = "/api/v1/github/dispatch"
_LONGEST_HOLD_S: Final = 300.0
_LONGEST_OUTPUT: Final = 20_000
"""What is kept of a reported output (characters): the 16,000 of the contract and its first line."""
_EXTENSIONS: Final = ("heartbeat", "release")
_PREFER_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+)", re.IGNORECASE)


@frozen
class Dispatch:
    """The routes by which machines get and report jobs."""

    desk: Desk

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        calls = {
            "accept": self.accept,
            "finish": self.finish,
            "heartbeat": self.heartbeat,
            "release": self.release,
        }
        return [
            Route(f"{_PATH}/pull", self.pull, methods=["POST"]),
            *(
                Route(f"{_PATH}/{{job_id:job}}/{name}", call, methods=["POST"])
                for name, call in calls.items()
            ),
        ]

    async def pull(self, request: Request) -> Response:
        """Hand out the next job, waiting for one as long as the machine prefers."""
        body = await read_body(request, "pull-request")
        machine = self.desk.authenticate(body, "heartbeat_secret")
        wait = _PREFER_WAIT.search(request.headers.get("prefer", ""))
        hold_s = seconds(wait.group(1), _LONGEST_HOLD_S) if wait else 0.0
        headers = {"Preference-Applied": f"wait={hold_s:g}"} if wait else {}
        token = token_urlsafe(24)
        claim = Claim(machine=machine, token_hash=hash_token(token))
        claimed = await self._claim_within(hold_s, claim, request)
        if claimed is None:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        return Response(
            await self._handed_out(claimed, token),
            media_type="application/json",
            headers=headers,
        )

    async def accept(self, request: Request) -> Response:
        """Confirm that a job is the machine's."""
        body = await read_body(request, "accept-request")
        run_id, now = str(body["dag_run_id"]), self.desk.now()
        lease_until = now + self.desk.lease_s
        await self._change(
            request,
            body,
            lambda job, claim: rules.accept(
                job, claim, run_id=run_id, now=now, lease_until=lease_until
            ),
        )
        self.desk.changed.ring()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def finish(self, request: Request) -> Response:
        """Take the outcome of a job."""
        body = await read_body(request, "finish-request")
        now = self.desk.now()
        result = Result(
            status=str(body["result_status"]),
            summary=_text(body, "result_summary"),
            cause=_text(body, "result_cause"),
            output=_text(body, "result_output")[:_LONGEST_OUTPUT],
        )
        await self._change(
            request,
            body,
            lambda job, claim: rules.finish(job, claim, result=result, now=now),
        )
        self.desk.changed.ring()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def heartbeat(self, request: Request) -> Response:
        """Extend a lease, and say whether somebody wants the run to end."""
        body = await read_body(request, "heartbeat-request")
        progress = body.get("progress")
        standing = Standing(
            phase=str(body["phase"]),
            reason=_text(body, "reason"),
            progress=json.dumps(progress) if progress else "",
        )
        lease_until = self.desk.now() + self.desk.lease_s
        job = await self._change(
            request,
            body,
            lambda job, claim: rules.beat(
                job, claim, standing=standing, lease_until=lease_until
            ),
        )
        return JSONResponse(
            {
                "lease_seconds": self.desk.lease_s,
                "cancel_requested": job.cancel_requested,
            }
        )

    async def release(self, request: Request) -> Response:
        """Take an unstarted job back."""
        body = await read_body(request, "release-request")
        await self._change(request, body, rules.release)
        self.desk.queued.ring()
        self.desk.changed.ring()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _change(
        self,
        request: Request,
        body: dict[str, Json],
        decide: Callable[[HubJob, Claim], HubJob],
    ) -> HubJob:
        machine = self.desk.authenticate(body, "secret")
        claim = Claim(machine=machine, token_hash=hash_token(body.get("claim_token")))
        job_id = request.path_params["job_id"]
        changed = await self.desk.use(
            lambda: self.desk.storage.change(job_id, lambda job: decide(job, claim))
        )
        if changed is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such job")
        return changed

    async def _claim_within(
        self, hold_s: float, claim: Claim, request: Request
    ) -> Claimed | None:
        deadline = anyio.current_time() + hold_s
        while True:
            bell = self.desk.queued.next
            if self.desk.stopping or await request.is_disconnected():
                return None
            found = await self.desk.use(lambda: self._look(claim))
            if isinstance(found, Claimed):
                return await self._unless_gone(found, claim, request)
            left_s = deadline - anyio.current_time()
            if left_s <= 0:
                return None
            with anyio.move_on_after(min(left_s, found)):
                await bell.wait()

    def _look(self, claim: Claim) -> Claimed | float:
        """Return the next job, or for how long there is none unless a bell rings (seconds)."""
        storage, now = self.desk.storage, self.desk.now()
        claimed = storage.claim(
            claim.machine, claim.token_hash, now=now, lease_s=self.desk.lease_s
        )
        if claimed is not None:
            return claimed
        expiry = storage.next_expiry()
        # A claim that nobody accepts comes back by itself, without a bell.
        return _LONGEST_HOLD_S if expiry is None else max(0.01, expiry - now)

    async def _unless_gone(
        self, claimed: Claimed, claim: Claim, request: Request
    ) -> Claimed | None:
        """Return the claim, or take it back where its machine has hung up meanwhile."""
        if not await request.is_disconnected():
            return claimed
        await self.desk.use(
            lambda: self.desk.storage.change(
                claimed.job.id, lambda job: rules.take_back(job, claim)
            )
        )
        self.desk.queued.ring()
        return None

    async def _handed_out(self, claimed: Claimed, token: str) -> bytes:
        size = len(claimed.payload) + len(claimed.headers)
        if size < THREAD_BYTES:
            return self._written(claimed, token)
        return await self.desk.use(lambda: self._written(claimed, token))

    def _written(self, claimed: Claimed, token: str) -> bytes:
        job = claimed.job
        added = {
            "id": job.id,
            "status": job.state,
            "claimed_by": job.machine,
            "license_id": self.desk.license_id,
            "claim_token": token,
            "lease_seconds": self.desk.lease_s,
            "extensions": _EXTENSIONS,
        }
        head = json.dumps({**job.document, **added})
        # The exact texts that were submitted, not what they mean to a JSON library.
        texts = f'"payload": {claimed.payload}, "headers": {claimed.headers}'
        return f"{head[:-1]}, {texts}}}".encode()


def _text(body: dict[str, Json], name: str) -> str:
    return str(body.get(name) or "")
