"""Brief of a headless command: facts about its run, and never a credential (contracts/README.md, run-brief).

Every text in it comes from outside (a comment, a branch name, a URL). Every text is therefore scrubbed:
whatever has the form of a credential is removed.
"""

from collections.abc import Callable
from typing import Final

from dispatchd.agent.domain.job import Attempt
from dispatchd.protocol.job import Job, Json
from dispatchd.protocol.json_path import at, number, text

CONTRACT_VERSION: Final = "1"
"""Version of the headless contract: brief, result and events."""

_LARGEST_ID: Final = 2**63 - 1
"""Largest id at GitHub (contracts/README.md, limits)."""


def brief(
    job: Job,
    payload: Json,
    attempt: Attempt,
    *,
    workspace: str,
    clone_url: str = "",
    scrub: Callable[[str], str],
) -> dict[str, Json]:
    """Return the brief of an attempt.

    Args:
        job: The job; the run's id is the job's.
        payload: The body of its event; a value of another kind than expected counts as absent.
        attempt: The attempt.
        workspace: Folder in which the command starts (absolute path).
        clone_url: Address from which the repository can be cloned, as the machine's owner configured it.
        scrub: Takes credentials out of a text.
    """
    document: dict[str, Json] = {
        "contract_version": CONTRACT_VERSION,
        "job": {"id": job.id, "run_id": job.id},
        "trigger": {
            "event": job.event,
            "action": job.action,
            "command": job.command,
            "actor": job.actor,
            "delivery_id": job.delivery_id,
        },
        "repository": _repository(job, payload, clone_url),
        "target": _target(job, payload),
    }
    return {
        **{name: _scrubbed(value, scrub) for name, value in document.items()},
        # The machine's own words.
        "workflow": job.workflow,
        "attempt": attempt.number,
        "deadline": attempt.deadline_at.isoformat(),
        "workspace": workspace,
    }


def _repository(job: Job, payload: Json, clone_url: str) -> Json:
    if job.owner_and_name is None:
        return None
    owner, name = job.owner_and_name
    return {
        "owner": owner,
        "name": name,
        "clone_url": clone_url,
        "default_branch": text(payload, "repository", "default_branch"),
    }


def _target(job: Job, payload: Json) -> Json:
    return {
        "ref": job.ref,
        "sha": job.sha,
        "base_ref": text(payload, "pull_request", "base", "ref"),
        "head_ref": text(payload, "pull_request", "head", "ref"),
        "pull_request": job.pull_request,
        "issue": job.issue,
        "comment": _comment(payload),
    }


def _comment(payload: Json) -> Json:
    if not isinstance(at(payload, "comment"), dict):
        return None
    comment_id = number(payload, "comment", "id")
    return {
        "id": comment_id
        if comment_id is not None and 0 <= comment_id <= _LARGEST_ID
        else None,
        "body": text(payload, "comment", "body"),
    }


def _scrubbed(value: Json, scrub: Callable[[str], str]) -> Json:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {name: _scrubbed(member, scrub) for name, member in value.items()}
    return value
