"""Why a queued job waits, in a sentence. Pure."""

from collections.abc import Collection, Sequence
from typing import Final

from attrs import frozen

from dispatchd.hub.domain.binding import FREE, Binding
from dispatchd.hub.domain.model import HubJob, State
from dispatchd.hub.web.text import shown
from dispatchd.protocol.times import ago

_WORDS: Final = {"invited": "not activated yet", "never": "never seen yet"}
"""States of machines that need other words."""

_NAMED: Final = 3
"""Machines that a sentence names (count)."""


@frozen(kw_only=True)
class Worker:
    """A machine as a waiting job sees it."""

    name: str
    server_id: str = ""
    state: str = "active"
    """State of the machine, as in `machine_state` of `api/views.py`; `never` for one that was never heard of."""
    silent_s: float = 0.0
    """Time since it was last heard of (seconds)."""
    workflows: Collection[str] | None = None
    """Workflows that it declares; None for any."""
    binding: Binding = FREE
    jobs: int = 0
    """Jobs that it has (count)."""

    def has(self, workflow: str) -> bool:
        """Return whether it has a workflow."""
        return self.workflows is None or workflow in self.workflows


@frozen(kw_only=True)
class Queue:
    """Circumstances in which queued jobs wait: the machines, and the pause of dispatch."""

    workers: Sequence[Worker]
    is_paused: bool = False
    pause_reason: str = ""

    def why(self, job: HubJob, ahead: int | None = None) -> str:
        """Return why a job waits, in a sentence; empty for a job that doesn't wait.

        Args:
            job: The job.
            ahead: Queued jobs that are dispatched before it (count); None if it isn't known.
        """
        if job.state is State.RECEIVED:
            return "Waits for GitHub to confirm that it may run."
        if job.state is not State.QUEUED:
            return ""
        if job.only_machine:
            return self._one_machine(job.only_machine)
        if self.is_paused and not job.urgent:
            reason = f": {shown(self.pause_reason, 200)}" if self.pause_reason else ""
            return f"Dispatch is paused{reason}."
        return self._any_machine(job, ahead)

    def _one_machine(self, server_id: str) -> str:
        found = [each for each in self.workers if each.server_id == server_id]
        name = shown(found[0].name if found else server_id, 80)
        state = _state(found[0]) if found else "unknown here"
        return f"Only the machine {name} may take it, which is {state}."

    def _any_machine(self, job: HubJob, ahead: int | None) -> str:
        known = [each for each in self.workers if each.state != "revoked"]
        if not known:
            return "No machine has joined this hub: dispatchd hub machine add."
        workflow = f"the workflow {shown(job.workflow, 80)}"
        fit = [each for each in known if each.has(job.workflow)]
        if not [each for each in fit if each.state == "active"]:
            quiet = [each for each in fit if each.state == "away"]
            # A machine that has never asked may have any workflow, or none.
            return _nobody(workflow, [each for each in quiet if each.workflows])
        bound = [
            each
            for each in fit
            if each.binding.may_want(job.workflow, job.repository or None)
        ]
        active = [each for each in bound if each.state == "active"]
        if not active:
            where = f" of {shown(job.repository, 80)}" if job.repository else ""
            return f"No active machine with {workflow} may take jobs{where}: the machines are bound to others."
        return _busy(active, ahead)


def _nobody(workflow: str, quiet: Sequence[Worker]) -> str:
    if not quiet:
        return f"No active machine has {workflow}."
    newest = sorted(quiet, key=lambda each: each.silent_s)[:_NAMED]
    said = ", ".join(f"{shown(each.name, 80)} ({_state(each)})" for each in newest)
    more = len(quiet) - len(newest)
    return (
        f"No active machine has {workflow}; had it: {said}"
        f"{f' and {more} more' if more else ''}."
    )


def _busy(active: Sequence[Worker], ahead: int | None) -> str:
    idle = [each for each in active if not each.jobs]
    all_of_them = (
        "The one machine that may take it"
        if len(active) == 1
        else f"All {len(active)} machines that may take it"
    )
    if idle:
        who = f"{len(idle)} of {len(active)} machines that may take it"
        who = all_of_them if len(active) == 1 else who
        does = "have no job and ask" if len(idle) > 1 else "has no job and asks"
        names = ", ".join(shown(each.name, 80) for each in idle[:_NAMED])
        why = "paused, draining, full, or about to ask"
        sentence = f"{who} {does} for none: {why} ({names})"
    elif len(active) == 1:
        sentence = f"{all_of_them} is busy ({shown(active[0].name, 80)})"
    else:
        sentence = f"{all_of_them} are busy"
    if ahead is None:
        return f"{sentence}."
    before = "1 queued job is" if ahead == 1 else f"{ahead or 'no'} queued jobs are"
    return f"{sentence}; {before} before it."


def _state(worker: Worker) -> str:
    if worker.state == "away":
        return f"away, last heard of {ago(worker.silent_s)}"
    if worker.state in _WORDS:
        return _WORDS[worker.state]
    if worker.state == "active":
        jobs = "1 job" if worker.jobs == 1 else f"{worker.jobs} jobs"
        return f"busy with {jobs}" if worker.jobs else "idle"
    return worker.state
