"""The tables `[[webhooks]]` of the hub's configuration (contracts/schemas/hub-config.schema.json)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from dispatchd.hub.domain.webhooks.delivery import Filter
from dispatchd.hub.domain.webhooks.pointer import pointer_problem
from dispatchd.hub.domain.webhooks.senders import (
    BODY,
    HEADER,
    ID,
    TIMESTAMP,
    Check,
    Encoding,
    Forks,
    Form,
    Sender,
    form_of,
)

RESERVED: Final = "github"
"""Name that no hook may have: its path is that of GitHub's events."""

_PLACES: Final = ("id", "event", "repository", "ref", "sha")
"""Keys that are places."""

_OF_THE_FORM: Final = ("header", "prefix", "encoding", "signed", "timestamp")
"""Keys that say how a delivery proves where it comes from."""


@frozen(kw_only=True)
class Webhook:
    """Hook that makes jobs of what a sender delivers. A key of the form that is left out is that of the sender."""

    name: str
    """Unique name; the last part of its path."""
    workflow: str
    secret_files: tuple[Path, ...]
    """Files with secrets. Each is valid, so that a secret can be changed without a gap."""
    sender: Sender = Sender.OTHER
    check: Check | None = None
    header: str | None = None
    prefix: str | None = None
    encoding: Encoding | None = None
    signed: str | None = None
    timestamp: str | None = None
    id: str | None = None
    event: str | None = None
    repository: str | None = None
    ref: str | None = None
    sha: str | None = None
    window_s: float = 3600.0
    """Replay window (seconds): most difference of a signed time to the hub's, and the time for which a body counts as one
    delivery if that has no id."""
    events: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()
    forks: Forks = Forks.NEVER
    priority: int = 0

    @property
    def form(self) -> Form:
        """Form of its deliveries."""
        usual = form_of(self.sender, self.check)
        if usual is None:
            # `mistakes` has refused it.
            usual = Form(check=Check.HMAC, header="")
        return evolve(usual, **self._given)

    @property
    def _given(self) -> dict[str, Any]:
        """Parts of the form that the hook itself says."""
        own = {name: getattr(self, name) for name in _OF_THE_FORM}
        given: dict[str, Any] = {
            name: value for name, value in own.items() if value is not None
        }
        for name in ("header", "timestamp"):
            if name in given:
                given[name] = given[name].lower()
        for name in _PLACES:
            place = getattr(self, name)
            if place is not None:
                given[name] = (place,) if place else ()
        return given

    @property
    def wanted(self) -> Filter:
        """Filter of its deliveries."""
        return Filter(
            events=self.events,
            actions=self.actions,
            repositories=self.repositories,
            refs=self.refs,
            forks=self.forks,
        )

    @property
    def body_window_s(self) -> float:
        """Time for which a body counts as one delivery if that has no id (seconds).

        A signed time may be ahead of the hub's first, and behind it when the same delivery comes again.
        """
        return 2 * self.window_s if self.form.timestamp else self.window_s

    @property
    def path(self) -> str:
        """Path on which the sender delivers."""
        return f"/webhooks/{self.name}"

    @property
    def target(self) -> str:
        """Hook of its deliveries (`Delivery.target`)."""
        return f"webhook/{self.name}"


def resolved(webhooks: Sequence[Webhook], folder: Path) -> tuple[Webhook, ...]:
    """Return hooks whose paths don't depend on the working directory."""
    return tuple(
        evolve(
            webhook, secret_files=tuple(folder / file for file in webhook.secret_files)
        )
        for webhook in webhooks
    )


def mistakes(webhooks: Sequence[Webhook]) -> Iterator[tuple[str, str]]:
    """Yield the mistakes that a schema can't express: key and expectation."""
    names = [webhook.name for webhook in webhooks]
    for index, webhook in enumerate(webhooks):
        found = [*_mistakes_of(webhook)]
        if webhook.name in names[:index]:
            found.append(("name", f"must be unique; {webhook.name!r} isn't"))
        for key, expected in found:
            yield f"webhooks[{index}].{key}", f"{expected} (webhook {webhook.name!r})"


def _mistakes_of(webhook: Webhook) -> Iterator[tuple[str, str]]:
    if webhook.name == RESERVED:
        yield "name", "must be another name: /webhooks/github takes GitHub's events"
    for key in _PLACES:
        if problem := _problem_of(getattr(webhook, key) or ""):
            yield key, problem
    usual = form_of(webhook.sender, webhook.check)
    if usual is None:
        others = " or ".join(_checks_of(webhook.sender))
        yield "check", f"must be {others}: {webhook.sender} has no other proof"
        return
    yield from _mistakes_of_form(webhook)
    if webhook.forks is Forks.RUN and not usual.origin:
        yield (
            "forks",
            "must be never: only gitea, forgejo and gitlab say whose code it is",
        )


def _problem_of(place: str) -> str:
    """Return what is wrong with a place, as words after its key; empty if it can be used."""
    if place.startswith(HEADER):
        is_named = bool(place.removeprefix(HEADER).strip())
        return "" if is_named else "must have the name of a header behind header:"
    problem = pointer_problem(place) if place else ""
    return f"{problem}, or header:NAME" if problem else ""


def _mistakes_of_form(webhook: Webhook) -> Iterator[tuple[str, str]]:
    form = webhook.form
    if not form.header:
        what = "signature" if form.check is Check.HMAC else "token"
        yield "header", f"must name the header with the {what}, such as X-Signature"
    if form.check is Check.TOKEN:
        for key in ("signed", "timestamp", "encoding"):
            if getattr(webhook, key) is not None:
                yield key, "must be left out with check = 'token', which signs nothing"
        return
    rest = form.signed.replace(ID, "", 1).replace(TIMESTAMP, "", 1)
    if not form.signed.endswith(BODY) or "{" in rest.removesuffix(BODY):
        yield (
            "signed",
            "must end in {body}, and may have {timestamp} and {id} before it",
        )
    if bool(form.timestamp) != (TIMESTAMP in form.signed):
        yield (
            "timestamp",
            "must name the header of the time if, and only if, `signed` has {timestamp}",
        )
    if ID in form.signed and not (form.id and form.id[0].startswith(HEADER)):
        yield "id", "must be header:NAME, because `signed` has {id}"


def _checks_of(sender: Sender) -> Iterator[str]:
    return (f"'{check}'" for check in Check if form_of(sender, check) is not None)
