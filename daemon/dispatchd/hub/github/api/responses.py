"""Errors of GitHub's answers: the one table from status, headers and body to an error.

GithubError           the hub stays up; one class for each reaction of the caller
├─ Limited            make no call of that installation until `retry_at`
├─ NotPermitted       forbidden (403), perhaps for this one resource only: try again, rarely
│  ├─ NoPermission    the token's own list lacks the permission: do without it
│  └─ NoCredential    no valid credential (401): a person has to mend that
├─ NotThere           not found, or not any more (404, 410, 451)
├─ Invalid            GitHub rejects the request (400, 422): send less
└─ Unclear            no usable answer: a write may have happened

Source: GitHub docs, "Rate limits for the REST API" and "Troubleshooting the REST API". A write that was refused
by one of the first five has not happened.
"""

import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from attrs import frozen

from dispatchd.errors import RemoteError
from dispatchd.network.http_headers import http_date, seconds
from dispatchd.protocol.job import Json
from dispatchd.redaction.quoted import quoted

MAX_BYTES: Final = 32 * 1024 * 1024
"""Largest answer that is read (bytes): a delivery carries up to 25 MB (GitHub docs, "Webhook events and payloads")."""

_QUOTED: Final = 300
"""Longest quotation of GitHub's message in an error (characters)."""

_SHORTEST_LIMIT_S: Final = 60.0
"""Wait for a limit whose end GitHub doesn't name (seconds; the docs' "at least one minute")."""

_LONGEST_LIMIT_S: Final = 3600.0
"""Longest wait for a limit (seconds). A limit is counted by the hour, and a wrong clock must not silence a hub."""

_LIMIT_WORDS: Final = ("rate limit", "secondary rate", "abuse detection")

_NOT_THERE: Final = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
)
_UNCLEAR: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT)

_NEXT: Final = re.compile(r'<([^>]*)>\s*;[^,<]*\brel="?next"?')


class GithubError(RemoteError):
    """Failed call: GitHub, or something on the way to it, didn't do it."""

    def scrub(self, scrubbed: Callable[[str], str]) -> None:
        """Remove secrets from the reason, which may quote the request."""
        self.reason = scrubbed(self.reason)
        self.args = (f"cannot {self.call}: {self.reason}",)


class Limited(GithubError):
    """Too many calls. `retry_at` is the time of the next permitted call, in seconds of the clock that was given."""

    def __init__(self, *, call: str, reason: str, retry_at: float) -> None:
        self.retry_at = retry_at
        super().__init__(call=call, reason=reason)


class NotPermitted(GithubError):
    """Forbidden (403): the resource is archived, locked or blocked, or the permission is missing.

    `is_githubs` is False for a page of something on the way.
    """

    def __init__(self, *, call: str, reason: str, is_githubs: bool = True) -> None:
        self.is_githubs = is_githubs
        super().__init__(call=call, reason=reason)


class NoPermission(NotPermitted):
    """Permission that the token's own list of permissions lacks."""


class NoCredential(NotPermitted):
    """Rejected credential (401), or no token from GitHub."""


class NotThere(GithubError):
    """Resource not found, removed, moved or not visible (404, 410, 451, a redirect elsewhere)."""


class Invalid(GithubError):
    """Rejected request (400, 422, and other client errors)."""


class Unclear(GithubError):
    """No usable answer: a connection error, a deadline, a server error. A write may have happened."""


