"""Phases of a tracked job, and the only transitions between them.

The machine is data: `TRANSITIONS` maps (phase, event) to the next phase, and a pair that isn't in it
is a bug. A repeated or late message that must be harmless is a row that stays in its phase, so that
nothing outside this table decides what a duplicate means.

Every phase but history owes exactly one action (`OWES`). Loops look for owed actions and perform them. A
restarted daemon finds the same owed actions in the same records, so recovery is no special case.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Phase(StrEnum):
    """Phase of a tracked job; the values are those on disk."""

    PENDING_ACCEPT = "pending_accept"
    """The job is durable here; the endpoint has not confirmed that it is ours."""
    ACCEPTED = "accepted"
    """The job is ours, and waits for a slot."""
    RELEASING = "releasing"
    """We are handing the job back; the endpoint has not confirmed that it has it."""
    RUNNING = "running"
    """An attempt has, or is about to get, a process."""
    RETRY_WAIT = "retry_wait"
    """An attempt failed in a retry-safe way; the time of the next one is set."""
    NEEDS_ATTENTION = "needs_attention"
    """The job is parked for a person; it holds no slot."""
    FINISHING = "finishing"
    """The outcome is decided; the endpoint has not acknowledged it."""
    HISTORY = "history"
    """Nothing is left to do."""


class Event(StrEnum):
    """Events of a tracked job."""

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
    """Nothing ran, for a reason that may pass. The attempt doesn't count, and its start is tried again."""
    ATTEMPT_FAILED = "attempt_failed"
    """An attempt failed in a retry-safe way, within the budget."""
    REJECTED = "rejected"
    """The job can't be run here: unknown workflow or broken contract."""
    DECIDED = "decided"
    """The outcome is known."""
    PARKED = "parked"
    """Only a person can decide what happens next."""
    RESOLVED = "resolved"
    """A person decided how a parked job ends."""
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
"""Phases before the next, or only, attempt. A job in one of them that has had no attempt can be handed back."""

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
"""Events that end a run, an attempt or a job. They are recorded on a full disk too, because they free space."""

_TOO_LATE: Final = frozenset(
    {Event.ATTEMPT_STARTING, Event.REJECTED, Event.DECIDED, Event.PARKED}
)
"""Events that were decided on a record that a person, a cancel or the endpoint has moved meanwhile."""

_RELEASE_ANSWERED: Final = frozenset({Event.RELEASED, Event.RELEASE_REFUSED})
"""Events that come too late where a cancel or another delivery has overtaken a release."""

_STAY: Final[Mapping[Phase, frozenset[Event]]] = {
    # Decisions of the run loop in `accepted`, made before the job was handed out again or resolved.
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
            # A run is never given up because its lease is lost: a late result is still a result.
            # A start without a process is no run, and is reverted first (`TrackedJob.after_answer`).
            Event.ACCEPT_REFUSED,
            Event.LEASE_LOST,
            Event.ATTEMPT_STARTED,
            Event.STOP_ORDERED,
            Event.CANCEL_REQUESTED,
            *_RELEASE_ANSWERED,
        }
    ),
    Phase.RETRY_WAIT: frozenset({Event.ACCEPT_CONFIRMED, *_RELEASE_ANSWERED}),
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
    # The new claim has not been accepted yet; a kill must not lose that fact.
    (Phase.ACCEPTED, Event.REDELIVERED): Phase.PENDING_ACCEPT,
    (Phase.ACCEPTED, Event.ATTEMPT_STARTING): Phase.RUNNING,
    (Phase.ACCEPTED, Event.ACCEPT_REFUSED): Phase.HISTORY,
    (Phase.ACCEPTED, Event.LEASE_LOST): Phase.HISTORY,
    (Phase.ACCEPTED, Event.RELEASE_WANTED): Phase.RELEASING,
    (Phase.ACCEPTED, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.ACCEPTED, Event.REJECTED): Phase.FINISHING,
    (Phase.ACCEPTED, Event.DECIDED): Phase.FINISHING,
    (Phase.ACCEPTED, Event.PARKED): Phase.NEEDS_ATTENTION,
    # Once a release may have been sent, an accept of the same claim proves nothing: the release is repeated.
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
    (Phase.RETRY_WAIT, Event.REDELIVERED): Phase.PENDING_ACCEPT,
    (Phase.RETRY_WAIT, Event.ATTEMPT_STARTING): Phase.RUNNING,
    # Nothing runs now, and starting again would pass the fence that the endpoint has closed.
    (Phase.RETRY_WAIT, Event.ACCEPT_REFUSED): Phase.HISTORY,
    (Phase.RETRY_WAIT, Event.LEASE_LOST): Phase.HISTORY,
    (Phase.RETRY_WAIT, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.RETRY_WAIT, Event.REJECTED): Phase.FINISHING,
    (Phase.RETRY_WAIT, Event.PARKED): Phase.NEEDS_ATTENTION,
    (Phase.NEEDS_ATTENTION, Event.CANCEL_REQUESTED): Phase.FINISHING,
    (Phase.NEEDS_ATTENTION, Event.RESOLVED): Phase.FINISHING,
    # Through the fence again: the endpoint may have given the parked job to another machine.
    (Phase.NEEDS_ATTENTION, Event.RESOLVED_RETRY): Phase.PENDING_ACCEPT,
    (Phase.FINISHING, Event.FINISH_ACKNOWLEDGED): Phase.HISTORY,
    (Phase.FINISHING, Event.FINISH_REFUSED): Phase.HISTORY,
    # It is never run again: its finish is owed again, with heartbeats, so that nobody else is given the job.
    (Phase.HISTORY, Event.REDELIVERED): Phase.FINISHING,
}

TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = MappingProxyType(
    {(phase, event): phase for phase, events in _STAY.items() for event in events}
    | dict(_MOVE)
)


def diagram() -> str:
    """Return the transitions of the table as a Mermaid state diagram, rows in table order."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.PENDING_ACCEPT}: pulled"]
    lines += [
        f"    {before} --> {after}: {event}" for (before, event), after in _MOVE.items()
    ]
    lines.append(f"    {Phase.HISTORY} --> [*]: retention over")
    return "\n".join(lines) + "\n"
