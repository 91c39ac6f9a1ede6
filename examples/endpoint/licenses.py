"""Licenses of the reference endpoint: exchanges license keys for machines' credentials. Needs PyJWT with cryptography.

A license key is a token that `dispatchd license issue` has signed. Any number of machines may activate one; count the
rows of `machines` where a customer has bought fewer.
"""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from endpoint import Endpoint, Json, Refused, Reply, hashed, require_text

ALGORITHM: Final = "EdDSA"
LIFE: Final = timedelta(days=30)
"""Lifetime of a machine's token; it asks for another one each day."""


class Licenses:
    """The two calls about licenses."""

    def __init__(self, endpoint: Endpoint, key_file: Path) -> None:
        """Sign with the vendor's private key."""
        key = load_pem_private_key(key_file.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            message = f"{key_file} is no private Ed25519 key"
            raise TypeError(message)
        self.endpoint, self.key = endpoint, key
        endpoint.db.execute(
            "CREATE TABLE IF NOT EXISTS licenses (id TEXT PRIMARY KEY, claims TEXT)"
        )

    def activate(self, body: Json) -> Reply:
        """Exchange a license key for a machine's token and secret. Its answer may be lost, so it may be repeated."""
        require_text(body, "key")
        require_text(body, "server_id")
        name, secret = body["server_id"], token_urlsafe(32)
        claims, db = self.claims(body["key"]), self.endpoint.db
        find = "SELECT license_id, revoked FROM machines WHERE name = ?"
        with self.endpoint.changed:
            known = db.execute(find, [name]).fetchone()
            if known is not None and tuple(known) != (claims["jti"], 0):
                raise Refused(401, "this machine was revoked, or has another license")
            values = [claims["jti"], json.dumps(claims)]
            db.execute("INSERT OR REPLACE INTO licenses VALUES (?, ?)", values)
            machine = [name, claims["jti"], hashed(secret)]
            db.execute("INSERT OR REPLACE INTO machines VALUES (?, ?, ?, 0)", machine)
        return 200, {"token": self.token(claims, name), "heartbeat_secret": secret}

    def heartbeat(self, body: Json) -> Reply:
        """Return a fresh token."""
        with self.endpoint.changed:
            machine = self.endpoint.machine(body, "heartbeat_secret")
            find = "SELECT claims FROM licenses WHERE id = ?"
            row = self.endpoint.db.execute(find, [machine["license_id"]]).fetchone()
        if machine["revoked"]:
            raise Refused(410, "this machine has been revoked")
        if row is None:
            raise Refused(401, "this machine was not activated")
        # As they were checked at the activation: the key that signs may have been rotated.
        claims: Json = json.loads(row["claims"])
        if claims.get("exp", float("inf")) <= datetime.now(UTC).timestamp():
            raise Refused(400, "the license has expired")
        return 200, {"token": self.token(claims, machine["name"])}

    def claims(self, license_key: str) -> Json:
        """Return the claims of a license key that counts."""
        try:
            public = self.key.public_key()
            claims: Json = jwt.decode(
                license_key,
                public,
                algorithms=[ALGORITHM],
                options={"require": ["jti", "iat"]},
            )
        except jwt.ExpiredSignatureError:
            raise Refused(401, "the license has expired") from None
        except (jwt.PyJWTError, ValueError):
            raise Refused(401, "the license key is not valid here") from None
        if "activation_id" in claims:
            raise Refused(401, "this is a machine's token, and no license key")
        return claims

    def token(self, claims: Json, name: str) -> str:
        """Return a machine's token: the license, bound to the machine, for a month at most."""
        now = datetime.now(UTC)
        ends = int((now + LIFE).timestamp())
        bound = {
            "activation_id": sha256(name.encode(errors="replace")).hexdigest()[:32],
            "contract_header": True,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": min(claims.get("exp", ends), ends),
        }
        return jwt.encode({**claims, **bound}, self.key, algorithm=ALGORITHM)
