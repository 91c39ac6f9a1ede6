"""States of a job at the hub, and their only transitions.

The state machine is data: `TRANSITIONS` maps (state, event) to the next state; a pair that isn't in it is a bug.
A late or repeated message that must be harmless has a row whose next state is the same. `hub/domain/claim_rules.py` maps a call
to its event; `write_job` of `hub/storage/jobs/rows.py` is the one that writes the result.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from attrs import evolve

from dispatchd.errors import DispatchdError
from dispatchd.hub.domain.model import HubJob, State


class Event(StrEnum):
    """Event of a job at the hub."""

    FREED = "freed"
    """GitHub's answers permit the received job."""
    IGNORED = "ignored"
    """GitHub's answers don't permit it."""
    CLAIMED = "claimed"
    """A machine's pull got the job."""
    ACCEPTED = "accepted"
    """The machine accepted it."""
    HEARD_PENDING = "heard_pending"
    """A heartbeat reports that the accept is still to come."""
    HEARD_ACCEPTED = "heard_accepted"
    """A heartbeat reports that the job waits for a slot."""
    HEARD_RUNNING = "heard_running"
    """A heartbeat reports that the run has begun, waits for a retry, or is being reported."""
    HEARD_PARKED = "heard_parked"
    """A heartbeat reports that the run needs a person."""
    RELEASED = "released"
    """The machine released the job, or hung up before it got it."""
    EXPIRED = "expired"
    """The machine wasn't heard of for the lease and the patience after it."""
    LET_GO = "let_go"
    """A job that is to be cancelled was released or has expired: no machine has it, so it ends."""
    GIVEN_UP = "given_up"
    """The lease expired more often than permitted."""
    CANCEL_REQUESTED = "cancel_requested"
    """Somebody cancelled a job that a machine has."""
    CANCELLED = "cancelled"
    """Somebody cancelled a job that no machine has."""
    SUPERSEDED = "superseded"
    """A newer commit of the same pull request is queued."""
    CARRIED_OUT = "carried_out"
    """A cancel job has ended its targets, or a person's decision is given to its target."""
    HAD_NO_TARGET = "had_no_target"
    """A cancel job has no target that could be ended, or a decision none that could be decided about."""
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    REJECTED = "rejected"
    """This and the four before: the machine reported the outcome.

    `SUCCEEDED` and `FAILED` may also be a person's decision about a parked job whose machine is silent."""


HEARD: Final = MappingProxyType(
    {
        "pending_accept": Event.HEARD_PENDING,
        "accepted": Event.HEARD_ACCEPTED,
        "needs_attention": Event.HEARD_PARKED,
    }
)
"""Phase on a machine -> event of its heartbeat; any other phase is that of a run that has begun."""

_OUTCOMES: Final = {
    Event.SUCCEEDED: State.SUCCEEDED,
    Event.PARTIALLY_SUCCEEDED: State.PARTIALLY_SUCCEEDED,
    Event.FAILED: State.FAILED,
    Event.ABORTED: State.ABORTED,
    Event.REJECTED: State.REJECTED,
}

_CANCEL_JOB: Final = {
    Event.CARRIED_OUT: State.SUCCEEDED,
    Event.HAD_NO_TARGET: State.FAILED,
}

_BY_HOLDER: Final = {
    Event.ACCEPTED: State.ACCEPTED,
    Event.HEARD_PENDING: State.CLAIMED,
    Event.HEARD_ACCEPTED: State.ACCEPTED,
    Event.HEARD_RUNNING: State.RUNNING,
    Event.HEARD_PARKED: State.NEEDS_ATTENTION,
    Event.RELEASED: State.QUEUED,
    Event.LET_GO: State.ABORTED,
    **_OUTCOMES,
}
"""Events from the holder of the newest claim, also for a job that was queued again because its lease expired."""

_HELD: Final = {
    **_BY_HOLDER,
    # Released or expired after a newer commit came: a job that no machine has any more.
    Event.SUPERSEDED: State.SUPERSEDED,
    Event.EXPIRED: State.QUEUED,
    Event.GIVEN_UP: State.FAILED,
}

