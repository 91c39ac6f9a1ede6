"""Fields of a GitHub event, read from an untrusted payload: a value of an unexpected type counts as absent."""

from typing import Final

from attrs import frozen

from dispatchd.hub.domain.event_kinds import NAMES_A_REF, PUSH
from dispatchd.protocol.github_event import job_from_event
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import at, number, text
from dispatchd.protocol.json_text import whole_characters
from dispatchd.protocol.times import parse_time

LONGEST_TEXT: Final = 512
"""Longest name, ref or label that is stored (characters); longer ones are cut."""

_LARGEST_NUMBER: Final = 2**63 - 1
"""Largest id or number; a larger one counts as absent (contracts/README.md, limits)."""

_BRANCH: Final = "refs/heads/"
_TAG: Final = "refs/tags/"

_LONGEST_TITLE: Final = 200
"""Longest title of a job (characters); GitHub's own have 256 at most."""

_PULL: Final = "refs/pull/"
"""Prefix of the refs with the code of pull requests, also of those from forks."""

_DEPENDABOT: Final = ("dependabot[bot]", "dependabot-preview[bot]")
"""Logins of GitHub's own bot for updates; others can't have them (GitHub's logins have no brackets)."""


@frozen(kw_only=True)
class GithubEvent:
    """An event with the hub's own field names. An empty string, 0 and False mean that the payload doesn't say."""

    name: str
    """Name of the event, as in X-GitHub-Event."""
    action: str = ""
    installation: int = 0
    repository: str = ""
    """Name of the repository, as owner/name."""
    repository_id: int = 0
    actor: str = ""
    """Login of the user who caused the event."""
    actor_is_bot: bool = False
    by_dependabot: bool = False
    """True if the code is Dependabot's, or Dependabot caused the event."""
    ref: str = ""
    sha: str = ""
    base_ref: str = ""
    """Full ref that a pull request or merge group is to be merged into."""
    pull_request: int = 0
    issue: int = 0
    comment_id: int = 0
    body: str = ""
    """Text of a comment or review."""
    author_app: int = 0
    """Id of the App that has written a comment."""
    labels: tuple[str, ...] = ()
    """Labels of the issue or pull request; only the new one where the event is its addition."""
    is_draft: bool = False
    from_fork: bool = False
    """True if the code comes from a fork, or if an event about a pull request doesn't say."""
    is_deleted: bool = False
    """True if a push has removed its ref."""
    message: str = ""
    """Message of the newest commit of a push."""
    title: str = ""
    """Title of the pull request or issue, else the first line of the message."""
    app: int = 0
    """Id of the App that a check belongs to."""
    external_id: str = ""
    """External id of a check run, set by the hub."""
    changed_at: float = 0
    """Time of a pull request's last change, as GitHub says (seconds since the epoch)."""
    said_at: float = 0
    """Time at which a comment or review was written, as GitHub says (seconds since the epoch)."""
    button: str = ""
    """Identifier of the hub's button that was pressed on a check run."""

    @property
    def is_on_pull_request(self) -> bool:
        """True if a comment is on a pull request."""
        return bool(self.pull_request)


def read_event(name: str, payload: Json) -> GithubEvent:
    """Return the event of a payload."""
    job = job_from_event("", "", name, payload)
    ref = _full_ref(payload, job.ref)
    review = text(payload, "review", "body")
    return GithubEvent(
        name=clean(name),
        action=clean(job.action),
        installation=_id(job.installation_id),
        repository=job.repository if job.owner_and_name else "",
        repository_id=_id(job.repository_id),
        actor=clean(job.actor),
        actor_is_bot=text(payload, "sender", "type") == "Bot",
        by_dependabot=_by_dependabot(payload),
        ref=clean(ref),
        sha=clean("" if _is_of_tag_object(name, ref, job.sha, payload) else job.sha),
        base_ref=clean(_base_ref(payload)),
        pull_request=_id(job.pull_request),
        issue=_id(job.issue),
        comment_id=_id(job.comment_id),
        body=text(payload, "comment", "body") or review,
        author_app=_id(number(payload, "comment", "performed_via_github_app", "id")),
        labels=_labels(payload),
        is_draft=at(payload, "pull_request", "draft") is True,
        from_fork=_from_fork(payload, ref),
        is_deleted=at(payload, "deleted") is True or _has_no_commit(name, payload),
        message=text(payload, "head_commit", "message"),
        title=_title(payload),
        app=_id(
            number(payload, "check_run", "app", "id")
            or number(payload, "check_suite", "app", "id")
        ),
        external_id=clean(text(payload, "check_run", "external_id")),
        changed_at=_time(text(payload, "pull_request", "updated_at")),
        said_at=_time(
            text(payload, "comment", "created_at")
            or text(payload, "review", "submitted_at")
        ),
        button=clean(text(payload, "requested_action", "identifier")),
    )


