"""Texts of the page: safe forms of jobs' texts, and a sentence for each state."""

from shlex import quote as quote_word
from typing import Final
from urllib.parse import quote, urlencode

from dispatchd.hub.domain.decisions.decision import Decision, Stage, waiting
from dispatchd.hub.domain.model import HELD, HubJob, State
from dispatchd.redaction.escapes import COLOURS, written_out

SENTENCES: Final = {
    State.RECEIVED: "Waits for GitHub to confirm that it may run.",
    State.QUEUED: "Waits for a machine that has this workflow.",
    State.CLAIMED: "Handed to a machine, which has not accepted it yet.",
    State.ACCEPTED: "A machine has accepted it and has not started it yet.",
    State.RUNNING: "Runs on its machine.",
    State.NEEDS_ATTENTION: "Parked on its machine until a person decides.",
    State.SUCCEEDED: "Succeeded.",
    State.PARTIALLY_SUCCEEDED: "Succeeded in part.",
    State.FAILED: "Failed.",
    State.ABORTED: "Cancelled.",
    State.REJECTED: "Not run: its machine can't run it.",
    State.IGNORED: "Not run: GitHub did not confirm it, or nobody wants it any more.",
    State.SUPERSEDED: "Not run: a newer job took its place.",
}


def shown(text: object, most: int = 2000) -> str:
    """Return a text on one line, cut to `most` characters, with characters that act on the text around them written out."""
    escaped = written_out(str(text)[: most + 1])
    return escaped if len(str(text)) <= most else f"{escaped[:most]}…"


def shown_lines(text: str) -> str:
    """Return a text of several lines, such as a log, without a terminal's colours."""
    plain = COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return written_out(plain, but="\n\t")


def state_word(state: str) -> str:
    """Return the name of a state for people."""
    return state.replace("_", " ")


def state_of(job: HubJob) -> str:
    """Return the state of a job for people; of one that is being cancelled it says so."""
    if job.cancel_requested and job.state in HELD:
        return "cancelling"
    return state_word(job.state.value)


def job_path(job_id: str, action: str = "") -> str:
    """Return the path of a job, or of an action on it.

    Browsers treat the ids `.` and `..` as folders, however they are encoded, so these go into the query.
    """
    after = f"/{action}" if action else ""
    if job_id in {".", ".."}:
        return f"/jobs{after}?{urlencode({'id': job_id})}"
    return f"/jobs/{quote(job_id, safe='')}{after}"


_STAGES: Final = {
    Stage.WAITING: "waiting for its machine",
    Stage.SENT: "sent to its machine",
    Stage.OVERTAKEN: "never reached its machine, which is ahead of it",
}


def stage(decision: Decision, job: HubJob) -> str:
    """Return how far a decision about a job has come, in words."""
    return _STAGES[decision.stage(job)]


def standing(job: HubJob, why: str = "") -> str:
    """Return the state of a job, in a sentence or two.

    Args:
        job: The job.
        why: Why it waits, in a sentence; empty if that isn't known.
    """
    sentence = why or SENTENCES[job.state]
    if job.state is State.QUEUED and job.lapsed:
        return (
            f"Queued again, because {shown(job.machine, 200)} was not heard of any more. "
            f"That machine may still run it until another one has it. {why}"
        ).strip()
    if job.state is State.QUEUED and job.only_machine and not why:
        sentence = f"Waits for the machine {shown(job.only_machine, 200)}."
    if job.cancel_requested and not job.finished_at:
        return "Somebody has cancelled it. Its machine is told with its next call, and ends it."
    if job.state is State.NEEDS_ATTENTION:
        if decision := waiting(job):
            return f"Decided: {decision.choice}. Waits for its machine, which carries it out."
        if not job.parked:
            command = f"dispatchd resolve {quote_word(shown(job.id, 600))} --retry, --fail or --succeed"
            return f"{sentence} The machine takes no decisions from here; type there: {command}"
    return sentence
