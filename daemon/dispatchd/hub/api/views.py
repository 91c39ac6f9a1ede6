"""JSON documents of the hub's records, as its API shows them (contracts/hub.openapi.json)."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from attrs import asdict

from dispatchd.hub.domain.binding import FREE, Binding
from dispatchd.hub.domain.decisions.decision import Decision
from dispatchd.hub.domain.model import (
    ENDED,
    HELD,
    Attempt,
    Delivery,
    HubJob,
    Machine,
    Token,
)
from dispatchd.hub.domain.result_details import NAMES
from dispatchd.hub.storage.dispatch_rules import Pause
from dispatchd.protocol.job import Json

AWAY_S: Final = 600.0
"""Silence after which a machine counts as away (seconds): a poll is held for 300."""

_NOBODY: Final[Mapping[str, str]] = MappingProxyType({})

_ONE_JOB: Final = ("result_output", *NAMES, "attempts")
"""Fields that the hub adds to the document of a single job; a submitted field of that name isn't shown."""


def job_document(
    job: HubJob, *, now: float, names: Mapping[str, str] = _NOBODY, link: str = ""
) -> dict[str, Json]:
    """Return a job without its output, its claim token and its texts.

    Args:
        job: The job.
        now: The time (seconds since the epoch).
        names: The machines' names, by server id.
        link: The address of its subject at GitHub.
    """
    held = job.state in HELD
    submitted = {
        name: value for name, value in job.document.items() if name not in _ONE_JOB
    }
    return {
        **submitted,
        "id": job.id,
        "state": job.state.value,
        "ended": job.state in ENDED,
        "priority": job.priority,
        "machine": job.machine,
        "machine_name": names.get(job.machine, ""),
        "link": link,
        "run_id": job.run_id,
        "phase": job.phase,
        "reason": job.reason,
        "progress": json.loads(job.progress or "null"),
        "parked": job.parked,
        "cancel_requested": job.cancel_requested,
        "decision": _decision_document(job),
        "lease_expired": job.lapsed or (held and job.lease_until < now),
        "result_status": job.state.value if job.state in ENDED else "",
        "result_summary": job.result_summary if job.state in ENDED else "",
        "result_cause": job.result_cause,
        "created_at": job.created_at,
        "claimed_at": job.claimed_at,
        "accepted_at": job.accepted_at,
        "started_at": job.started_at,
        "run_ended_at": job.run_ended_at,
        "finished_at": job.finished_at,
        "deliveries": job.deliveries,
        "expiries": job.expiries,
        "accepts": job.accepts,
        "finishes": job.finishes,
    }


def _decision_document(job: HubJob) -> Json:
    """Return the newest decision about a job while it was parked; None before the first."""
    decision = Decision.of(job)
    if decision is None:
        return None
    return {
        "as": decision.choice,
        "note": decision.note,
        "by": decision.by,
        "at": decision.at,
        "state": decision.stage(job).value,
    }


def texts_document(job: HubJob) -> dict[str, Json]:
    """Return the texts of a job's result, which may be long: its output and its details."""
    details: dict[str, Json] = json.loads(job.result_details or "{}")
    return {"result_output": job.result_output, **details}


def attempt_document(
    attempt: Attempt, names: Mapping[str, str] = _NOBODY
) -> dict[str, Json]:
    """Return the document of a claim."""
    return {**asdict(attempt), "machine_name": names.get(attempt.machine, "")}


def machine_document(
    machine: Machine,
    *,
    now: float,
    heard_at: float = 0,
    binding: Binding = FREE,
    running: int = 0,
) -> dict[str, Json]:
    """Return a machine without the hashes of its secrets.

    Args:
        machine: The machine.
        now: The time (seconds since the epoch).
        heard_at: The time at which it was last heard of for a job that it has; 0 if it has none.
        binding: The binding of the machine.
        running: The number of jobs that run on it.
    """
    return {
        "name": machine.name,
        "server_id": machine.server_id,
        "license_id": machine.license_id,
        "state": machine_state(machine, now=now, heard_at=heard_at),
        "added_at": machine.added_at,
        "activated_at": machine.activated_at,
        "seen_at": max(machine.seen_at, heard_at),
        "last_pull_at": machine.seen_at,
        "revoked_at": machine.revoked_at,
        "workflows": json.loads(machine.workflows or "null"),
        "bound_workflows": _listed(binding.workflows),
        "bound_repositories": _listed(binding.repositories),
        "version": machine.version,
        "slots": machine.slots,
        "running": running,
        "free_bytes": machine.free_bytes,
    }


def _listed(names: Sequence[str] | None) -> Json:
    return None if names is None else [*names]


def machine_state(machine: Machine, *, now: float, heard_at: float = 0) -> str:
    """Return the state of a machine, in one word.

    It is revoked; or invited until it has used its key; or away after `AWAY_S` of silence; else active.
    """
    if machine.revoked_at:
        return "revoked"
    if not machine.secret_hash:
        return "invited"
    return (
        "away" if silent_s(machine, now=now, heard_at=heard_at) > AWAY_S else "active"
    )


def silent_s(machine: Machine, *, now: float, heard_at: float = 0) -> float:
    """Return the time since a machine was last heard of, at most since it was added (seconds)."""
    known = (machine.seen_at, machine.activated_at, machine.added_at, heard_at)
    return max(0.0, now - max(known))


def token_document(token: Token) -> dict[str, Json]:
    """Return a token without its hash."""
    return {
        "name": token.name,
        "scopes": list(token.scopes.split()),
        "created_at": token.created_at,
        "revoked_at": token.revoked_at,
    }


def pause_document(pause: Pause | None) -> dict[str, Json]:
    """Return the document of a pause: whether dispatch is paused, since when and why."""
    if pause is None:
        return {"paused": False}
    return {"paused": True, "since": pause.since, "reason": pause.reason}


def delivery_document(delivery: Delivery) -> dict[str, Json]:
    """Return a delivery."""
    return {**asdict(delivery), "job_ids": list(delivery.job_ids)}
