"""Texts of the page: safe forms of jobs' texts, and a sentence for each state."""

from shlex import quote as quote_word
from typing import Final
from urllib.parse import quote, urlencode

from dispatchd.hub.domain.decisions.decision import Decision, Stage, waiting
from dispatchd.hub.domain.model import HubJob, State
from dispatchd.redaction.escapes import COLOURS, written_out

SENTENCES: Final = {
    State.RECEIVED: "Kept, and not yet free to be handed out.",
    State.QUEUED: "Waits for a machine that takes this workflow.",
    State.CLAIMED: "Handed to a machine, which has not accepted it yet.",
    State.ACCEPTED: "A machine has accepted it and has not started it yet.",
    State.RUNNING: "Runs on its machine.",
    State.NEEDS_ATTENTION: "Parked on its machine until a person decides.",
    State.SUCCEEDED: "Ended, and all went well.",
    State.PARTIALLY_SUCCEEDED: "Ended; a part of it went well.",
    State.FAILED: "Ended without success.",
    State.ABORTED: "Somebody ended it.",
    State.REJECTED: "Never run, because its machine can't run it.",
    State.IGNORED: "No rule wanted it.",
    State.SUPERSEDED: "A newer job has taken its place before a machine had it.",
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


def standing(job: HubJob) -> str:
    """Return the state of a job, in a sentence or two."""
    sentence = SENTENCES[job.state]
    if job.state is State.QUEUED and job.lapsed:
        return (
            f"Queued again, because {shown(job.machine, 200)} was not heard of any more. "
            "That machine may still run it until another one has it."
        )
    if job.state is State.QUEUED and job.only_machine:
        sentence = f"Waits for the machine {shown(job.only_machine, 200)}."
    if job.cancel_requested and not job.finished_at:
        return f"{sentence} Somebody wants it to end, and its machine will be told."
    if job.state is State.NEEDS_ATTENTION:
        if decision := waiting(job):
            return f"Decided: {decision.choice}. Waits for its machine, which carries it out."
        if not job.parked:
            command = f"dispatchd resolve {quote_word(shown(job.id, 600))} --retry, --fail or --succeed"
            return f"{sentence} The machine takes no decisions from here; type there: {command}"
    return sentence
