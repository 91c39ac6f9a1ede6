"""Routes of webhooks beside GitHub's: `POST /webhooks/NAME` for their senders, and the list of them for people.

A delivery that was answered with a success is durable. All refusals of strangers are the same, whether there is a hook of
that name or not: each comes after the whole body.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self

import anyio
from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.errors import ConfigError, ContractViolation, Problem
from dispatchd.hub.auth.webhook_proof import DeliveryProof, key_of, read_proof
from dispatchd.hub.auth.webhook_signature import IN_MEMORY, SignedBody
from dispatchd.hub.config.secret_files import read_secret
from dispatchd.hub.config.webhooks import RESERVED, Webhook
from dispatchd.hub.connections.places import Places
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import HubError
from dispatchd.hub.domain.model import Delivery
from dispatchd.hub.domain.scopes import READ
from dispatchd.hub.domain.webhooks.delivery import read_event
from dispatchd.hub.domain.webhooks.senders import HEADER, Check, Form
from dispatchd.hub.http_bodies import MIB, Refused
from dispatchd.hub.queue.submit import Submissions
from dispatchd.hub.queue.webhooks import Arrival, Taken, WebhookInbox
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import loads
from dispatchd.protocol.times import duration

LARGEST_BODY: Final = 25 * MIB
"""Largest body of a delivery (bytes), as of GitHub's."""

_READ_S: Final = 30.0
"""Time limit of a body (seconds)."""

_MOST_COMING: Final = 256
"""Most bodies that may be coming in at the same time (count)."""

_MOST_LARGE_COMING: Final = 32
"""Most of them that may be on disk (count): strangers must not fill it."""

_LARGE_AT_ONCE: Final = 4
"""Most large bodies in memory at the same time (count); others wait."""

_NOT_JSON: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_ALWAYS_KEPT: Final = ("content-type", "user-agent")
_NEVER_KEPT: Final = ("authorization", "cookie", "signature", "token", "secret")
"""Parts of the names of headers that a job doesn't get: they may be credentials."""

_NOT_PROVEN: Final = "the delivery is not one of a hook of this hub"


@frozen(kw_only=True)
class _Hook:
    """Open hook: its configuration, form and keys."""

    webhook: Webhook
    form: Form
    keys: Sequence[bytes] = field(repr=False)


