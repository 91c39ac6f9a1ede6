"""A job again, with values that a person has changed. Pure."""

from collections.abc import Mapping
from typing import Final

from dispatchd.errors import ContractViolation
from dispatchd.hub.domain.errors import NotChangeable
from dispatchd.hub.domain.model import HubJob, Submission
from dispatchd.protocol import json_text

LONGEST_PAYLOAD: Final = 4000
"""Longest payload that can be changed on the page (characters)."""

_LONGEST: Final = 512
"""Longest of the other values (characters)."""


def can_change(job: HubJob) -> bool:
    """Return whether a job can be run again with other values: it neither ends nor decides about another one."""
    document = job.document
    return not document.is_cancel and document.resolution is None


def changed(
    job: HubJob, texts: tuple[str, str], values: Mapping[str, str], *, new_id: str
) -> Submission:
    """Return the submission of a job with other values. No event has made it, so GitHub vouches for nothing in it.

    Args:
        job: The job that has ended.
        texts: Its payload and headers (JSON).
        values: The values of `workflow`, `ref`, `sha` and `payload`; one that is left out stays.
        new_id: The new job's id.

    Raises:
        NotChangeable: The job can't be changed, or a value is none.
    """
    _require(can_change(job), "a job that acts on another one can't be changed")
    old, headers = texts
    payload = values.get("payload", old).replace("\r\n", "\n")
    if payload == old.replace("\r\n", "\n"):
        payload = old
    _require(_is_json(payload), "the payload has to be JSON")
    now = job.document
    names = {"workflow": now.workflow, "ref": now.ref, "sha": now.sha}
    wanted = {name: values.get(name, old).strip() for name, old in names.items()}
    _require(wanted["workflow"], "the job needs a workflow")
    is_short = max(map(len, wanted.values())) <= _LONGEST
    _require(is_short, f"a value is longer than {_LONGEST} characters")
    is_same = payload == old and (wanted["ref"], wanted["sha"]) == (now.ref, now.sha)
    document = now.changed(
        id=new_id,
        workflow=wanted["workflow"],
        ref=wanted["ref"],
        sha=wanted["sha"],
        delivery_id="",
        installation_id=0,
        comment_id=0,
        # Of another commit or payload nobody knows what it is about.
        title=now.title if is_same else "",
    )
    return Submission(
        id=new_id,
        document=document.without_empty(),
        payload=payload,
        headers=headers,
        priority=job.priority,
        # A person wants this commit; it isn't newer than the waiting jobs.
        supersedes=False,
    )


def _require(holds: object, rule: str) -> None:
    """Check a rule.

    Raises:
        NotChangeable: It doesn't hold.
    """
    if not holds:
        raise NotChangeable(rule)


def _is_json(text: str) -> bool:
    try:
        json_text.loads(text)
    except ContractViolation:
        return False
    return True
