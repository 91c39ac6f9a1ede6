"""Routes for the hub's owner: tokens, deliveries, pause and pruning."""

from http import HTTPStatus
from typing import Final

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.api.views import delivery_document, pause_document, token_document
from dispatchd.hub.auth.hashing import hashed, new_secret
from dispatchd.hub.context import Context
from dispatchd.hub.domain.model import Token
from dispatchd.hub.domain.scopes import ADMIN, READ
from dispatchd.hub.extension import Extension
from dispatchd.hub.http_bodies import Refused, limit_of, read_body
from dispatchd.hub.queue.submit import Submissions
from dispatchd.hub.storage.dispatch_rules import Pause
from dispatchd.hub.workers.housekeeping import prune

_LONGEST_LIST: Final = 1000


@frozen
class Admin:
    """Routes for the hub's administration."""

    context: Context
    submissions: Submissions
    extension: Extension

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/api/v1/tokens", self.list_tokens, methods=["GET"]),
            Route("/api/v1/tokens", self.add_token, methods=["POST"]),
            Route(
                "/api/v1/tokens/{name:job}/revoke", self.revoke_token, methods=["POST"]
            ),
            Route("/api/v1/deliveries", self.list_deliveries, methods=["GET"]),
            Route(
                "/api/v1/deliveries/{id:job}/redeliver",
                self.redeliver,
                methods=["POST"],
            ),
            Route("/api/v1/prune", self.prune, methods=["POST"]),
            Route("/api/v1/dispatch", self.dispatch, methods=["GET"]),
            Route("/api/v1/dispatch/pause", self.pause, methods=["POST"]),
            Route("/api/v1/dispatch/resume", self.resume, methods=["POST"]),
        ]

    async def list_tokens(self, request: Request) -> Response:
        """Return every token; secrets are never shown."""
        await self.context.require(request, ADMIN)
        tokens = await self.context.use(self.context.stores.tokens.list)
        return JSONResponse({"tokens": [token_document(token) for token in tokens]})

    async def add_token(self, request: Request) -> Response:
        """Make a token; only this answer contains its secret.

        Raises:
            Refused: The name is taken.
        """
        await self.context.require(request, ADMIN)
        body = await read_body(request, "token-request")
        scopes = body["scopes"]
        scope_names = (
            [str(scope) for scope in scopes] if isinstance(scopes, list) else []
        )
        given = new_secret("token")
        token = Token(
            name=str(body["name"]),
            token_hash=hashed(given),
            scopes=" ".join(sorted(set(scope_names))),
            created_at=self.context.now(),
        )
        if not await self.context.use(lambda: self.context.stores.tokens.add(token)):
            message = f"there is already a token {token.name}"
            raise Refused(HTTPStatus.CONFLICT, message)
        answer = {**token_document(token), "token": given}
        return JSONResponse(answer, status_code=HTTPStatus.CREATED)

    async def revoke_token(self, request: Request) -> Response:
        """Revoke a token.

        Raises:
            LastAdminToken: It is the last one for `admin`.
            Refused: There is no valid token of that name.
        """
        await self.context.require(request, ADMIN)
        name, now = request.path_params["name"], self.context.now()
        if not await self.context.use(
            lambda: self.context.stores.tokens.revoke(name, now=now)
        ):
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no valid token {name}")
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def list_deliveries(self, request: Request) -> Response:
        """Return the newest deliveries, sorted oldest first."""
        await self.context.require(request, READ)
        limit = limit_of(request, "100", _LONGEST_LIST)
        deliveries = await self.context.use_for_list(
            lambda: self.context.stores.deliveries.list(limit)
        )
        return JSONResponse(
            {"deliveries": [delivery_document(delivery) for delivery in deliveries]}
        )

    async def redeliver(self, request: Request) -> Response:
        """Submit the jobs of a delivery again, as new jobs: all or none.

        Raises:
            PayloadGone: The payload of one was removed.
            Refused: There is no such delivery, or its jobs are gone.
        """
        await self.context.require(request, ADMIN)
        delivery_id = request.path_params["id"]
        delivery = await self.context.use(
            lambda: self.context.stores.deliveries.get(delivery_id)
        )
        if delivery is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no delivery {delivery_id}")
        stored_jobs = await self.context.use(
            lambda: [
                self.context.stores.reader.get(job_id) for job_id in delivery.job_ids
            ]
        )
        kept = [job for job in stored_jobs if job is not None]
        # A submission may name the id of an event. If that came without the headers of a hook, both are one delivery.
        jobs = [job for job in kept if job.by_event] or kept
        if not jobs:
            message = "this delivery has no job, or none that is kept any more"
            raise Refused(HTTPStatus.GONE, message)
        again = await self.submissions.redeliver(delivery, jobs)
        made = {"id": again[-1], "ids": again}
        return JSONResponse(made, status_code=HTTPStatus.CREATED)

    async def dispatch(self, request: Request) -> Response:
        """Return whether jobs are dispatched."""
        await self.context.require(request, READ)
        return JSONResponse(
            pause_document(await self.context.use(self.context.stores.pauses.get))
        )

    async def pause(self, request: Request) -> Response:
        """Pause dispatch: only cancel jobs are dispatched until it is resumed."""
        await self.context.require(request, ADMIN)
        body = await read_body(request, "pause-request")
        pause = Pause(since=self.context.now(), reason=str(body.get("reason") or ""))
        await self.context.use(lambda: self.context.stores.pauses.begin(pause))
        return JSONResponse(pause_document(pause))

    async def resume(self, request: Request) -> Response:
        """Resume dispatch."""
        await self.context.require(request, ADMIN)
        await self.context.use(self.context.stores.pauses.end)
        self.context.waiting.wake_all()
        return JSONResponse(pause_document(None))

    async def prune(self, request: Request) -> Response:
        """Remove jobs and deliveries that are older than some days."""
        await self.context.require(request, ADMIN)
        body = await read_body(request, "prune-request")
        days = float(str(body.get("days", self.context.settings.retention.days)))
        removed = await self.context.use(
            lambda: prune(self.context, self.extension, days, now=self.context.now())
        )
        return JSONResponse({"removed": removed})
