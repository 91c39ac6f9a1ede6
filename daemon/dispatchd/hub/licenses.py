"""Activation and license heartbeat (contracts/README.md): signed tokens for known license keys."""

from hashlib import sha256
from hmac import compare_digest
from http import HTTPStatus
from typing import Final

import jwt
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.desk import Desk, read_body
from dispatchd.hub.rules import Refused

_ALGORITHM: Final = "EdDSA"
_LIFE_S: Final = 30 * 24 * 3600
"""How long a token is valid (seconds)."""


@frozen
class Licenses:
    """The routes by which a machine gets and keeps its identity."""

    desk: Desk

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/api/v1/licenses/activate", self.activate, methods=["POST"]),
            Route("/api/v1/licenses/heartbeat", self.heartbeat, methods=["POST"]),
        ]

    async def activate(self, request: Request) -> Response:
        """Exchange a license key for a token and the machine's secret.

        Raises:
            Refused: The key is not known.
        """
        body = await read_body(request, "activate-request")
        key = str(body["key"]).encode()
        if not any(
            compare_digest(key, known.encode()) for known in self.desk.license_keys
        ):
            raise Refused(HTTPStatus.UNAUTHORIZED, "the license key is not valid here")
        token = await self._token(str(body["server_id"]))
        return JSONResponse({"token": token, "heartbeat_secret": self.desk.secret})

    async def heartbeat(self, request: Request) -> Response:
        """Refresh a machine's token."""
        body = await read_body(request, "license-heartbeat-request")
        machine = self.desk.authenticate(body, "heartbeat_secret")
        return JSONResponse({"token": await self._token(machine)})

    async def _token(self, machine: str) -> str:
        pem = await self.desk.use(
            lambda: self.desk.storage.secret("license-signing-key", _new_key)
        )
        now = int(self.desk.now())
        claims = {
            "jti": self.desk.license_id,
            "cv": 1,
            "plan": "self-hosted",
            "features": [],
            "activation_id": sha256(machine.encode(errors="surrogatepass")).hexdigest()[
                :32
            ],
            "iat": now,
            "nbf": now,
            "exp": now + _LIFE_S,
        }
        return jwt.encode(claims, pem, algorithm=_ALGORITHM)


def _new_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
