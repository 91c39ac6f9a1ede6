"""Kinds of GitHub's events, by their names: which can contain commands, and which need an answer of GitHub. Pure."""

from typing import Final

from dispatchd.hub.domain.document import JobDocument

PUSH: Final = "push"

COMMENT_EVENTS: Final = (
    "issue_comment",
    "pull_request_review",
    "pull_request_review_comment",
)
"""Events that can contain commands."""

NAMES_A_REF: Final = (
    *("release", "create", "repository_dispatch", "workflow_dispatch"),
)
"""Events that name a ref; the hub looks up its commit."""


def must_be_asked_about(document: JobDocument) -> bool:
    """Return whether GitHub has to be asked about an event's job: the event lacks the actor's permission, or the commit."""
    lacks_commit = document.event == PUSH and not document.sha
    is_asked = is_by_comment(document) or document.resolution is not None
    return is_asked or document.event in NAMES_A_REF or lacks_commit


def is_by_comment(document: JobDocument) -> bool:
    """Return whether an event's job was started by a comment or a review."""
    return document.event in COMMENT_EVENTS
