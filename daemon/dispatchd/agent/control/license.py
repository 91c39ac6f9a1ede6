"""The license of this machine, for people: as a document, and as routes of the control socket."""

from collections.abc import Mapping

from dispatchd.agent.control.calls import Act, Call, Reply
from dispatchd.agent.license.loop import LicenseLoop
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.job import Json
from dispatchd.protocol.license import LicenseStatus
from dispatchd.protocol.times import iso_or_none


def license_routes(license_: LicenseLoop | None) -> Mapping[tuple[str, str], Act]:
    """Return the routes of the license: its status, and a notice that it was changed."""

    async def show(_: Call) -> Reply:
        if license_ is None:
            return Reply(body={"source": "configuration"})
        return Reply(body=license_document(license_.status, license_.server_id))

    async def look(_: Call) -> Reply:
        if license_ is not None:
            license_.look()
        return Reply(body={})

    return {("GET", "/v1/license"): show, ("POST", "/v1/license/look"): look}


def license_status(
    license_: LicenseLoop | None, clock: SteadyClock
) -> Mapping[str, Json] | None:
    """Return the license for the status, with the seconds until it expires; None without one."""
    if license_ is None:
        return None
    status = license_.status
    expires_at = status.claims.expires_at if status.claims is not None else None
    left_s = None if expires_at is None else (expires_at - clock.wall()).total_seconds()
    document = license_document(status, license_.server_id)
    return {**document, "expires_in_s": left_s}


def license_document(status: LicenseStatus, server_id: str) -> dict[str, Json]:
    """Return the license as a document, without a secret; times in ISO 8601, null for unknown values."""
    claims = status.claims
    return {
        "source": status.source,
        "server_id": server_id,
        "good": not status.blocked_reason,
        "blocked_reason": status.blocked_reason,
        "validity": status.validity,
        "license_id": claims.license_id if claims else "",
        "plan": claims.plan if claims else "",
        "features": list(claims.features) if claims else [],
        "warning": claims.warning if claims else "",
        "expires_at": iso_or_none(claims.expires_at if claims else None),
        "grace_until": iso_or_none(claims.grace_until if claims else None),
        "last_heartbeat_at": iso_or_none(status.last_heartbeat_at),
        "next_heartbeat_at": iso_or_none(status.next_heartbeat_at),
        "heartbeat_error": status.heartbeat_error,
    }