@define
class Webhooks:
    """Routes on which senders beside GitHub deliver, and people see their hooks."""

    context: Context
    submissions: Submissions
    hooks: Mapping[str, _Hook]
    """The hooks, by name."""
    results: Counter[tuple[str, str]] = field(factory=Counter, init=False)
    """Deliveries that this process has answered, by hook and result; those of unknown hooks by an empty name (count)."""
    _coming: Places = field(factory=lambda: Places(_MOST_COMING), init=False)
    _large_coming: Places = field(
        factory=lambda: Places(_MOST_LARGE_COMING), init=False
    )
    _large: anyio.Semaphore = field(
        factory=lambda: anyio.Semaphore(_LARGE_AT_ONCE), init=False
    )

    @classmethod
    def of(cls, context: Context, submissions: Submissions) -> Self:
        """Return the routes of a hub, with the secrets that its configuration names. Blocks.

        Raises:
            ConfigError: One can't be used.
        """
        hooks: dict[str, _Hook] = {}
        owners = _keys_of_github(context) if context.settings.webhooks else {}
        for index, webhook in enumerate(context.settings.webhooks):
            hook = _opened(context, index, webhook)
            if hook.form.check is Check.HMAC:
                _require_own(context.settings.file, index, hook, owners)
                owners |= dict.fromkeys(hook.keys, webhook.name)
            hooks[webhook.name] = hook
        return cls(context, submissions, hooks)

    def routes(self) -> list[Route]:
        """Return the routes, for the application. They stand behind that of GitHub's events, whose path is like these."""
        shown = Route("/api/v1/webhooks", self.show, methods=["GET"])
        if not self.hooks:
            return [shown]
        return [shown, Route("/webhooks/{name:job}", self.receive, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        """Return every hook, in the order of the configuration, with its newest delivery."""
        await self.context.require(request, READ)
        webhooks = self.context.settings.webhooks
        store = self.context.stores.deliveries
        newest = await self.context.use_for_list(
            lambda: store.newest_of([webhook.target for webhook in webhooks])
        )
        documents = [
            webhook_document(webhook, newest.get(webhook.target))
            for webhook in webhooks
        ]
        return JSONResponse({"webhooks": documents})

    async def receive(self, request: Request) -> Response:
        """Receive a delivery.

        Raises:
            HubError: It can't be stored now, or no machine could read its job.
            Refused: It isn't one of a hook's sender, or can't be read.
        """
        name = request.path_params["name"]
        hook = self.hooks.get(name)
        try:
            taken = await self._receive(request, hook)
        except Refused as refused:
            self.results[name if hook else "", "refused"] += 1
            reason = refused.why if isinstance(refused, NotProven) else refused.message
            self.context.refusals.note(
                "webhook_refused",
                request,
                status=int(refused.status),
                reason=reason,
                hook=name,
            )
            raise
        except HubError:
            self.results[name, "refused"] += 1
            raise
        delivery = taken.delivery
        result = "duplicate" if taken.is_duplicate else delivery.state
        self.results[name, "ignored" if result == "done" else result] += 1
        if taken.replay_of:
            self.context.refusals.note(
                "webhook_replayed",
                request,
                hook=name,
                delivery=delivery.id,
                first=taken.replay_of,
            )
        if taken.job is not None:
            self.context.waiting.notify(taken.job)
        return _answer(taken)

    async def _receive(self, request: Request, hook: _Hook | None) -> Taken:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in _NOT_JSON:
            message = "the body must be JSON: let the sender use application/json"
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        headers = {key.lower(): value for key, value in request.headers.items()}
        proof = DeliveryProof(problem="there is no hook of this name")
        if hook is not None:
            proof = read_proof(hook.form, hook.keys, headers)
        body = await self._received(request, hook, proof)
        with closing(body):
            fits = proof.fits(body)
            if hook is None or not fits:
                why = (
                    proof.problem or f"{hook and hook.form.header} doesn't fit the body"
                )
                raise NotProven(why)
            self._require_recent(hook, proof)
            return await self._taken(hook, headers, body)

    async def _received(
        self, request: Request, hook: _Hook | None, proof: DeliveryProof
    ) -> SignedBody:
        keys = () if hook is None else hook.keys
        with anyio.move_on_after(_READ_S) as scope, ExitStack() as places:
            places.enter_context(self._coming.one(scope))

            def grown() -> None:
                places.enter_context(self._large_coming.one(scope))

            try:
                return await SignedBody.receive(
                    request,
                    LARGEST_BODY,
                    keys,
                    grown,
                    before=proof.before,
                    is_kept=not proof.problem,
                )
            except OSError as error:
                message = f"the body can't be kept ({error.strerror})"
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message) from error
        message = (
            f"the body took more than {duration(_READ_S)}, or was the slowest of many"
        )
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, message)

    def _require_recent(self, hook: _Hook, proof: DeliveryProof) -> None:
        if proof.sent_at is None:
            return
        off_s, window_s = self.context.now() - proof.sent_at, hook.webhook.window_s
        if abs(off_s) <= window_s:
            return
        where = "behind" if off_s > 0 else "ahead of"
        message = (
            f"its time is {duration(abs(off_s))} {where} the hub's clock, and "
            f"{duration(window_s)} is allowed (window_s); it is a replay, or a clock is wrong"
        )
        raise Refused(HTTPStatus.UNAUTHORIZED, message)

    async def _taken(
        self, hook: _Hook, headers: Mapping[str, str], body: SignedBody
    ) -> Taken:
        def take() -> Taken:
            arrival = _arrival(hook, headers, body.read())
            return WebhookInbox(self.context, self.submissions).take(arrival)

        if body.size <= IN_MEMORY:
            arrival = _arrival(hook, headers, body.read())
            inbox = WebhookInbox(self.context, self.submissions)
            return await self.context.write(lambda: inbox.take(arrival))
        async with self._large:
            return await self.context.use(take)


