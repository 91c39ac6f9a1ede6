"""Route `POST /webhooks/github`: events are checked, stored, and only then answered.

An event that was answered with a success is durable, and GitHub never sends it again. If it can't be made durable,
the answer is 503, so that GitHub shows a failed delivery, which can be sent again (GitHub docs, Best practices for
using webhooks).
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from hashlib import sha256
from http import HTTPStatus
from typing import Final, Self
from urllib.parse import parse_qsl

import anyio
from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.errors import ContractViolation
from dispatchd.hub.auth.webhook_signature import IN_MEMORY, SignedBody
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.config.secret_files import read_secret
from dispatchd.hub.connections.places import Places
from dispatchd.hub.context import Context
from dispatchd.hub.github.event import clean, read_event
from dispatchd.hub.github.ingest.inbox import Arrival, Inbox, Taken
from dispatchd.hub.github.routing.route import Plan, route
from dispatchd.hub.http_bodies import MIB, Refused
from dispatchd.protocol.json_text import loads
from dispatchd.protocol.times import duration

LARGEST_PAYLOAD: Final = 25 * MIB
"""Largest payload that GitHub sends (bytes; GitHub docs, Webhook events and payloads)."""

_READ_S: Final = 30.0
"""Time limit of a body (seconds): no GitHub waits longer for an answer (GitHub docs, Handling failed deliveries)."""

_LARGEST_FORM: Final = 3 * LARGEST_PAYLOAD + 16
"""Largest form (bytes): it encodes a byte with up to three."""

_MOST_COMING: Final = 256
"""Most bodies that may be coming in at the same time (count)."""

_MOST_LARGE_COMING: Final = 32
"""Most of them that may be on disk (count): strangers must not fill it."""

_SIGNATURE: Final = re.compile(r"sha256=([0-9a-f]{64})")
"""Form of X-Hub-Signature-256 (GitHub docs, Validating webhook deliveries)."""

_LARGE_AT_ONCE: Final = 4
"""Most large signed bodies in memory at the same time (count); others wait."""

_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_NOT_KEPT: Final = ("x-hub-signature", "x-hub-signature-256")
"""Headers with signatures, which a job doesn't get."""


@frozen(kw_only=True)
class _Call:
    """Headers of a webhook."""

    event: str
    delivery: str
    target: str
    signature: str
    headers: str


@define
class Webhook:
    """Route on which GitHub delivers events."""

    context: Context
    settings: GithubSettings
    secrets: Sequence[bytes] = field(repr=False)
    """Secrets; a signature by any of them is valid."""
    _coming: Places = field(factory=lambda: Places(_MOST_COMING), init=False)
    _large_coming: Places = field(
        factory=lambda: Places(_MOST_LARGE_COMING), init=False
    )
    _large: anyio.Semaphore = field(
        factory=lambda: anyio.Semaphore(_LARGE_AT_ONCE), init=False
    )

    @classmethod
    def of(cls, context: Context, settings: GithubSettings) -> Self:
        """Return the route of a hub, with the secrets that its configuration names. Blocks.

        Raises:
            ConfigError: One can't be read.
        """
        secrets = [
            read_secret(
                file,
                config_file=context.settings.file,
                key=f"github.webhook_secret_files[{index}]",
            )
            for index, file in enumerate(settings.webhook_secret_files)
        ]
        return cls(context, settings, [secret.encode() for secret in secrets])

    def routes(self) -> list[Route]:
        """Return the routes, for the application; none without a secret, as in a hub that polls."""
        if not self.secrets:
            return []
        return [Route("/webhooks/github", self.receive, methods=["POST"])]

    async def receive(self, request: Request) -> Response:
        """Receive an event.

        Raises:
            Refused: It isn't one of GitHub's, or can't be read.
        """
        try:
            return await self._receive(request)
        except Refused as refused:
            self.context.refusals.note(
                "webhook_refused",
                request,
                status=int(refused.status),
                reason=refused.message,
                delivery=request.headers.get("x-github-delivery", ""),
                github_event=request.headers.get("x-github-event", ""),
            )
            raise

    async def _receive(self, request: Request) -> Response:
        """Receive an event.

        Raises:
            Refused: It isn't one of GitHub's, or can't be read.
        """
        call = _call(request, self.settings)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (_JSON, _FORM):
            message = f"the body must be {_JSON} or {_FORM}"
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        signature = _SIGNATURE.fullmatch(call.signature)
        if signature is None:
            message = "X-Hub-Signature-256 is missing, or not sha256= and 64 hex digits"
            raise Refused(HTTPStatus.UNAUTHORIZED, message)
        body = await self._received(request, kind)
        with closing(body):
            if not body.is_signed([bytes.fromhex(signature[1])]):
                message = "X-Hub-Signature-256 doesn't fit the body and the secret"
                raise Refused(HTTPStatus.UNAUTHORIZED, message)
            taken = await self._taken(call, body, kind)
        if taken.replay_of:
            self.context.refusals.note(
                "webhook_replayed",
                request,
                delivery=call.delivery,
                first=taken.replay_of,
            )
        for job in taken.jobs:
            self.context.waiting.notify(job)
        return _answer(taken)

    async def _received(self, request: Request, kind: str) -> SignedBody:
        most = LARGEST_PAYLOAD if kind == _JSON else _LARGEST_FORM
        with anyio.move_on_after(_READ_S) as scope, ExitStack() as places:
            places.enter_context(self._coming.one(scope))

            def grown() -> None:
                places.enter_context(self._large_coming.one(scope))

            try:
                return await SignedBody.receive(request, most, self.secrets, grown)
            except OSError as error:
                message = f"the body can't be kept ({error.strerror})"
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message) from error
        message = (
            f"the body took more than {duration(_READ_S)}, or was the slowest of many"
        )
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, message)

    async def _taken(self, call: _Call, body: SignedBody, kind: str) -> Taken:
        if body.size <= IN_MEMORY:
            arrival = _arrival(call, body.read(), kind)
            plan = self._plan(arrival)
            return await self.context.use(
                lambda: Inbox(self.context).take(arrival, plan, by_hook=True)
            )

        def take() -> Taken:
            arrival = _arrival(call, body.read(), kind)
            return Inbox(self.context).take(arrival, self._plan(arrival), by_hook=True)

        async with self._large:
            return await self.context.use(take)

    def _plan(self, arrival: Arrival) -> Plan:
        if self.settings.is_app and arrival.target != self.settings.target:
            reason = f"the hook {arrival.target} isn't that of the hub's App"
            return Plan(reason=reason)
        return route(arrival.event, self.settings)


