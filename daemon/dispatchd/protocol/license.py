"""License: the claims of its token, and their status at a point in time.

Times are checked here, and not by the library that checks the signature, so that a clock can be passed in.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from attrs import frozen

from dispatchd.errors import LicenseInvalid
from dispatchd.protocol.job import Json

DEFAULT_GRACE_DAYS: Final = 14.0
"""Grace period of a token that doesn't set one (days)."""

LEEWAY: Final = timedelta(seconds=60)
"""Tolerance for a token's times that lie ahead of this machine's clock, which is never exact."""

_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC).timestamp()


class LicenseSource(StrEnum):
    """Sources of a license, in the order in which they are tried."""

    INLINE_TOKEN = "DISPATCHD_LICENSE"  # noqa: S105  # a variable's name
    INLINE_KEY = "DISPATCHD_LICENSE_KEY"
    CONFIGURED_KEY = "license.key"
    ACTIVATION = "stored activation"
    FILE = "license file"

    @property
    def heartbeats(self) -> bool:
        """True if the endpoint knows this machine under it: then it is refreshed, and it gives credentials."""
        return self not in (LicenseSource.INLINE_TOKEN, LicenseSource.FILE)


class Validity(StrEnum):
    """Status of a license at a point in time."""

    VALID = "valid"
    GRACE = "grace"
    """Expired, but still accepted during the grace period."""
    EXPIRED = "expired"
    NOT_YET = "not yet valid"


VERSION: Final = 1
"""Newest known version of claims (claim `cv`)."""


@frozen(kw_only=True)
class Claims:
    """Claims of a token whose signature has been checked. `grace_days` None means the default."""

    license_id: str
    version: int = 1
    plan: str = ""
    features: tuple[str, ...] = ()
    activation_id: str = ""
    warning: str = ""
    grace_days: float | None = None
    marked: bool = False
    """True if the issuer's answers have the header of the contract."""
    issued_at: datetime
    not_before: datetime | None = None
    expires_at: datetime | None = None

    @property
    def grace_until(self) -> datetime | None:
        """End of the grace period; None for a license that never expires."""
        if self.expires_at is None:
            return None
        days = DEFAULT_GRACE_DAYS if self.grace_days is None else self.grace_days
        try:
            return self.expires_at + timedelta(days=max(0.0, days))
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)

    def validity(self, now: datetime) -> Validity:
        """Return the status of the license at a time."""
        if max(self.issued_at, self.not_before or self.issued_at) > now + LEEWAY:
            return Validity.NOT_YET
        if self.expires_at is None or now < self.expires_at:
            return Validity.VALID
        until = self.grace_until
        return Validity.GRACE if until is not None and now < until else Validity.EXPIRED


def claims_from(document: Mapping[str, Json]) -> Claims:
    """Return the claims in a token's payload (RFC 7519, and our own: contracts/README.md, license).

    Raises:
        LicenseInvalid: A claim is missing or of another kind.
    """
    features = document.get("features", [])
    if not isinstance(features, list) or not all(type(f) is str for f in features):
        raise LicenseInvalid(reason="its claim features isn't a list of strings")
    issued_at = _time(document, "iat")
    if issued_at is None:
        raise LicenseInvalid(reason="its claim iat is missing")
    license_id = _text(document, "jti")
    if not license_id:
        raise LicenseInvalid(reason="its claim jti is missing")
    return Claims(
        license_id=license_id,
        version=_version(document),
        plan=_text(document, "plan"),
        features=tuple(str(feature) for feature in features),
        activation_id=_text(document, "activation_id"),
        warning=_text(document, "wc"),
        grace_days=_number(document, "grace_days"),
        marked=document.get("contract_header") is True,
        issued_at=issued_at,
        not_before=_time(document, "nbf"),
        expires_at=_time(document, "exp"),
    )


def _version(document: Mapping[str, Json]) -> int:
    """Return the version of the claims. The meaning and limits of a newer version are unknown here.

    Raises:
        LicenseInvalid: The version is unknown.
    """
    version = _number(document, "cv") or 1
    if version > VERSION:
        newer = f"its claims are of version {version:g}, and this dispatchd knows {VERSION}: upgrade it"
        raise LicenseInvalid(reason=newer)
    if version != VERSION:
        raise LicenseInvalid(reason=f"its claim cv, {version:g}, is no version")
    return VERSION


def _text(document: Mapping[str, Json], name: str) -> str:
    value = document.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise LicenseInvalid(reason=f"its claim {name} isn't a string")
    return value


