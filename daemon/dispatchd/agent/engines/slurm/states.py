"""Slurm's states of a job, as squeue(1) shows them, and what they say about an attempt. Pure."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.agent.engines.start_script import CLAIM_LOST, TOO_LATE
from dispatchd.protocol.outcome import Exit, FailureCause

FORMAT: Final = "JobID:|,Name:|,State:|,Reason:|,exit_code:|,NodeList:"
"""Columns of a listing. `exit_code` is the status of wait(2), also where squeue's own columns show another form."""

_COLUMNS: Final = 6

WAITING: Final = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD"})
"""States before a command has begun."""

_LOST: Final = MappingProxyType(
    {
        "NODE_FAIL": "its node failed",
        "BOOT_FAIL": "its node didn't boot",
        "LAUNCH_FAILED": "Slurm could not launch it",
        "RECONFIG_FAIL": "its node could not be reconfigured",
        "PREEMPTED": "another job took its place (PREEMPTED)",
        "REVOKED": "it was revoked",
    }
)
"""States after which nobody knows how far a command came."""

_TIME: Final = frozenset({"TIMEOUT", "DEADLINE"})

_FINAL: Final = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "OUT_OF_MEMORY", *_TIME, *_LOST}
)

_OWN_NAME: Final = re.compile("dd-[0-9a-f]{12}-[0-9a-f]{16}")
"""Name of a job of a daemon's own, of any machine."""

_HELD: Final = "JobHeldUser"
"""Reason of a job that its own user holds, as each is from its submission to its release."""

_SIGNAL: Final = 0x7F
"""Part of a status of wait(2) that is the signal (W.TERMSIG)."""

_SIGNAL_BASE: Final = 128

_GIVEN_UP: Final = 1
"""Status of a job that the controller itself has failed (job_mgr.c: `exit_code = 1`)."""

_KILLED: Final = 137


@frozen(kw_only=True)
class Row:
    """One job in a listing. `status` is that of wait(2)."""

    job_id: int
    name: str
    state: str
    reason: str = ""
    status: int = 0
    nodes: str = ""

    @property
    def is_held(self) -> bool:
        """True if it was submitted, and its user holds it."""
        return self.state == "PENDING" and self.reason == _HELD

    @property
    def is_queued(self) -> bool:
        """True if it waits in the cluster's queue, and nobody has to do anything about it."""
        return self.state in WAITING and not self.is_held

    @property
    def is_final(self) -> bool:
        """True if nothing of it runs, or will run."""
        return self.state in _FINAL

    @property
    def is_cancelled(self) -> bool:
        """True if somebody has cancelled it."""
        return self.state == "CANCELLED"

    @property
    def code(self) -> int:
        """Its exit code, as a POSIX shell reports it."""
        number = self.status & _SIGNAL
        return _SIGNAL_BASE + number if number else self.status >> 8 & 0xFF

    @property
    def was_killed(self) -> bool:
        """True if it was ended with SIGKILL."""
        return self.code == _KILLED

    @property
    def came_late(self) -> bool:
        """True if its script had no permission to begin any more, if that script has claimed nothing."""
        return self.state == "FAILED" and self.code == TOO_LATE

    @property
    def is_given_up(self) -> bool:
        """True if the controller itself calls it failed, as one whose script it has lost: no node has told an exit code.

        It says 1 then, which is SIGHUP in a status of wait(2); a batch script of ours doesn't end by that.
        """
        return self.state == "FAILED" and self.status == _GIVEN_UP

    @property
    def found_claimed(self) -> bool:
        """True if its script found its attempt claimed."""
        return self.state == "FAILED" and self.code == CLAIM_LOST

    def described(self) -> str:
        """Return its place and state in words."""
        where = f" on {self.nodes}" if self.nodes else ""
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"Slurm job {self.job_id}: {self.state}{why}{where}"


def parsed(listing: str, prefix: str, known: Mapping[str, Row]) -> dict[str, Row]:
    """Return the jobs of a listing whose names begin with a prefix, by their lines; what is `known` isn't read again.

    Raises:
        ValueError: The text isn't a listing.
    """
    rows = {}
    for line in listing.split("\n"):
        row = known.get(line) or _row(line, prefix)
        if row is not None:
            rows[line] = row
    return rows


def _row(line: str, prefix: str) -> Row | None:
    # A reason may hold anything; names that begin so are ours, and hold no bar.
    columns = line.split("|")
    if len(columns) < _COLUMNS or not columns[1].startswith(prefix):
        return None
    job_id, name, state, *reason, status, nodes = columns
    if not job_id.isdecimal():
        # The rest of a name with a line's end in it, which anybody may give a job of this user.
        return None
    try:
        return Row(
            job_id=int(job_id),
            name=name,
            state=state.partition(" ")[0],
            reason="|".join(reason),
            status=int(status),
            nodes=nodes.strip(),
        )
    except ValueError:
        # Anybody may give a job of this user a name that begins so, with bars in it.
        if _OWN_NAME.fullmatch(name):
            raise
        return None


def ended(row: Row, exit_file: int | None) -> Exit:
    """Return how an attempt ended whose job is over; its script began.

    The controller's exit code counts; the one in the file is that of the run's own script, which it could write.
    """
    if row.state in _TIME:
        note = f"Slurm job {row.job_id} reached its time limit there ({row.state})."
        return Exit(code=row.code, cause=FailureCause.MAX_DURATION, note=note)
    if row.is_cancelled:
        note = f"Slurm job {row.job_id} was cancelled."
        return Exit(
            code=row.code,
            cause=FailureCause.CANCELLED,
            escalated=row.was_killed,
            note=note,
        )
    if row.state in _LOST:
        return _lost(row, exit_file)
    if row.state == "OUT_OF_MEMORY":
        note = f"Slurm job {row.job_id} took more memory than it may (OUT_OF_MEMORY)."
        return Exit(code=_KILLED, note=note)
    if row.found_claimed:
        # Somebody has queued the job again; its second script found the attempt claimed by the first.
        return Exit(code=exit_file)
    return Exit(code=row.code)


def _lost(row: Row, exit_file: int | None) -> Exit:
    note = f"Slurm job {row.job_id}: {_LOST[row.state]}."
    if row.state == "NODE_FAIL" and exit_file is not None:
        # It ended on a node that the controller could not hear any more.
        note = f"{note} The exit code is the one that its script left."
        return Exit(code=exit_file, note=note)
    return Exit(code=None, note=note)
