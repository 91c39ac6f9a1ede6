"""Where a tracked job stands, and the only moves it can make.

The machine is data: `TRANSITIONS` maps (phase, event) to the next phase, and a pair that isn't in it
is a bug. A repeated or late message that must be harmless is a row that stays where it is, so that
nothing outside this table decides what a duplicate means.

Every phase but history owes exactly one action (`OWES`). Loops look for debts and pay them; a
restarted daemon finds the same debts in the same records, so recovery is no special case.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Phase(StrEnum):
    """Where a tracked job stands; the values are those on disk."""

    PENDING_ACCEPT = "pending_accept"
    """Durable here; the endpoint has not confirmed that the job is ours."""
    ACCEPTED = "accepted"
    """Ours; waits for a slot."""
    RELEASING = "releasing"
    """Not ours any more by our own will; the endpoint has not confirmed that it has it back."""
    RUNNING = "running"
    """An attempt has, or is about to get, a process."""
    RETRY_WAIT = "retry_wait"
    """A retry-safe failure; the next attempt has a time."""
    NEEDS_ATTENTION = "needs_attention"
    """Parked for a person; holds no slot."""
    FINISHING = "finishing"
    """The outcome is decided; the endpoint has not acknowledged it."""
    HISTORY = "history"
    """Nothing is owed any more."""


class Event(StrEnum):
    """What can happen to a tracked job."""

    REDELIVERED = "redelivered"
    """The endpoint handed the same job out again."""
    ACCEPT_CONFIRMED = "accept_confirmed"
    """The endpoint agreed that the job is ours: the fence before any process."""
    ACCEPT_REFUSED = "accept_refused"
    """The endpoint said that the job isn't ours (404, 409, 410)."""
    LEASE_LOST = "lease_lost"
    """A heartbeat was answered with 404, 409 or 410."""
    RELEASE_WANTED = "release_wanted"
    """We want to hand the unstarted job back."""
    RELEASED = "released"
    """The endpoint has the job back."""
    RELEASE_REFUSED = "release_refused"
    """The endpoint said that the job wasn't ours to hand back (404, 409, 410)."""
    ATTEMPT_STARTING = "attempt_starting"
    """An attempt is about to get its process."""
    ATTEMPT_STARTED = "attempt_started"
    """The attempt's process exists, behind its closed gate."""
    ATTEMPT_NEVER_STARTED = "attempt_never_started"
    """The gate stayed closed: nothing ran, so the attempt doesn't count."""
    STOP_ORDERED = "stop_ordered"
    """A watchdog decided to end the running attempt."""
    CANCEL_REQUESTED = "cancel_requested"
    """Somebody wants the run to end."""
    START_FAILED = "start_failed"
    """Nothing ran, for a reason that may pass; the attempt doesn't count, and its start is tried again."""
    ATTEMPT_FAILED = "attempt_failed"
    """A retry-safe failure within the budget."""
    REJECTED = "rejected"
    """The job can't be run here: unknown workflow or broken contract."""
    DECIDED = "decided"
    """The outcome is known."""
    PARKED = "parked"
    """Only a person can say how this goes on."""
    RESOLVED = "resolved"
    """A person said how a parked job ends."""
    RESOLVED_RETRY = "resolved_retry"
    """A person wants another attempt of a parked job."""
    FINISH_ACKNOWLEDGED = "finish_acknowledged"
    """The endpoint has the outcome."""
    FINISH_REFUSED = "finish_refused"
    """The endpoint closed the job without us (404, 409, 410)."""


class Debt(StrEnum):
    """The one action that a phase owes."""

    ACCEPT = "accept"
    RELEASE = "release"
    START = "start"
    FOLLOW = "follow"
    WAIT = "wait"
    ASK_A_PERSON = "ask a person"
    FINISH = "finish"
    NOTHING = "nothing"


OWES: Final[Mapping[Phase, Debt]] = MappingProxyType(
    {
        Phase.PENDING_ACCEPT: Debt.ACCEPT,
        Phase.ACCEPTED: Debt.START,
        Phase.RELEASING: Debt.RELEASE,
        Phase.RUNNING: Debt.FOLLOW,
        Phase.RETRY_WAIT: Debt.WAIT,
        Phase.NEEDS_ATTENTION: Debt.ASK_A_PERSON,
        Phase.FINISHING: Debt.FINISH,
        Phase.HISTORY: Debt.NOTHING,
    }
)