def _number(document: Mapping[str, Json], name: str) -> float | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int and type(value) is not float:
        raise LicenseInvalid(reason=f"its claim {name} isn't a number")
    if not -_LATEST < value < _LATEST:
        raise LicenseInvalid(reason=f"its claim {name} is out of range")
    return float(value)


def _time(document: Mapping[str, Json], name: str) -> datetime | None:
    value = _number(document, name)
    if value is None:
        return None
    if value < 0:
        raise LicenseInvalid(reason=f"its claim {name} is out of range")
    return datetime.fromtimestamp(value, UTC)


@frozen(kw_only=True)
class Fingerprint:
    """Hashes of the traits that tell machines apart (64 hex digits, or empty where one can't be read).

    Two machines with one identity steal each other's jobs. A cloned disk has the same server id, so an
    activation stores what a clone doesn't copy: the machine id (machine-id(5), which tools that clone
    reset) and the hardware's UUID, where this user may read it.
    """

    machine_id: str = ""
    product_uuid: str = ""

    def difference(self, other: "Fingerprint") -> str:
        """Return the traits in which two machines certainly differ, in words; empty if there is no evidence."""
        for name, mine, others in (
            ("machine id", self.machine_id, other.machine_id),
            ("product UUID", self.product_uuid, other.product_uuid),
        ):
            if mine and others and mine != others:
                return f"another {name}"
        return ""


class Refusal(StrEnum):
    """Reason why the endpoint doesn't accept this machine any more."""

    REVOKED = "revoked"
    DEACTIVATED = "deactivated"


@frozen(kw_only=True)
class Activation:
    """Answer of the endpoint to an activation. `key_hash` is the key's SHA-256 in hex.

    `token` and `heartbeat_secret` are secrets.
    """

    key_hash: str
    server_id: str
    token: str
    heartbeat_secret: str
    fingerprint: Fingerprint
    activated_at: datetime
    refreshed_at: datetime
    refused: Refusal | None = None

    def is_same(self, other: "Activation") -> bool:
        """Return whether another one is this activation at another time: refreshed, or refused."""
        own, its = (
            (activation.activated_at, activation.heartbeat_secret)
            for activation in (self, other)
        )
        return own == its


@frozen(kw_only=True)
class LicenseStatus:
    """Status of this machine's license. `problem` is the reason why there is none, or why it can't be used."""

    source: LicenseSource | None = None
    claims: Claims | None = None
    validity: Validity | None = None
    activation: Activation | None = None
    problem: str = ""
    last_heartbeat_at: datetime | None = None
    next_heartbeat_at: datetime | None = None
    heartbeat_error: str = ""

    @property
    def blocked_reason(self) -> str:
        """Reason why no job may be pulled under it; empty if jobs may be pulled."""
        if self.problem:
            return self.problem
        if self.claims is None or self.source is None:
            return (
                "there is no license: set license.key_file, or run `dispatchd activate`"
            )
        if not self.source.heartbeats:
            return f"the license comes from {self.source}, which gives no machine credentials: activate a key"
        return self._incomplete() or self._refused() or self._worthless(self.claims)

    @property
    def has_credentials(self) -> bool:
        """True if calls can be made with it. Runs are reported even when no new jobs may be pulled."""
        usable = self.source is not None and self.source.heartbeats
        return usable and self.claims is not None and not self._incomplete()

    def _incomplete(self) -> str:
        if self.activation is None:
            return (
                "the license is not activated on this machine: run `dispatchd activate`"
            )
        if not self.activation.heartbeat_secret:
            return (
                "the activation has no machine secret: run `dispatchd activate` again"
            )
        if self.claims is None or not self.claims.activation_id:
            return "the license names no activation (claim activation_id): run `dispatchd activate` again"
        return ""

    def _refused(self) -> str:
        refused = self.activation.refused if self.activation is not None else None
        match refused:
            case Refusal.REVOKED:
                return "the license was revoked: ask who gave it; runs continue and are reported"
            case Refusal.DEACTIVATED:
                return "this machine was deactivated at the endpoint: run `dispatchd activate` again"
            case None:
                return ""

    def _worthless(self, claims: Claims) -> str:
        match self.validity:
            case Validity.EXPIRED:
                return f"the license expired on {claims.expires_at:%Y-%m-%d}, and its grace period is over: renew it"
            case Validity.NOT_YET:
                return "the license is not valid yet: is this machine's clock right?"
            case _:
                return ""