def _call(request: Request, settings: GithubSettings) -> _Call:
    """Return the headers of a webhook.

    Raises:
        Refused: A required header is missing.
    """
    headers = request.headers
    for name in ("X-GitHub-Delivery", "X-GitHub-Event"):
        if not headers.get(name, "").strip():
            message = f"the header {name} is missing"
            raise Refused(HTTPStatus.BAD_REQUEST, message)
    ours = settings.target if settings.is_app else ""
    kind = headers.get("x-github-hook-installation-target-type", "")
    target = headers.get("x-github-hook-installation-target-id", "")
    return _Call(
        event=clean(headers["x-github-event"].strip()),
        delivery=clean(headers["x-github-delivery"].strip()),
        # An old GitHub Enterprise Server doesn't send these headers; polling takes its events for the App's.
        target=clean(f"{kind}/{target}") if kind or target else ours,
        signature=headers.get("x-hub-signature-256", ""),
        headers=kept_headers(headers),
    )


def kept_headers(headers: Mapping[str, str]) -> str:
    """Return the headers of an event that its job gets, as a JSON object; never a signature."""
    return json.dumps(
        {
            name.lower(): value
            for name, value in headers.items()
            if name.lower().startswith(("x-github-", "content-type", "user-agent"))
            and name.lower() not in _NOT_KEPT
        }
    )


def _arrival(call: _Call, body: bytes, kind: str) -> Arrival:
    """Return the event in a body that GitHub has signed.

    Raises:
        Refused: The body has no valid event.
    """
    try:
        text = body.decode()
        if kind == _FORM:
            text = dict(parse_qsl(text, strict_parsing=True)).get("payload", "")
        payload = loads(text)
    except (ContractViolation, ValueError) as error:
        message = f"the payload is not JSON in UTF-8 ({type(error).__name__})"
        raise Refused(HTTPStatus.BAD_REQUEST, message) from error
    return Arrival(
        target=call.target,
        id=call.delivery,
        event=read_event(call.event, payload),
        payload=text.removeprefix("\ufeff"),
        headers=call.headers,
        payload_hash=sha256(text.encode(errors="replace")).hexdigest(),
    )


def _answer(taken: Taken) -> Response:
    if taken.is_duplicate:
        return JSONResponse({"message": "duplicate"}, status_code=HTTPStatus.OK)
    delivery = taken.delivery
    answer = {
        "message": delivery.state,
        "reason": delivery.routing,
        "jobs": list(delivery.job_ids),
    }
    return JSONResponse(answer, status_code=HTTPStatus.ACCEPTED)