def asks_for_commit(event: GithubEvent) -> bool:
    """Return whether the commit of an event's ref has to be read from GitHub."""
    return not event.sha and bool(event.ref) and event.name in (*NAMES_A_REF, PUSH)


def clean(value: str) -> str:
    """Return an untrusted text in a form that can be stored: Unicode, without NUL, cut to `LONGEST_TEXT`."""
    cut = whole_characters(value[:LONGEST_TEXT])
    return cut.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _id(value: int | None) -> int:
    return value if value is not None and 0 < value <= _LARGEST_NUMBER else 0


def _time(value: str) -> float:
    return parse_time(value) or 0.0


def _full_ref(payload: Json, ref: str) -> str:
    """Return the full form of a ref; some events name only a branch or tag."""
    if ref.startswith("refs/"):
        return ref
    branch = text(payload, "branch") or text(payload, "workflow_run", "head_branch")
    if not ref:
        return f"{_BRANCH}{branch}" if branch else ""
    return _TAG + ref if text(payload, "ref_type") == "tag" else _BRANCH + ref


def _is_of_tag_object(name: str, ref: str, sha: str, payload: Json) -> bool:
    """Return whether the push of a tag may name only the tag object, and not the commit."""
    of_tag = name == PUSH and ref.startswith(_TAG)
    return of_tag and sha != text(payload, "head_commit", "id")


def _has_no_commit(name: str, payload: Json) -> bool:
    """Return whether a push leaves its ref without a commit: `after` is all zeros."""
    after = text(payload, "after")
    return name == PUSH and bool(after) and not after.strip("0")


def _title(payload: Json) -> str:
    whole = (
        text(payload, "pull_request", "title")
        or text(payload, "issue", "title")
        or text(payload, "head_commit", "message")
    )
    # A message may be long.
    lines = whole[: 2 * _LONGEST_TITLE].strip().splitlines()
    first = clean(lines[0].strip()) if lines else ""
    return first if len(first) <= _LONGEST_TITLE else f"{first[:_LONGEST_TITLE]}…"


def _by_dependabot(payload: Json) -> bool:
    people = (
        text(payload, "sender", "login"),
        text(payload, "pull_request", "user", "login"),
        text(payload, "workflow_run", "actor", "login"),
    )
    return any(login.lower() in _DEPENDABOT for login in people)


def _base_ref(payload: Json) -> str:
    branch = text(payload, "pull_request", "base", "ref")
    return f"{_BRANCH}{branch}" if branch else text(payload, "merge_group", "base_ref")


def _labels(payload: Json) -> tuple[str, ...]:
    new = text(payload, "label", "name")
    if new:
        return (clean(new),)
    labels = at(payload, "pull_request", "labels") or at(payload, "issue", "labels")
    names = (
        [text(label, "name") for label in labels] if isinstance(labels, list) else []
    )
    return tuple(clean(name) for name in names if name)


def _from_fork(payload: Json, ref: str) -> bool:
    if at(payload, "pull_request") is not None:
        return not _same(
            at(payload, "pull_request", "head", "repo"),
            at(payload, "pull_request", "base", "repo"),
        )
    if at(payload, "workflow_run") is not None:
        return not _same(
            at(payload, "workflow_run", "head_repository"), at(payload, "repository")
        )
    return ref.startswith(_PULL)


def _same(head: Json, base: Json) -> bool:
    """Return whether two repositories are certainly the same one, by their ids: names change owners."""
    return number(head, "id") is not None and number(head, "id") == number(base, "id")
