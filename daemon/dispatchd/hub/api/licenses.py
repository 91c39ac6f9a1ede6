"""Routes of licenses (contracts/README.md): activation and heartbeat.

Activation exchanges a one-time enrolment key for a machine's credentials.
"""

from hashlib import sha256
from http import HTTPStatus
from typing import Final

from attrs import evolve, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.auth.hashing import hashed, new_secret
from dispatchd.hub.auth.license_signing_key import signing_key
from dispatchd.hub.context import Context
from dispatchd.hub.domain.model import Machine
from dispatchd.hub.http_bodies import Refused, read_body
from dispatchd.network.enrolment_key import secret_of
from dispatchd.network.signing_key import signed
from dispatchd.protocol.job import Json
from dispatchd.protocol.license import VERSION

_LIFE_S: Final = 30 * 24 * 3600
"""Lifetime of a token (seconds)."""
_LONGEST_NAME: Final = 512
"""Longest id of a machine (characters): an index of PostgreSQL takes 2704 bytes."""


@frozen
class Licenses:
    """Routes on which a machine gets and refreshes its identity."""

    context: Context

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/api/v1/licenses/activate", self.activate, methods=["POST"]),
            Route("/api/v1/licenses/heartbeat", self.heartbeat, methods=["POST"]),
        ]

    async def activate(self, request: Request) -> Response:
        """Exchange an enrolment key for a token and the machine's secret.

        Raises:
            Refused: The key is not known, or the machine's id is too long.
        """
        body = await read_body(request, "activate-request")
        server_id, secret = str(body["server_id"]), new_secret("machine")
        if len(server_id) > _LONGEST_NAME:
            message = f"$.server_id must have {_LONGEST_NAME} or fewer characters"
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        now = self.context.now()

        def decide(machine: Machine, namesake: Machine | None) -> Machine:
            _check_key(machine, namesake, server_id, now)
            return evolve(
                machine,
                server_id=server_id,
                secret_hash=hashed(secret),
                license_id=self.context.settings.license_id,
                activated_at=now,
                seen_at=0,
            )

        key_hash = hashed(secret_of(str(body["key"])))
        machine = await self.context.use(
            lambda: self.context.stores.machines.enrol(key_hash, server_id, decide)
        )
        if machine is None:
            raise Refused(
                HTTPStatus.UNAUTHORIZED, "the license key is unknown, used or expired"
            )
        token = await self._token(machine)
        return JSONResponse({"token": token, "heartbeat_secret": secret})

    async def heartbeat(self, request: Request) -> Response:
        """Refresh a machine's token.

        Raises:
            Refused: The machine has been revoked.
        """
        body = await read_body(request, "license-heartbeat-request")
        machine = await self.context.use(
            lambda: self.context.authenticate(body, "heartbeat_secret")
        )
        if machine.revoked_at:
            raise Refused(HTTPStatus.GONE, "this machine has been revoked")
        return JSONResponse({"token": await self._token(machine)})

    async def _token(self, machine: Machine) -> str:
        return await self.context.use(lambda: self._signed(machine))

    def _signed(self, machine: Machine) -> str:
        """Return a new token for a machine. Blocks."""
        now = int(self.context.now())
        name = machine.server_id.encode(errors="surrogatepass")
        claims: dict[str, Json] = {
            "jti": machine.license_id,
            "cv": VERSION,
            "plan": "self-hosted",
            "features": [],
            "contract_header": True,
            "activation_id": sha256(name).hexdigest()[:32],
            "iat": now,
            "nbf": now,
            "exp": now + _LIFE_S,
        }
        key = signing_key(self.context.stores.tokens)
        return signed(claims, key)


def _check_key(
    machine: Machine, namesake: Machine | None, server_id: str, now: float
) -> None:
    """Check that a server may use a machine's enrolment key.

    An answer may get lost, so the same server may activate again until it has pulled.

    Raises:
        Refused: It may not.
    """
    used_by_another = machine.activated_at and machine.server_id != server_id
    if used_by_another or (machine.activated_at and machine.seen_at):
        raise Refused(HTTPStatus.UNAUTHORIZED, "the license key has been used already")
    if machine.revoked_at or now > machine.key_expires_at:
        raise Refused(HTTPStatus.UNAUTHORIZED, "the license key is not valid any more")
    others = namesake is not None and namesake.name != machine.name
    # A machine that was revoked and added again under another name may keep its server id.
    if others and namesake is not None and not namesake.revoked_at:
        raise Refused(HTTPStatus.CONFLICT, "another machine has this server_id here")