UNSTARTED: Final = frozenset({Phase.PENDING_ACCEPT, Phase.ACCEPTED})
"""Phases before the next, or only, attempt; a job in one of them that has had none can be handed back."""

ENDS: Final = frozenset(
    {
        Event.STOP_ORDERED,
        Event.CANCEL_REQUESTED,
        Event.ATTEMPT_NEVER_STARTED,
        Event.START_FAILED,
        Event.ATTEMPT_FAILED,
        Event.DECIDED,
        Event.PARKED,
        Event.RESOLVED,
        Event.FINISH_ACKNOWLEDGED,
        Event.FINISH_REFUSED,
        Event.LEASE_LOST,
        Event.ACCEPT_REFUSED,
        Event.RELEASED,
        Event.RELEASE_REFUSED,
    }
)
"""Events that end a run, an attempt or a job. They are recorded on a full disk too, because they give room back."""

_TOO_LATE: Final = frozenset(
    {Event.ATTEMPT_STARTING, Event.REJECTED, Event.DECIDED, Event.PARKED}
)
"""What was decided on a record that a person, a cancel or the endpoint has moved meanwhile."""

_RELEASE_ANSWERED: Final = frozenset({Event.RELEASED, Event.RELEASE_REFUSED})
"""What comes too late where a cancel or another delivery has overtaken a release."""

_STAY: Final[Mapping[Phase, frozenset[Event]]] = {
    # What the run loop decided while it was accepted, before it was handed out again or resolved.
    Phase.PENDING_ACCEPT: frozenset(
        {
            Event.REDELIVERED,
            Event.ATTEMPT_STARTING,
            Event.DECIDED,
            *_RELEASE_ANSWERED,
        }
    ),
    Phase.ACCEPTED: frozenset({Event.ACCEPT_CONFIRMED, *_RELEASE_ANSWERED}),
    Phase.RELEASING: frozenset({Event.ACCEPT_CONFIRMED, *_TOO_LATE}),
    Phase.RUNNING: frozenset(
        {
            Event.REDELIVERED,
            Event.ACCEPT_CONFIRMED,
            # A run is never given up because the endpoint lost patience: a late result is still a result.
            # A start without a process is no run, and is taken back first (`TrackedJob.after_answer`).
            Event.ACCEPT_REFUSED,
            Event.LEASE_LOST,
            Event.ATTEMPT_STARTED,
            Event.STOP_ORDERED,
            Event.CANCEL_REQUESTED,
            *_RELEASE_ANSWERED,
        }
    ),
    Phase.RETRY_WAIT: frozenset(
        {Event.REDELIVERED, Event.ACCEPT_CONFIRMED, *_RELEASE_ANSWERED}
    ),
    Phase.NEEDS_ATTENTION: frozenset(
        {
            Event.REDELIVERED,
            Event.ACCEPT_CONFIRMED,
            Event.ACCEPT_REFUSED,
            Event.LEASE_LOST,
            *_TOO_LATE,
            *_RELEASE_ANSWERED,
        }
    ),
    Phase.FINISHING: frozenset(
        {
            Event.REDELIVERED,
            Event.ACCEPT_CONFIRMED,
            Event.ACCEPT_REFUSED,
            Event.LEASE_LOST,
            Event.CANCEL_REQUESTED,
            *_TOO_LATE,
            *_RELEASE_ANSWERED,
        }
    ),
    Phase.HISTORY: frozenset(
        {
            # Its finish is repeated, it is never run again (`loops/report.py`).
            Event.REDELIVERED,
            Event.ACCEPT_CONFIRMED,
            Event.ACCEPT_REFUSED,
            Event.LEASE_LOST,
            Event.CANCEL_REQUESTED,
            Event.FINISH_ACKNOWLEDGED,
            Event.FINISH_REFUSED,
            *_TOO_LATE,
            *_RELEASE_ANSWERED,
        }
    ),
}

