"""Delivery of a webhook, read from untrusted headers and an untrusted payload, and whether a hook wants a job for it."""

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final
from uuid import UUID, uuid5

from attrs import frozen

from dispatchd.hub.domain.webhooks.pointer import scalars
from dispatchd.hub.domain.webhooks.senders import HEADER, Forks, Form
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import whole_characters
from dispatchd.protocol.times import parse_time

_NAMESPACE: Final = UUID("0c7d1a52-9b0f-4d43-8a3e-5f6c2f1f7a44")

_LONGEST_ID: Final = 128
"""Longest id that is stored as it is (characters); of a longer one a hash."""

_LONGEST_TEXT: Final = 512
"""Longest name or ref that is stored (characters); longer ones are cut."""

_MOST_SET_BACK_S: Final = 86_400.0
"""Largest set-back of the clock after which a repeated body without an id is still known (seconds)."""

_LARGEST_NUMBER: Final = 2**63 - 1
_SHA: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BRANCH: Final = "refs/heads/"


@frozen(kw_only=True)
class Event:
    """Event of a delivery: its subject, and where it comes from. An empty text, 0 and False mean that it doesn't say."""

    id: str = ""
    """Id of the delivery."""
    name: str = ""
    action: str = ""
    repository: str = ""
    ref: str = ""
    sha: str = ""
    actor: str = ""
    pull_request: int = 0
    base_ref: str = ""
    """Full ref that a pull request is to be merged into."""
    from_fork: bool = False
    """True if the code comes from a fork, or if an event about a pull request doesn't say."""
    is_deleted: bool = False
    """True if a push has removed its ref."""
    changed_at: float = 0
    """Time of a pull request's last change, as the sender says (seconds since the epoch)."""
    is_usual: bool = True
    """False for an action that counts only if a hook names it."""


@frozen(kw_only=True)
class Filter:
    """Patterns of a shell for what a hook wants; an empty tuple matches everything."""

    events: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()
    forks: Forks = Forks.NEVER


def read_event(form: Form, headers: Mapping[str, str], payload: Json) -> Event:
    """Return the event of a delivery.

    Args:
        form: The form of the sender's deliveries.
        headers: The headers, by names in lower case.
        payload: The payload.
    """

    def first(places: tuple[str, ...]) -> str:
        found = (text for place in places for text in _at(place, headers, payload))
        return _clean(next((text for text in found if text), ""))

    name, action = first(form.event), first(form.action)
    is_pull = _is_about_a_pull(form, name, headers, payload)
    number = _number(first(form.pull_request)) if is_pull else 0
    sha, base = first(form.sha), first(form.base) if number else ""
    usual = form.usual.get(name, ())
    needed = form.only_with.get(action, "")
    ref = first(form.ref)
    return Event(
        id=_id(form, headers, payload),
        name=name,
        action=action,
        repository=first(form.repository),
        ref=form.pull_ref.format(number=number) if number else ref,
        sha=sha if _SHA.fullmatch(sha) and sha.strip("0") else "",
        actor=first(form.actor),
        pull_request=number,
        base_ref=f"{_BRANCH}{base}" if base else "",
        from_fork=is_pull and not _is_same_repository(form, headers, payload),
        is_deleted=bool(sha) and not sha.strip("0"),
        changed_at=_time(first(form.changed)) if number else 0.0,
        is_usual=not usual
        or (action in usual and (not needed or bool(first((needed,))))),
    )


def reason_against(wanted: Filter, event: Event) -> str:
    """Return the reason why a hook wants no job for an event; empty if it wants one."""
    ref = event.base_ref or event.ref
    short = ref.removeprefix(_BRANCH).removeprefix("refs/tags/")
    for kind, values, patterns in (
        ("event", (event.name,), wanted.events),
        ("action", (event.action,), wanted.actions),
        ("repository", (event.repository,), wanted.repositories),
        ("ref", (ref, short), wanted.refs),
    ):
        if patterns and not any(
            fnmatchcase(value, pattern) for value in values for pattern in patterns
        ):
            shown = values[0] or "(none)"
            return f"the {kind} {shown} isn't one of {', '.join(patterns)}"
    if event.is_deleted:
        return "its ref was removed, so there is no commit"
    if not wanted.actions and not event.is_usual:
        return f"the action {event.action or '(none)'} brings no new commit (actions)"
    if event.from_fork and wanted.forks is Forks.NEVER:
        return "its code comes from a fork (forks)"
    return ""