_MOVES: Final[Mapping[State, Mapping[Event, State]]] = {
    State.RECEIVED: {
        Event.FREED: State.QUEUED,
        Event.IGNORED: State.IGNORED,
        Event.CANCELLED: State.ABORTED,
        **_CANCEL_JOB,
    },
    State.QUEUED: {
        Event.CLAIMED: State.CLAIMED,
        Event.CANCELLED: State.ABORTED,
        Event.SUPERSEDED: State.SUPERSEDED,
        **_CANCEL_JOB,
        **_BY_HOLDER,
    },
    State.CLAIMED: {**_HELD, Event.CANCEL_REQUESTED: State.CLAIMED},
    # A heartbeat that was sent before the accept but comes after it doesn't change the state.
    State.ACCEPTED: {
        **_HELD,
        Event.CANCEL_REQUESTED: State.ACCEPTED,
        Event.HEARD_PENDING: State.ACCEPTED,
    },
    State.RUNNING: {
        **_HELD,
        Event.CANCEL_REQUESTED: State.RUNNING,
        Event.ACCEPTED: State.RUNNING,
        Event.HEARD_PENDING: State.RUNNING,
    },
    State.NEEDS_ATTENTION: {
        **_HELD,
        Event.CANCEL_REQUESTED: State.NEEDS_ATTENTION,
        Event.ACCEPTED: State.NEEDS_ATTENTION,
        Event.HEARD_PENDING: State.NEEDS_ATTENTION,
    },
    # A finish whose answer was lost comes again.
    State.SUCCEEDED: {Event.SUCCEEDED: State.SUCCEEDED},
    State.PARTIALLY_SUCCEEDED: {Event.PARTIALLY_SUCCEEDED: State.PARTIALLY_SUCCEEDED},
    State.FAILED: {Event.FAILED: State.FAILED},
    State.REJECTED: {Event.REJECTED: State.REJECTED},
    # A machine that still runs a job that the hub has ended learns it with its next heartbeat.
    State.ABORTED: {
        Event.ABORTED: State.ABORTED,
        **dict.fromkeys((Event.HEARD_RUNNING, *HEARD.values()), State.ABORTED),
    },
    State.SUPERSEDED: dict.fromkeys(
        (Event.HEARD_RUNNING, *HEARD.values()), State.SUPERSEDED
    ),
    State.IGNORED: {},
}

TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = MappingProxyType(
    {
        (state, event): after
        for state, moves in _MOVES.items()
        for event, after in moves.items()
    }
)


class InvalidTransition(DispatchdError):
    """Bug: an event that can't happen to a job in its state."""


def advance(job: HubJob, event: Event, **changes: Any) -> HubJob:  # noqa: ANN401  # fields of a job, each of its own type
    """Return a job after an event, with other fields changed too.

    Raises:
        InvalidTransition: The table has no such transition.
    """
    state = TRANSITIONS.get((job.state, event))
    if state is None:
        message = f"cannot apply {event} to job {job.id} in state {job.state}"
        raise InvalidTransition(message)
    return evolve(job, state=state, **changes)


def diagram() -> str:
    """Return the transitions as a Mermaid state diagram, rows in table order."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {state}" for state in (State.RECEIVED, State.QUEUED)]
    lines += [
        f"    {before} --> {after}: {' / '.join(events)}"
        for (before, after), events in _grouped(TRANSITIONS.items())
    ]
    return "\n".join(lines) + "\n"


def _grouped(
    rows: Iterable[tuple[tuple[State, Event], State]],
) -> list[tuple[tuple[State, State], list[Event]]]:
    """Return the transitions between different states, each with all events that cause it."""
    groups: dict[tuple[State, State], list[Event]] = {}
    for (before, event), after in rows:
        if before is not after:
            groups.setdefault((before, after), []).append(event)
    return list(groups.items())