_MOVE: Final[Mapping[tuple[Phase, Event], Phase]] = {
    (Phase.PENDING_ACCEPT, Event.ACCEPT_CONFIRMED): Phase.ACCEPTED,
    (Phase.PENDING_ACCEPT, Event.ACCEPT_REFUSED): Phase.HISTORY,
    (Phase.PENDING_ACCEPT, Event.LEASE_LOST): Phase.HISTORY,
    (Phase.PENDING_ACCEPT, Event.RELEASE_WANTED): Phase.RELEASING,
    (Phase.PENDING_ACCEPT, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.PENDING_ACCEPT, Event.REJECTED): Phase.FINISHING,
    (Phase.PENDING_ACCEPT, Event.PARKED): Phase.NEEDS_ATTENTION,
    # The new claim has not been accepted yet, and that must not be forgotten by a kill.
    (Phase.ACCEPTED, Event.REDELIVERED): Phase.PENDING_ACCEPT,
    (Phase.ACCEPTED, Event.ATTEMPT_STARTING): Phase.RUNNING,
    (Phase.ACCEPTED, Event.ACCEPT_REFUSED): Phase.HISTORY,
    (Phase.ACCEPTED, Event.LEASE_LOST): Phase.HISTORY,
    (Phase.ACCEPTED, Event.RELEASE_WANTED): Phase.RELEASING,
    (Phase.ACCEPTED, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.ACCEPTED, Event.REJECTED): Phase.FINISHING,
    (Phase.ACCEPTED, Event.DECIDED): Phase.FINISHING,
    (Phase.ACCEPTED, Event.PARKED): Phase.NEEDS_ATTENTION,
    # Once a release may be on its way, no accept of the same claim says anything: it is repeated until answered.
    (Phase.RELEASING, Event.RELEASED): Phase.HISTORY,
    (Phase.RELEASING, Event.RELEASE_REFUSED): Phase.HISTORY,
    (Phase.RELEASING, Event.ACCEPT_REFUSED): Phase.HISTORY,
    (Phase.RELEASING, Event.LEASE_LOST): Phase.HISTORY,
    (Phase.RELEASING, Event.REDELIVERED): Phase.PENDING_ACCEPT,
    (Phase.RELEASING, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.RUNNING, Event.ATTEMPT_NEVER_STARTED): Phase.ACCEPTED,
    (Phase.RUNNING, Event.START_FAILED): Phase.RETRY_WAIT,
    (Phase.RUNNING, Event.ATTEMPT_FAILED): Phase.RETRY_WAIT,
    (Phase.RUNNING, Event.DECIDED): Phase.FINISHING,
    (Phase.RUNNING, Event.PARKED): Phase.NEEDS_ATTENTION,
    (Phase.RETRY_WAIT, Event.ATTEMPT_STARTING): Phase.RUNNING,
    # Nothing runs now, and starting again would pass the fence that the endpoint has closed.
    (Phase.RETRY_WAIT, Event.ACCEPT_REFUSED): Phase.HISTORY,
    (Phase.RETRY_WAIT, Event.LEASE_LOST): Phase.HISTORY,
    (Phase.RETRY_WAIT, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.RETRY_WAIT, Event.REJECTED): Phase.FINISHING,
    (Phase.RETRY_WAIT, Event.PARKED): Phase.NEEDS_ATTENTION,
    (Phase.NEEDS_ATTENTION, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.NEEDS_ATTENTION, Event.RESOLVED): Phase.FINISHING,
    # Through the fence again: while it was parked, the endpoint may have given the job to somebody else.
    (Phase.NEEDS_ATTENTION, Event.RESOLVED_RETRY): Phase.PENDING_ACCEPT,
    (Phase.FINISHING, Event.FINISH_ACKNOWLEDGED): Phase.HISTORY,
    (Phase.FINISHING, Event.FINISH_REFUSED): Phase.HISTORY,
}

TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = MappingProxyType(
    {(phase, event): phase for phase, events in _STAY.items() for event in events}
    | dict(_MOVE)
)


def diagram() -> str:
    """Return the moves of the table as a Mermaid state diagram, rows in table order."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.PENDING_ACCEPT}: pulled"]
    lines += [
        f"    {before} --> {after}: {event}" for (before, event), after in _MOVE.items()
    ]
    lines.append(f"    {Phase.HISTORY} --> [*]: retention over")
    return "\n".join(lines) + "\n"