def job_id_of(hook: str, delivery_id: str) -> str:
    """Return the id of the job of a delivery. The same delivery always has the same one, so that it is never two jobs."""
    return _hash(["job", hook, delivery_id, hook, 0])


def id_of_body(hook: str, payload_hash: str, *, window_s: float, at: float) -> str:
    """Return the id of a delivery that has none: its body, in the replay window in which it came first.

    Two bodies of one text that don't come within one window of each other have different ids.
    """
    return f"body-{_hash(['body', hook, payload_hash, window_s, int(at // window_s)])}"


def is_in_window(first_at: float, now: float, window_s: float) -> bool:
    """Return whether a body without an id is the delivery that came first at a time (seconds since the epoch).

    A clock that was set back by a day at most makes no body a new one. One that was ahead for longer, such as by a month,
    must not keep all later ones out.
    """
    return first_at - _MOST_SET_BACK_S <= now < first_at + window_s


def _id(form: Form, headers: Mapping[str, str], payload: Json) -> str:
    values = [_at(place, headers, payload) for place in form.id]
    if not any(text for texts in values for text in texts):
        return ""
    if len(values) == 1 and len(values[0]) == 1:
        [[text]] = values
        if len(text) <= _LONGEST_ID and text.isprintable():
            return text
    return _hash(values)


def _hash(value: object) -> str:
    return str(uuid5(_NAMESPACE, json.dumps(value)))


def _at(place: str, headers: Mapping[str, str], payload: Json) -> list[str]:
    if place.startswith(HEADER):
        text = headers.get(place.removeprefix(HEADER).lower(), "").strip()
        return [text] if text else []
    return scalars(payload, place)


def _is_about_a_pull(
    form: Form, name: str, headers: Mapping[str, str], payload: Json
) -> bool:
    """Return whether an event is about a pull request: by its name, by its ref, or because it says where one comes from."""
    if any(fnmatchcase(name, pattern) for pattern in form.pull_events):
        return True
    if any(_at(head, headers, payload) for head, _ in form.origin):
        return True
    # As GitLab's event of a job has.
    refs = form.pull_ref.partition("{")[0]
    found = (text for place in form.ref for text in _at(place, headers, payload))
    return bool(refs) and any(text.startswith(refs) for text in found)


def _is_same_repository(form: Form, headers: Mapping[str, str], payload: Json) -> bool:
    """Return whether a pull request certainly comes from the repository that it goes to: by their ids, and from a branch."""
    if not form.origin:
        return True
    pairs = [[_at(place, headers, payload) for place in pair] for pair in form.origin]
    if not any(map(any, pairs)) or any(head != base for head, base in pairs):
        return False
    return not form.branch or _is_branch(_at(form.branch, headers, payload))


def _is_branch(names: list[str]) -> bool:
    """Return whether a place has the name of a branch; of a pull request without one it has the full ref of that."""
    return any(names) and not names[0].startswith("refs/")


def _number(text: str) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) < len(str(2**63))
    return min(int(text), _LARGEST_NUMBER) if is_number else 0


def _time(text: str) -> float:
    # GitLab also writes 2017-12-10 17:01:11 UTC.
    return parse_time(text.replace(" UTC", "Z").replace(" ", "T")) or 0.0


def _clean(text: str) -> str:
    """Return an untrusted text in a form that can be stored: Unicode, without NUL, cut."""
    cut = whole_characters(text[:_LONGEST_TEXT])
    return cut.replace("\0", "\N{REPLACEMENT CHARACTER}")
