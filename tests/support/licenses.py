"""A signer of licenses, and what it says to machines."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.endpoint import Answer, Request, as_json

KEY = "license-key-0815-of-the-site"
SECRET = "heartbeat-secret-of-the-activation"


@define
class Issuer:
    """Signs tokens, activates `KEY`, and refreshes; `refusal` answers every license call instead."""

    key: Ed25519PrivateKey = field(factory=Ed25519PrivateKey.generate)
    claims: dict[str, Any] = field(factory=dict)
    """What differs in the tokens from now on."""
    secret: str = SECRET
    refusal: Answer | None = None

    @property
    def pem(self) -> str:
        public = self.key.public_key()
        return public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def token(self, **different: Any) -> str:
        now = datetime.now(UTC)
        claims = {
            "jti": "lic-1",
            "cv": 1,
            "plan": "team",
            "features": ["a", "b"],
            "activation_id": "act-1",
            "iat": now - timedelta(minutes=1),
            "nbf": now - timedelta(minutes=1),
            "exp": now + timedelta(days=30),
            **self.claims,
            **different,
        }
        present = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(present, self.key, algorithm="EdDSA")

    def answer(self, request: Request) -> Answer | None:
        """Answer a license call; leave every other to the endpoint."""
        if not request.call.startswith("license-"):
            return None
        if self.refusal is not None:
            return self.refusal
        if request.call == "license-activate":
            if request.body["key"] != KEY:
                return as_json({"message": "no such key"}, 401)
            return as_json({"token": self.token(), "heartbeat_secret": self.secret})
        if request.body["heartbeat_secret"] != self.secret:
            return as_json({"message": "not activated"}, 401)
        return as_json({"token": self.token()})


def config_lines(issuer: Issuer) -> str:
    """Return the table of the configuration that pins the issuer's key."""
    return f'[license]\nkey_file = "key"\npublic_keys = [{json.dumps(issuer.pem)}]\n'