@frozen(kw_only=True)
class Reply:
    """Response: `headers` with lower-case names, `body` as bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def refuse_errors(call: str, reply: Reply, *, now: float) -> None:
    """Raise the error that an unsuccessful reply means; return if it is a success.

    Args:
        call: Description of the call, in words that go after "cannot".
        reply: The response.
        now: The time, in seconds since the epoch.

    Raises:
        Limited: There have been too many calls.
        NotPermitted: It is forbidden.
        NoCredential: The credential is rejected.
        NotThere: The resource isn't found.
        Invalid: The request is rejected.
        Unclear: A write may have happened, or not.
    """
    status = reply.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    reason = _reason(reply)
    wait_s = _limit_s(reply, now)
    if wait_s is not None:
        retry_at = now + min(max(wait_s, 1.0), _LONGEST_LIMIT_S)
        raise Limited(call=call, reason=reason, retry_at=retry_at)
    if status == HTTPStatus.UNAUTHORIZED:
        raise NoCredential(call=call, reason=reason, is_githubs=is_githubs(reply))
    if status == HTTPStatus.FORBIDDEN:
        raise NotPermitted(call=call, reason=reason, is_githubs=is_githubs(reply))
    if status in _NOT_THERE or status < HTTPStatus.BAD_REQUEST:
        raise NotThere(call=call, reason=reason)
    if status in _UNCLEAR or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Unclear(call=call, reason=reason)
    raise Invalid(call=call, reason=reason)


def json_of(call: str, reply: Reply) -> Json:
    """Return the JSON of a successful reply; None for a 202 or 204 without a body.

    Raises:
        Unclear: The body is no JSON, as where a proxy has answered.
    """
    if not reply.body and reply.status in (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT):
        return None
    try:
        document: Json = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        kind = reply.headers.get("content-type", "no content type").split(";")[0]
        reason = f"status {reply.status} with {kind:.60} where JSON was expected"
        raise Unclear(call=call, reason=reason) from error
    return document


def ahead_s(headers: Mapping[str, str], asked_at: float, heard_at: float) -> float:
    """Return how far GitHub's clock is at least ahead of this one (seconds; below 0: behind), 0 where they may agree.

    An answer may be dated at any moment between the two, and `Date` has whole seconds (RFC 9110, 6.6.1).
    """
    date = http_date(headers.get("date", ""))
    if date is None:
        return 0.0
    dated_at = date.timestamp()
    if dated_at > heard_at:
        return dated_at - heard_at
    return dated_at - asked_at if asked_at - dated_at >= 1 else 0.0


def is_githubs(reply: Reply) -> bool:
    """Return whether an answer has the form of GitHub's, and isn't a page of something on the way."""
    empty = reply.status in (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT)
    return empty or "json" in reply.headers.get("content-type", "").lower()


def next_page(headers: Mapping[str, str]) -> str:
    """Return the address of the next page (RFC 8288); empty on the last one."""
    match = _NEXT.search(headers.get("link", ""))
    return match[1] if match else ""


def _limit_s(reply: Reply, now: float) -> float | None:
    """Return the wait before the next call (seconds), or None where no limit was reached."""
    if reply.status not in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS):
        return None
    after = seconds(reply.headers.get("retry-after", ""))
    if after is not None:
        return after
    reset = seconds(reply.headers.get("x-ratelimit-reset", ""))
    if reply.headers.get("x-ratelimit-remaining", "").strip() == "0" and reset:
        # By GitHub's own clock, so that a wrong one here does no harm.
        return reset - (now + ahead_s(reply.headers, now, now))
    said = _message(reply).lower()
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS or any(
        word in said for word in _LIMIT_WORDS
    ):
        return _SHORTEST_LIMIT_S
    return None


def _reason(reply: Reply) -> str:
    try:
        phrase = f" {HTTPStatus(reply.status).phrase}"
    except ValueError:
        phrase = ""
    moved = HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST
    redirect = ", a redirect that leads elsewhere" if moved else ""
    said = _message(reply)
    return f"status {reply.status}{phrase}{redirect}" + (f": {said}" if said else "")


def _message(reply: Reply) -> str:
    """Return GitHub's message about an error, with the fields that it rejects, as one short line."""
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    message, errors = document.get("message"), document.get("errors")
    summary = message if isinstance(message, str) else ""
    if errors:
        summary += f" {json.dumps(errors, ensure_ascii=False)}"
    line = quoted(summary, _QUOTED)
    return "".join(letter if letter.isprintable() else " " for letter in line)