class NotProven(Refused):
    """Delivery that doesn't come from the sender of a hook. The reason is for the log alone."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(HTTPStatus.UNAUTHORIZED, _NOT_PROVEN)


def webhook_document(webhook: Webhook, newest: Delivery | None) -> dict[str, Json]:
    """Return a hook with its newest delivery."""
    return {
        "name": webhook.name,
        "path": webhook.path,
        "sender": webhook.sender.value,
        "check": webhook.form.check.value,
        "workflow": webhook.workflow,
        "received_at": newest.received_at if newest else 0,
        "delivery_id": newest.id if newest else "",
        "state": newest.state if newest else "",
        "routing": newest.routing if newest else "",
        "job_ids": list(newest.job_ids) if newest else [],
    }


def kept_headers(form: Form, headers: Mapping[str, str]) -> str:
    """Return the headers of a delivery that its job gets, as a JSON object; never a credential."""
    places = (*form.id, *form.event, *form.repository, *form.ref, *form.sha)
    named = {
        place.removeprefix(HEADER).lower()
        for place in places
        if place.startswith(HEADER)
    }
    wanted = {*_ALWAYS_KEPT, *named, form.timestamp}
    return json.dumps(
        {
            name: value
            for name, value in headers.items()
            if (name in wanted or name.startswith(form.kept))
            and name != form.header
            and not any(part in name for part in _NEVER_KEPT)
        }
    )


def _keys_of_github(context: Context) -> dict[bytes, str]:
    """Return the keys of GitHub's hook, each with its name. Blocks.

    Raises:
        ConfigError: One can't be read.
    """
    github, file = context.settings.github, context.settings.file
    secrets = (
        read_secret(path, config_file=file, key=f"github.webhook_secret_files[{index}]")
        for index, path in enumerate(github.webhook_secret_files if github else ())
    )
    return {secret.encode(): RESERVED for secret in secrets}


def _opened(context: Context, index: int, webhook: Webhook) -> _Hook:
    """Return a hook with its keys. Blocks.

    Raises:
        ConfigError: One can't be used.
    """
    keys, form, file = [], webhook.form, context.settings.file
    for number, secret_file in enumerate(webhook.secret_files):
        key = f"webhooks[{index}].secret_files[{number}]"
        secret = read_secret(secret_file, config_file=file, key=key)
        context.known.know("webhooks", [secret])
        try:
            keys.append(key_of(form, secret))
        except ValueError as error:
            expected = f"must name a file with {error} (webhook {webhook.name!r})"
            problem = Problem(file=file, key=key, expected=expected)
            raise ConfigError([problem]) from error
    return _Hook(webhook=webhook, form=form, keys=keys)


def _require_own(
    file: Path, index: int, hook: _Hook, owners: Mapping[bytes, str]
) -> None:
    """Refuse a hook whose key another one has: nothing in a signed delivery says for which of them it is.

    Args:
        file: The configuration.
        index: The number of the hook in it.
        hook: The hook.
        owners: Names of the hooks before it and of GitHub's, by their keys.

    Raises:
        ConfigError: There is such a key.
    """
    for key_bytes in hook.keys:
        name = owners.get(key_bytes)
        if name is not None:
            expected = (
                f"must name secrets of its own: {name!r} has the same, so that a delivery "
                f"to one could be sent to the other (webhook {hook.webhook.name!r})"
            )
            key = f"webhooks[{index}].secret_files"
            raise ConfigError([Problem(file=file, key=key, expected=expected)])


def _arrival(hook: _Hook, headers: Mapping[str, str], body: bytes) -> Arrival:
    """Return the delivery of a body that the sender has signed.

    Raises:
        Refused: The body isn't JSON.
    """
    try:
        text = body.decode()
        payload = loads(text)
    except (ContractViolation, ValueError) as error:
        message = f"the payload is not JSON in UTF-8 ({type(error).__name__})"
        raise Refused(HTTPStatus.BAD_REQUEST, message) from error
    return Arrival(
        webhook=hook.webhook,
        event=read_event(hook.form, headers, payload),
        payload=text.removeprefix("\ufeff"),
        headers=kept_headers(hook.form, headers),
        payload_hash=sha256(body).hexdigest(),
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
