"""`POST /webhooks/github`: checked, kept, and only then answered (GitHub docs, Best practices for using webhooks).

What was answered with a success is durable and never comes again. Whatever keeps an event from being durable
is answered with 503, so that GitHub shows a failed delivery, which can be sent once more.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Final, Self
from urllib.parse import parse_qsl

import anyio
from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.domain.raw_json import loads
from dispatchd.errors import ContractViolation
from dispatchd.hub.bodies import read_up_to
from dispatchd.hub.desk import Desk
from dispatchd.hub.github.event import clean, read_event
from dispatchd.hub.github.inbox import Arrival, Inbox, Taken
from dispatchd.hub.github.routing import route
from dispatchd.hub.github.secret_files import read_secret
from dispatchd.hub.github.settings import GithubSettings
from dispatchd.hub.rules import Refused

MIB: Final = 1024 * 1024

LARGEST_PAYLOAD: Final = 25 * MIB
"""Largest payload that GitHub sends (bytes; GitHub docs, Webhook events and payloads)."""

_READ_S: Final = 30.0
"""How long a body may take (seconds): no GitHub waits longer for an answer (GitHub docs, Handling failed deliveries)."""

_LARGEST_FORM: Final = 3 * LARGEST_PAYLOAD + 16
"""A form writes a byte with up to three (bytes)."""

_LARGE: Final = MIB
_LARGE_AT_ONCE: Final = 4
"""How many bodies over 1 MiB are in memory at a time (count); others wait, so that strangers can't fill it."""

_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_NOT_KEPT: Final = ("x-hub-signature", "x-hub-signature-256")
"""Headers that prove something, and are of no use to a job."""


@frozen(kw_only=True)
class _Call:
    """What a webhook says beside its body."""

    event: str
    delivery: str
    target: str
    signature: str
    headers: str


@define
class Webhook:
    """The route by which GitHub tells what has happened."""

    desk: Desk
    settings: GithubSettings
    secrets: Sequence[bytes] = field(repr=False)
    """Each counts."""
    _large: anyio.Semaphore = field(
        factory=lambda: anyio.Semaphore(_LARGE_AT_ONCE), init=False
    )

    @classmethod
    def of(cls, desk: Desk, settings: GithubSettings) -> Self:
        """Return the route of a hub, with the secrets that its configuration names. Blocks.

        Fails with ConfigError if one can't be read.
        """
        secrets = [
            read_secret(
                file,
                config_file=desk.settings.file,
                key=f"github.webhook_secret_files[{index}]",
            )
            for index, file in enumerate(settings.webhook_secret_files)
        ]
        return cls(desk, settings, [secret.encode() for secret in secrets])

    def routes(self) -> list[Route]:
        """Return the routes, for the application; none without a secret, as of a hub that polls."""
        if not self.secrets:
            return []
        return [Route("/webhooks/github", self.receive, methods=["POST"])]

    async def receive(self, request: Request) -> Response:
        """Take an event in.

        Raises:
            Refused: It isn't one of GitHub's, or can't be read.
        """
        call = _call(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (_JSON, _FORM):
            message = f"the body must be {_JSON} or {_FORM}"
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) <= _LARGE:
            return await self._receive(request, call, kind)
        async with self._large:
            return await self._receive(request, call, kind)

    async def _receive(self, request: Request, call: _Call, kind: str) -> Response:
        body = bytearray()
        most = LARGEST_PAYLOAD if kind == _JSON else _LARGEST_FORM
        with anyio.move_on_after(_READ_S) as reading:
            body = await read_up_to(request, most)
        if reading.cancelled_caught:
            message = f"the body took more than {_READ_S:g} s"
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, message)
        if len(body) <= _LARGE:
            self._prove(call, body)
            arrival = _arrival(call, body, kind)
        else:
            arrival = await self.desk.use(lambda: self._proven(call, body, kind))
        plan = route(arrival.event, self.settings)
        taken = await self.desk.use(lambda: Inbox(self.desk).take(arrival, plan))
        for job in taken.jobs:
            self.desk.tell(job)
        return _answer(taken)

    def _proven(self, call: _Call, body: bytearray, kind: str) -> Arrival:
        self._prove(call, body)
        return _arrival(call, body, kind)

    def _prove(self, call: _Call, body: bytearray) -> None:
        """Return if one of the secrets has signed the raw body.

        Raises:
            Refused: None has.
        """
        if not is_signed(body, call.signature, self.secrets):
            message = "X-Hub-Signature-256 doesn't fit the body and the secret"
            raise Refused(HTTPStatus.UNAUTHORIZED, message)


def is_signed(
    body: bytes | bytearray, signature: str, secrets: Sequence[bytes]
) -> bool:
    """Return whether one of some secrets has signed a body, in a time that doesn't tell how near it is.

    Args:
        body: The raw body.
        signature: `sha256=` and the HMAC in hex, as in X-Hub-Signature-256.
        secrets: Each counts.
    """
    given = signature.encode(errors="replace")
    # All of them, so that the time doesn't tell which one it was.
    fits = [
        hmac.compare_digest(given, b"sha256=" + _hmac(secret, body))
        for secret in secrets
    ]
    return any(fits)


def _hmac(secret: bytes, body: bytes | bytearray) -> bytes:
    return hmac.new(secret, body, sha256).hexdigest().encode()


def _call(request: Request) -> _Call:
    """Return what a webhook says beside its body.

    Raises:
        Refused: It lacks what each has.
    """
    headers = request.headers
    for name in ("X-GitHub-Delivery", "X-GitHub-Event"):
        if not headers.get(name, "").strip():
            message = f"the header {name} is missing"
            raise Refused(HTTPStatus.BAD_REQUEST, message)
    kind = headers.get("x-github-hook-installation-target-type", "")
    target = headers.get("x-github-hook-installation-target-id", "")
    return _Call(
        event=clean(headers["x-github-event"].strip()),
        delivery=clean(headers["x-github-delivery"].strip()),
        target=clean(f"{kind}/{target}") if kind or target else "",
        signature=headers.get("x-hub-signature-256", ""),
        headers=kept_headers(headers),
    )


def kept_headers(headers: Mapping[str, str]) -> str:
    """Return what a job is told of the headers that an event came with, as a JSON object; never a signature."""
    return json.dumps(
        {
            name.lower(): value
            for name, value in headers.items()
            if name.lower().startswith(("x-github-", "content-type", "user-agent"))
            and name.lower() not in _NOT_KEPT
        }
    )


def _arrival(call: _Call, body: bytearray, kind: str) -> Arrival:
    """Return the event in a body that GitHub has signed.

    Raises:
        Refused: There is none.
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
