"""What people can tell a running daemon about its jobs, as routes of the control socket."""

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final

from attrs import frozen

from dispatchd.control.calls import Act, Call, Refused, Reply
from dispatchd.domain.job import Json, TrackedJob
from dispatchd.domain.license import LicenseStatus
from dispatchd.domain.outcome import FailureCause, Outcome, Verdict
from dispatchd.domain.payload import text
from dispatchd.domain.phase import Phase
from dispatchd.errors import NotPossible
from dispatchd.loops.license import LicenseLoop
from dispatchd.loops.tracker import Tracker

_ENDINGS: Final = {"fail": Outcome.FAILED, "succeed": Outcome.SUCCEEDED}

_ENDED: Final = (Phase.FINISHING, Phase.HISTORY)


@frozen
class Steering:
    """Parks, resolves and cancels jobs."""

    _tracker: Tracker

    def routes(self) -> Mapping[tuple[str, str], Act]:
        """Return the routes, for the control server."""
        return {
            ("POST", "/v1/jobs/{job}/block"): self.block,
            ("POST", "/v1/jobs/{job}/resolve"): self.resolve,
            ("POST", "/v1/jobs/{job}/cancel"): self.cancel,
        }

    async def block(self, call: Call) -> Reply:
        """Park a job: body `{"reason": …}`.

        Raises:
            Refused: The reason is blank, or the job can't be parked.
        """
        reason = text(call.body, "reason").strip()
        if not reason:
            raise Refused(
                status=HTTPStatus.BAD_REQUEST, reason="a reason is needed, and is blank"
            )
        try:
            return _reply(await self._tracker.park(call.parameters["job"], reason))
        except NotPossible as error:
            raise Refused(status=HTTPStatus.CONFLICT, reason=error.reason) from error

    async def resolve(self, call: Call) -> Reply:
        """Decide about a parked job: body `{"as": "retry" | "fail" | "succeed", "note": …}`.

        Raises:
            Refused: The decision is none of these, or the job isn't parked.
        """
        decision, note = text(call.body, "as"), text(call.body, "note").strip()
        if decision != "retry" and decision not in _ENDINGS:
            reason = "`as` must be one of: retry, fail, succeed"
            raise Refused(status=HTTPStatus.BAD_REQUEST, reason=reason)
        outcome = _ENDINGS.get(decision)
        verdict = None if outcome is None else _verdict(outcome, note)
        try:
            return _reply(await self._tracker.resolve(call.parameters["job"], verdict))
        except NotPossible as error:
            raise Refused(status=HTTPStatus.CONFLICT, reason=error.reason) from error

    async def cancel(self, call: Call) -> Reply:
        """End a job: body `{"reason": …}`, which may be left out.

        Raises:
            Refused: There is no such job, or it has ended.
        """
        job_id = call.parameters["job"]
        record = self._tracker.get(job_id)
        if record is None or record.phase in _ENDED:
            how = "isn't tracked" if record is None else "has ended"
            raise Refused(status=HTTPStatus.CONFLICT, reason=f"it {how}")
        note = text(call.body, "reason").strip()
        words = "Cancelled by an operator." + (f" {note}" if note else "")
        return _reply(await self._tracker.cancel(job_id, words))


def license_routes(license_: LicenseLoop | None) -> Mapping[tuple[str, str], Act]:
    """Return the routes about the license: what it is worth, and that somebody has changed it."""

    async def show(_: Call) -> Reply:
        if license_ is None:
            return Reply(body={"source": "configuration"})
        return Reply(body=license_document(license_.status, license_.server_id))

    async def look(_: Call) -> Reply:
        if license_ is not None:
            license_.look()
        return Reply(body={})

    return {("GET", "/v1/license"): show, ("POST", "/v1/license/look"): look}


def license_document(status: LicenseStatus, server_id: str) -> dict[str, Json]:
    """Return what is known of a license, without a secret; times in ISO 8601, null for what is not known."""
    claims = status.claims

    def at(instant: datetime | None) -> str | None:
        return None if instant is None else instant.isoformat(timespec="seconds")

    return {
        "source": status.source,
        "server_id": server_id,
        "good": not status.obstacle,
        "obstacle": status.obstacle,
        "worth": status.worth,
        "license_id": claims.license_id if claims else "",
        "plan": claims.plan if claims else "",
        "features": list(claims.features) if claims else [],
        "warning": claims.warning if claims else "",
        "expires_at": at(claims.expires_at if claims else None),
        "grace_until": at(claims.grace_until if claims else None),
        "last_heartbeat_at": at(status.last_heartbeat_at),
        "next_heartbeat_at": at(status.next_heartbeat_at),
        "heartbeat_trouble": status.heartbeat_trouble,
    }


def _verdict(outcome: Outcome, note: str) -> Verdict:
    cause = FailureCause.NEEDS_INPUT if outcome is Outcome.FAILED else None
    words = f"An operator decided that this has {outcome}."
    return Verdict(
        outcome=outcome, cause=cause, summary=f"{words} {note}" if note else words
    )


def _reply(record: TrackedJob) -> Reply:
    body: dict[str, Json] = {"job": record.job.id, "phase": record.phase.value}
    return Reply(body=body)
