"""Description of a job for its run: the names and values of its environment.

Everything is in files; short values are variables too. The payload is hostile input (branch names, titles,
comments): a value of the wrong kind counts as absent. One that is too long, or could break a line, is left out
and named. Names are those of GitHub Actions. `GITHUB_ACTIONS` itself is never set, because tools that see it
write workflow commands into their output.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.agent.domain.run.github_server import PUBLIC, api_of, chosen, graphql_of
from dispatchd.agent.domain.run.go_quote import go_quote
from dispatchd.protocol.job import Job, Json
from dispatchd.protocol.json_path import at, text

KIB: Final = 1024

LONGEST_VALUE: Final = 4 * KIB
"""Longest value of a parameter (bytes of UTF-8); a longer one is still in the event file."""

LONGEST_TEXT: Final = 64 * KIB
"""Size from which payload and headers are given as files alone (bytes): Linux refuses a string of the
environment over 128 KiB (execve(2), MAX_ARG_STRLEN)."""

_WHOLE_TEXTS: Final = ("WEBHOOK_HEADERS", "WEBHOOK_PAYLOAD")
"""Dagu's names for the JSON texts; only these may be longer and have several lines."""

_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Unicode's control characters (category Cc) and its two line separators."""

ADDRESSES: Final = ("GITHUB_API_URL", "GITHUB_GRAPHQL_URL", "GITHUB_SERVER_URL")
"""Variables with the addresses of GitHub; a workflow's own `env` wins over these."""


@frozen
class LeftOut:
    """Parameter that could not be given as a variable, and the reason."""

    name: str
    reason: str


@frozen
class Parameters:
    """Names and values, sorted by name, and the parameters left out."""

    values: Mapping[str, str]
    left_out: tuple[LeftOut, ...] = ()


@frozen(kw_only=True)
class RunPaths:
    """Files of a run (absolute paths), and the JSON texts in two of them.

    `brief_file` and `result_file` are empty for a command that has neither.
    """

    run_id: str
    attempt: int
    workspace: str
    event_file: str
    headers_file: str
    events_file: str
    outputs_file: str
    summary_file: str
    brief_file: str = ""
    result_file: str = ""
    payload_text: str
    headers_text: str


def derive(job: Job, payload: Json, servers: Sequence[str] = (PUBLIC,)) -> Parameters:
    """Return the parameters that a job and its payload give, without those of a particular run.

    Args:
        job: The job.
        payload: The body of its event.
        servers: The GitHub servers that its workflow allows, its own first.
    """
    return _fitting(_derived(job, payload, chosen(servers, payload)))


def environment(
    job: Job, payload: Json, run: RunPaths, servers: Sequence[str] = (PUBLIC,)
) -> Parameters:
    """Return all variables that describe a run to its command; `servers` are those of `derive`."""
    derived = _derived(job, payload, chosen(servers, payload))
    return _fitting([*derived, *_of_run(job, run)])


def runtime_parameters(values: Mapping[str, str]) -> str:
    """Return parameters in Dagu's inline form: `KEY="value"`, sorted, separated by spaces, quoted as Go does."""
    return " ".join(f"{name}={go_quote(values[name])}" for name in sorted(values))


def _of_run(job: Job, run: RunPaths) -> Iterator[tuple[str, str]]:
    yield "CI", "true"
    yield "DISPATCHD", "true"
    yield "DISPATCHD_BRIEF", run.brief_file
    yield "DISPATCHD_EVENTS", run.events_file
    yield "DISPATCHD_FROM_FORK", "true" if job.from_fork else ""
    yield "DISPATCHD_JOB_ID", job.id
    yield "DISPATCHD_OUTPUT", run.outputs_file
    yield "DISPATCHD_RESULT", run.result_file
    yield "DISPATCHD_RUN_ID", run.run_id
    yield "DISPATCHD_SUMMARY", run.summary_file
    yield "DISPATCHD_ATTEMPT", str(run.attempt)
    yield "DISPATCHD_WORKFLOW", job.workflow
    yield "DISPATCHD_WORKSPACE", run.workspace
    yield "GITHUB_EVENT_PATH", run.event_file
    yield "GITHUB_OUTPUT", run.outputs_file
    yield "GITHUB_STEP_SUMMARY", run.summary_file
    yield "GITHUB_WORKSPACE", run.workspace
    yield "GITHUB_RUN_ID", run.run_id
    yield "GITHUB_RUN_ATTEMPT", str(run.attempt)
    yield "WEBHOOK_PAYLOAD_FILE", run.event_file
    yield "WEBHOOK_HEADERS_FILE", run.headers_file
    # `null` stands for a job without a payload.
    yield "WEBHOOK_PAYLOAD", "" if run.payload_text == "null" else run.payload_text
    yield "WEBHOOK_HEADERS", "" if run.headers_text == "null" else run.headers_text


