"""Fields of a job, read from a GitHub payload, and the page at GitHub that they lead to."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from dispatchd.protocol.job import Job, Json
from dispatchd.protocol.json_path import at, number, text

_SUBJECTS: Final = (
    ("pull_request", "pull_request_number", "pull"),
    ("issue", "issue_number", "issues"),
    ("sha", "sha", "commit"),
)
"""Subjects of a job, best first: name, field on the wire, and path at GitHub."""


def job_from_event(job_id: str, workflow: str, event: str, payload: Json) -> Job:
    """Return the job for an event, with every field that the payload has.

    The payload is hostile input: a value of another kind than expected counts as absent.

    Args:
        job_id: The job's id.
        workflow: The workflow that the job asks for.
        event: The event's name, as in X-GitHub-Event.
        payload: The event's body.
    """
    of_pull_request = at(payload, "pull_request") or at(
        payload, "issue", "pull_request"
    )
    return Job(
        id=job_id,
        workflow=workflow,
        event=event,
        action=text(payload, "action"),
        repository=text(payload, "repository", "full_name"),
        repository_id=number(payload, "repository", "id"),
        installation_id=number(payload, "installation", "id"),
        ref=_ref(payload),
        sha=_sha(payload),
        pull_request=number(payload, "pull_request", "number")
        or (number(payload, "issue", "number") if of_pull_request else None),
        issue=number(payload, "issue", "number"),
        comment_id=number(payload, "comment", "id"),
        check_run_id=number(payload, "check_run", "id"),
        actor=text(payload, "sender", "login"),
    )


def link_of(document: Mapping[str, Json], web: str) -> str:
    """Return the address of what a job is about, best first: pull request, issue, commit, repository; else nothing."""
    links = links_of(document, web)
    best = (*(name for name, _, _ in _SUBJECTS), "repository")
    return next((links[name] for name in best if name in links), "")


def links_of(document: Mapping[str, Json], web: str) -> dict[str, str]:
    """Return the addresses of a job's `pull_request`, `issue`, `sha` and `repository`, of those that it has."""
    repository = document.get("repository_name")
    named = Job(id="", repository=repository if isinstance(repository, str) else "")
    if named.owner_and_name is None:
        return {}
    home = f"{web}/{named.repository}"
    links = {"repository": home}
    for name, field, kind in _SUBJECTS:
        value = document.get(field)
        if isinstance(value, (int, str)) and value and value is not True:
            links[name] = f"{home}/{kind}/{quote(str(value), safe='')}"
    return links


def _sha(payload: Json) -> str:
    """Return the commit of an event. An id of zeros alone stands for none (gitprotocol-pack, reference update)."""
    candidates = (
        # For an annotated tag `after` is the tag object; this is the commit that it names.
        text(payload, "head_commit", "id"),
        text(payload, "after"),
        text(payload, "pull_request", "head", "sha"),
        text(payload, "check_run", "head_sha"),
        text(payload, "check_suite", "head_sha"),
        text(payload, "workflow_run", "head_sha"),
        text(payload, "merge_group", "head_sha"),
        text(payload, "deployment", "sha"),
        text(payload, "sha"),
    )
    return _first(*(sha for sha in candidates if sha.strip("0")))


def _ref(payload: Json) -> str:
    pull_request = number(payload, "pull_request", "number")
    if pull_request is not None:
        return f"refs/pull/{pull_request}/head"
    tag = text(payload, "release", "tag_name")
    return _first(
        text(payload, "ref"),
        f"refs/tags/{tag}" if tag else "",
        text(payload, "merge_group", "head_ref"),
        text(payload, "deployment", "ref"),
    )


def _first(*values: str) -> str:
    return next((value for value in values if value), "")
