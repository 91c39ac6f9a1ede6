"""What a GitHub payload says about the job that it would become."""

from dispatchd.domain.job import Job, Json


def job_from_event(job_id: str, workflow: str, event: str, payload: Json) -> Job:
    """Return the job for an event, with every field that the payload has.

    The payload is hostile input: what isn't of the expected kind counts as absent.

    Args:
        job_id: The job's id.
        workflow: The workflow that it asks for.
        event: The event's name, as in X-GitHub-Event.
        payload: The event's body.
    """
    pull_request = _object(payload, "pull_request") or _object(
        payload, "issue", "pull_request"
    )
    return Job(
        id=job_id,
        workflow=workflow,
        event=event,
        action=_text(payload, "action"),
        repository=_text(payload, "repository", "full_name"),
        repository_id=_number(payload, "repository", "id"),
        installation_id=_number(payload, "installation", "id"),
        ref=_ref(payload),
        sha=_first(
            _text(payload, "after"),
            _text(payload, "pull_request", "head", "sha"),
            _text(payload, "check_run", "head_sha"),
            _text(payload, "check_suite", "head_sha"),
            _text(payload, "workflow_run", "head_sha"),
            _text(payload, "merge_group", "head_sha"),
            _text(payload, "sha"),
        ),
        pull_request=_number(payload, "pull_request", "number")
        or (_number(payload, "issue", "number") if pull_request else None),
        issue=_number(payload, "issue", "number"),
        comment_id=_number(payload, "comment", "id"),
        check_run_id=_number(payload, "check_run", "id"),
        actor=_text(payload, "sender", "login"),
    )


def _ref(payload: Json) -> str:
    number = _number(payload, "pull_request", "number")
    if number is not None:
        return f"refs/pull/{number}/head"
    tag = _text(payload, "release", "tag_name")
    return _text(payload, "ref") or (f"refs/tags/{tag}" if tag else "")


def _at(payload: Json, *path: str) -> Json:
    for name in path:
        if not isinstance(payload, dict):
            return None
        payload = payload.get(name)
    return payload


def _text(payload: Json, *path: str) -> str:
    value = _at(payload, *path)
    return value if isinstance(value, str) else ""


def _number(payload: Json, *path: str) -> int | None:
    value = _at(payload, *path)
    return value if type(value) is int else None


def _object(payload: Json, *path: str) -> bool:
    return isinstance(_at(payload, *path), dict)


def _first(*values: str) -> str:
    return next((value for value in values if value), "")