def _derived(job: Job, payload: Json, server: str) -> Iterator[tuple[str, str]]:
    yield "GITHUB_ACTOR", job.actor
    yield "GITHUB_API_URL", api_of(server) if server else ""
    yield "GITHUB_BASE_REF", text(payload, "pull_request", "base", "ref")
    yield "GITHUB_CHECK_RUN_ID", _number(job.check_run_id)
    yield "GITHUB_COMMAND", job.command
    yield "GITHUB_COMMENT_ID", _number(job.comment_id)
    if job.event == "repository_dispatch":
        yield "GITHUB_DISPATCH_EVENT_TYPE", job.action or text(payload, "action")
    yield "GITHUB_EVENT_ACTION", job.action
    yield "GITHUB_EVENT_NAME", job.event
    yield "GITHUB_GRAPHQL_URL", graphql_of(server) if server else ""
    yield "GITHUB_HEAD_REF", text(payload, "pull_request", "head", "ref")
    yield "GITHUB_ISSUE_NUMBER", _number(job.issue)
    yield "GITHUB_PR_NUMBER", _number(job.pull_request)
    yield from _ref(job.ref, text(payload, "ref_type"))
    yield "GITHUB_RELEASE_TAG", text(payload, "release", "tag_name") or _tag(job.ref)
    yield "GITHUB_REPOSITORY", job.repository
    yield "GITHUB_REPOSITORY_ID", _number(job.repository_id)
    yield (
        "GITHUB_REPOSITORY_OWNER",
        job.repository.partition("/")[0] if "/" in job.repository else "",
    )
    yield "GITHUB_SERVER_URL", server
    yield "GITHUB_SHA", job.sha
    yield "GITHUB_WORKFLOW", _workflow(payload)


def _ref(ref: str, payload_type: str) -> Iterator[tuple[str, str]]:
    yield "GITHUB_REF", ref
    for prefix, kind in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
        if ref.startswith(prefix):
            yield "GITHUB_REF_NAME", ref.removeprefix(prefix)
            yield "GITHUB_REF_TYPE", kind
            return
    yield "GITHUB_REF_NAME", ref.removeprefix("refs/pull/")
    # `create` and `delete` name a short ref, and its type beside it.
    if not ref.startswith("refs/") and payload_type in {"branch", "tag"}:
        yield "GITHUB_REF_TYPE", payload_type


def _tag(ref: str) -> str:
    return ref.removeprefix("refs/tags/") if ref.startswith("refs/tags/") else ""


def _workflow(payload: Json) -> str:
    workflow = at(payload, "workflow")
    return (
        workflow
        if isinstance(workflow, str)
        else text(workflow, "name") or text(workflow, "path")
    )


def _fitting(pairs: Iterable[tuple[str, str]]) -> Parameters:
    values: dict[str, str] = {}
    left_out: list[LeftOut] = []
    for name, value in sorted(pairs):
        reason = _unfit(name, value)
        if reason:
            left_out.append(LeftOut(name, reason))
        elif value:
            values[name] = value
    return Parameters(MappingProxyType(values), tuple(left_out))


def _unfit(name: str, value: str) -> str:
    """Return the reason why a value can't be a variable, or an empty string."""
    whole = name in _WHOLE_TEXTS
    longest = LONGEST_TEXT - 1 if whole else LONGEST_VALUE
    try:
        # A text has at least as many bytes as characters: a payload of megabytes needs no encoding to be refused.
        size = len(value) if len(value) > longest else len(value.encode())
    except UnicodeEncodeError:
        return "is not Unicode text"
    if size > longest:
        return f"is longer than {longest} bytes"
    if "\0" in value if whole else _BREAKS.search(value):
        return "has a control character"
    return ""


def _number(value: int | None) -> str:
    # 0 is Go's way to leave a number out.
    return str(value) if value else ""
