"""Machines with the jobs that they have, as the pages need them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

from dispatchd.hub.api.machines import machine_documents
from dispatchd.hub.context import Context
from dispatchd.hub.domain.binding import FREE
from dispatchd.hub.storage.jobs.reader import HeldJob
from dispatchd.hub.web.lists.waiting import Queue, Worker
from dispatchd.protocol.job import Json

_HELD: Final = 5000
"""Jobs on machines that are read (count)."""

STATES: Final = ("away", "busy", "idle", "never", "invited", "revoked")
"""States of a machine on the page, in the order of the list: whoever needs a look comes first."""


@frozen(kw_only=True)
class Row:
    """Machine on the page."""

    document: Mapping[str, Json]
    state: str
    """One of `STATES`."""
    jobs: Sequence[HeldJob]


def rows(context: Context) -> list[Row]:
    """Return all machines, in the order of the list. Blocks."""
    held: dict[str, list[HeldJob]] = defaultdict(list)
    for job in context.stores.reader.held(_HELD):
        held[job.machine].append(job)
    found = [
        Row(
            document=document,
            state=_state(document, jobs := held.get(str(document["server_id"]), [])),
            jobs=jobs,
        )
        for document in machine_documents(context)
    ]
    return sorted(
        found, key=lambda row: (STATES.index(row.state), str(row.document["name"]))
    )


def _state(document: Mapping[str, Json], jobs: Sequence[HeldJob]) -> str:
    state = str(document["state"])
    if state in {"active", "away"} and not document["seen_at"]:
        return "never"
    if state != "active":
        return state
    return "busy" if jobs else "idle"


def queue_of(context: Context) -> Queue:
    """Return what decides when queued jobs are dispatched. Blocks."""
    now, pause = context.now(), context.stores.pauses.get()
    bindings = context.stores.bindings.all()
    workers = [
        Worker(
            name=str(row.document["name"]),
            server_id=str(row.document["server_id"]),
            state="never" if row.state == "never" else str(row.document["state"]),
            silent_s=max(0.0, now - float(str(row.document["seen_at"]))),
            workflows=_names(row.document["workflows"]),
            binding=bindings.get(str(row.document["name"]), FREE),
            jobs=len(row.jobs),
        )
        for row in rows(context)
    ]
    return Queue(
        workers=workers,
        is_paused=pause is not None,
        pause_reason="" if pause is None else pause.reason,
    )


def _names(value: Json) -> frozenset[str] | None:
    return frozenset(map(str, value)) if isinstance(value, list) else None
