"""What a run is told of its job: the names and values of its environment.

Files always, strings only where short. The payload is hostile input (branch names, titles, comments), so a
value of the wrong kind counts as absent, and one that is too long or could break a line is left out and
named. Names as GitHub Actions has them; `GITHUB_ACTIONS` itself is never set, because tools that see it
write workflow commands into their output.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

from dispatchd.domain.go_quote import go_quote
from dispatchd.domain.job import Job, Json
from dispatchd.domain.payload import at, text

KIB: Final = 1024

LONGEST_VALUE: Final = 4 * KIB
"""Longest value of a parameter (bytes of UTF-8); what is longer is still in the event file."""

LONGEST_TEXT: Final = 64 * KIB
"""From this size on payload and headers are given as files alone (bytes): Linux refuses a string of the
environment over 128 KiB (execve(2), MAX_ARG_STRLEN)."""

_GITHUB: Final = "https://github.com"


@frozen
class LeftOut:
    """A parameter that could not be given as a variable, and why."""

    name: str
    reason: str


@frozen
class Parameters:
    """Names and values, sorted by name, and what was left out of them."""

    values: Mapping[str, str]
    left_out: tuple[LeftOut, ...] = ()


@frozen(kw_only=True)
class RunPaths:
    """Where a run finds its files (absolute paths), and the JSON texts in two of them."""

    run_id: str
    attempt: int
    workspace: str
    event_file: str
    headers_file: str
    payload_text: str
    headers_text: str


def derive(job: Job, payload: Json) -> Parameters:
    """Return the parameters that a job and its payload give, without those of a particular run."""
    return _fitting(_derived(job, payload))


def environment(job: Job, payload: Json, run: RunPaths) -> Parameters:
    """Return everything that the environment of a run says about it."""
    fitting = _fitting([*_derived(job, payload), *_of_run(job, run)])
    texts = {"WEBHOOK_PAYLOAD": run.payload_text, "WEBHOOK_HEADERS": run.headers_text}
    short = {name: whole for name, whole in texts.items() if _is_short(whole)}
    values = dict(sorted({**fitting.values, **short}.items()))
    return Parameters(MappingProxyType(values), fitting.left_out)


def runtime_parameters(values: Mapping[str, str]) -> str:
    """Return parameters in Dagu's inline form: `KEY="value"`, sorted, separated by spaces, quoted as Go does."""
    return " ".join(f"{name}={go_quote(values[name])}" for name in sorted(values))


def _of_run(job: Job, run: RunPaths) -> Iterator[tuple[str, str]]:
    yield "CI", "true"
    yield "DISPATCHD", "true"
    yield "DISPATCHD_JOB_ID", job.id
    yield "DISPATCHD_RUN_ID", run.run_id
    yield "DISPATCHD_ATTEMPT", str(run.attempt)
    yield "DISPATCHD_WORKFLOW", job.workflow
    yield "DISPATCHD_WORKSPACE", run.workspace
    yield "GITHUB_EVENT_PATH", run.event_file
    yield "GITHUB_WORKSPACE", run.workspace
    yield "GITHUB_RUN_ID", run.run_id
    yield "GITHUB_RUN_ATTEMPT", str(run.attempt)
    yield "WEBHOOK_PAYLOAD_FILE", run.event_file
    yield "WEBHOOK_HEADERS_FILE", run.headers_file


def _derived(job: Job, payload: Json) -> Iterator[tuple[str, str]]:
    server = _server(payload)
    yield "GITHUB_ACTOR", job.actor
    yield (
        "GITHUB_API_URL",
        "https://api.github.com" if server == _GITHUB else f"{server}/api/v3",
    )
    yield "GITHUB_BASE_REF", text(payload, "pull_request", "base", "ref")
    yield "GITHUB_CHECK_RUN_ID", _number(job.check_run_id)
    yield "GITHUB_COMMAND", job.command
    yield "GITHUB_COMMENT_ID", _number(job.comment_id)
    if job.event == "repository_dispatch":
        yield "GITHUB_DISPATCH_EVENT_TYPE", job.action or text(payload, "action")
    yield "GITHUB_EVENT_ACTION", job.action
    yield "GITHUB_EVENT_NAME", job.event
    yield "GITHUB_HEAD_REF", text(payload, "pull_request", "head", "ref")
    yield "GITHUB_ISSUE_NUMBER", _number(job.issue)
    yield "GITHUB_PR_NUMBER", _number(job.pull_request)
    yield from _ref(job.ref)
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


def _ref(ref: str) -> Iterator[tuple[str, str]]:
    yield "GITHUB_REF", ref
    for prefix, kind in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
        if ref.startswith(prefix):
            yield "GITHUB_REF_NAME", ref.removeprefix(prefix)
            yield "GITHUB_REF_TYPE", kind
            return
    yield (
        "GITHUB_REF_NAME",
        ref.removeprefix("refs/pull/") if ref.startswith("refs/pull/") else ref,
    )


def _tag(ref: str) -> str:
    return ref.removeprefix("refs/tags/") if ref.startswith("refs/tags/") else ""


def _workflow(payload: Json) -> str:
    found = at(payload, "workflow")
    return (
        found if isinstance(found, str) else text(found, "name") or text(found, "path")
    )


def _server(payload: Json) -> str:
    """Return the origin of the GitHub that an event came from; github.com where it doesn't say."""
    try:
        url = urlsplit(text(payload, "repository", "html_url"))
        host = url.hostname
    except ValueError:
        return _GITHUB
    # User information never belongs into a variable.
    return (
        f"{url.scheme}://{host}"
        if url.scheme in ("http", "https") and host
        else _GITHUB
    )


def _fitting(pairs: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> Parameters:
    values: dict[str, str] = {}
    left_out: list[LeftOut] = []
    for name, value in sorted(pairs):
        reason = _unfit(value)
        if reason:
            left_out.append(LeftOut(name, reason))
        elif value:
            values[name] = value
    return Parameters(MappingProxyType(values), tuple(left_out))


def _unfit(value: str) -> str:
    """Return why a value can't be a variable, or an empty string."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "is not Unicode text"
    if size > LONGEST_VALUE:
        return f"is longer than {LONGEST_VALUE} bytes"
    if any(letter < " " or letter == "\x7f" for letter in value):
        return "has a control character"
    return ""


def _is_short(whole: str) -> bool:
    # Characters are at most as many as bytes: a payload of megabytes needs no encoding to be refused.
    if len(whole) >= LONGEST_TEXT or "\0" in whole:
        return False
    try:
        return len(whole.encode()) < LONGEST_TEXT
    except UnicodeEncodeError:
        return False


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
