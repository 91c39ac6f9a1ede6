"""Senders of webhooks: how each proves itself, and where its deliveries say what they are about."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from attrs import evolve, field, frozen

HEADER: Final = "header:"
"""Prefix of a place that is a header; any other place is a pointer into the payload."""

BODY: Final = "{body}"
ID: Final = "{id}"
TIMESTAMP: Final = "{timestamp}"


class Sender(StrEnum):
    """Kind of sender."""

    OTHER = "other"
    """Any other one: the hook's own keys say all."""
    GITEA = "gitea"
    FORGEJO = "forgejo"
    GITLAB = "gitlab"
    ALERTMANAGER = "alertmanager"
    STANDARD = "standard"
    """Standard Webhooks, as many services send them (standardwebhooks.com)."""


class Check(StrEnum):
    """Proof that a delivery comes from the sender."""

    HMAC = "hmac"
    """A header has the HMAC-SHA256 of the body."""
    TOKEN = "token"  # noqa: S105  # a word
    """A header has the secret itself."""


class Encoding(StrEnum):
    """Encoding of a signature."""

    HEX = "hex"
    BASE64 = "base64"


class Forks(StrEnum):
    """Handling of pull requests from forks."""

    NEVER = "never"
    RUN = "run"
    """Run them, without the secrets of their workflows and behind a wall."""


@frozen(kw_only=True)
class Form:
    """Form of a sender's deliveries. Of several places the first one that has a value counts; of `id` all count together."""

    check: Check
    header: str
    """Name of the header with the signature or token."""
    prefix: str = ""
    """Text before the signature or token in its header."""
    encoding: Encoding = Encoding.HEX
    signed: str = BODY
    """Text that is signed."""
    timestamp: str = ""
    """Name of the header with the time of sending (seconds since the epoch); empty for none."""
    is_key_encoded: bool = False
    """True if the secret is `whsec_` and the key in Base64, as in Standard Webhooks."""
    id: tuple[str, ...] = ()
    event: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    repository: tuple[str, ...] = ()
    ref: tuple[str, ...] = ()
    sha: tuple[str, ...] = ()
    actor: tuple[str, ...] = ()
    pull_request: tuple[str, ...] = ()
    """Place of the number of a pull request."""
    pull_events: tuple[str, ...] = ()
    """Patterns of the events that are about a pull request."""
    pull_ref: str = ""
    """Ref of a pull request; `{number}` is its number."""
    base: tuple[str, ...] = ()
    """Place of the branch that a pull request is to be merged into."""
    origin: tuple[tuple[str, str], ...] = ()
    """Pairs of places of the repositories that a pull request comes from and goes to: if they differ, it is one from a fork."""
    branch: str = ""
    """Place of the branch that a pull request comes from. One without a branch counts as from a fork: whoever may read a
    repository of Gitea can push it there (AGit, `refs/for/...`)."""
    changed: tuple[str, ...] = ()
    """Place of the time at which a pull request was changed."""
    usual: Mapping[str, tuple[str, ...]] = field(factory=dict, hash=False)
    """Actions of an event that count where a hook names none."""
    only_with: Mapping[str, str] = field(factory=dict, hash=False)
    """Usual actions that count only with a value at a place."""
    kept: tuple[str, ...] = ()
    """Prefixes of the headers that a job gets, beside those named here."""

    @property
    def is_id_signed(self) -> bool:
        """True if nobody but the sender can give a known body another id."""
        in_header = [place for place in self.id if place.startswith(HEADER)]
        return self.check is Check.TOKEN or not in_header or ID in self.signed


_STANDARD: Final = Form(
    check=Check.HMAC,
    header="webhook-signature",
    prefix="v1,",
    encoding=Encoding.BASE64,
    signed=f"{ID}.{TIMESTAMP}.{BODY}",
    timestamp="webhook-timestamp",
    is_key_encoded=True,
    id=("header:webhook-id",),
    event=("/type",),
    kept=("webhook-id", "webhook-timestamp"),
)

_GITEA: Final = Form(
    check=Check.HMAC,
    header="x-gitea-signature",
    id=("header:x-gitea-delivery",),
    event=("header:x-gitea-event",),
    action=("/action",),
    repository=("/repository/full_name",),
    ref=("/ref",),
    sha=("/pull_request/head/sha", "/after"),
    actor=("/sender/login",),
    pull_request=("/pull_request/number",),
    pull_events=("pull_request*",),
    pull_ref="refs/pull/{number}/head",
    base=("/pull_request/base/ref",),
    origin=(("/pull_request/head/repo_id", "/pull_request/base/repo_id"),),
    branch="/pull_request/head/ref",
    changed=("/pull_request/updated_at",),
    usual={"pull_request": ("opened", "synchronized", "reopened")},
    kept=("x-gitea-",),
)

_GITLAB: Final = Form(
    check=Check.TOKEN,
    header="x-gitlab-token",
    # Not X-Gitlab-Event-UUID, which the deliveries that follow from each other share.
    id=("header:idempotency-key",),
    event=("/object_kind",),
    action=("/object_attributes/action",),
    repository=("/project/path_with_namespace",),
    ref=("/ref",),
    sha=("/object_attributes/last_commit/id", "/checkout_sha", "/after"),
    actor=("/user_username", "/user/username"),
    pull_request=("/object_attributes/iid",),
    pull_events=("merge_request",),
    pull_ref="refs/merge-requests/{number}/head",
    base=("/object_attributes/target_branch",),
    origin=(
        (
            "/object_attributes/source_project_id",
            "/object_attributes/target_project_id",
        ),
        # Of comments and pipelines.
        ("/merge_request/source_project_id", "/merge_request/target_project_id"),
    ),
    changed=("/object_attributes/updated_at",),
    usual={"merge_request": ("open", "reopen", "update")},
    # An update without new commits, such as one of the title, has none.
    only_with={"update": "/object_attributes/oldrev"},
    kept=("x-gitlab-",),
)

_ALERTMANAGER: Final = Form(
    check=Check.TOKEN,
    header="authorization",
    prefix="Bearer ",
    # A notification has no id. Each change of its alerts is another one, and its repeats (repeat_interval) are not.
    id=(
        *("/groupKey", "/status", "/alerts/*/fingerprint"),
        *("/alerts/*/startsAt", "/alerts/*/status"),
    ),
    event=("/status",),
)

_FORMS: Final[Mapping[tuple[Sender, Check | None], Form]] = MappingProxyType(
    {
        (Sender.GITEA, None): _GITEA,
        (Sender.FORGEJO, None): evolve(
            _GITEA,
            header="x-forgejo-signature",
            id=("header:x-forgejo-delivery",),
            event=("header:x-forgejo-event",),
            kept=("x-forgejo-",),
        ),
        (Sender.GITLAB, None): _GITLAB,
        (Sender.GITLAB, Check.HMAC): evolve(
            _GITLAB,
            check=Check.HMAC,
            header=_STANDARD.header,
            prefix=_STANDARD.prefix,
            encoding=_STANDARD.encoding,
            signed=_STANDARD.signed,
            timestamp=_STANDARD.timestamp,
            is_key_encoded=True,
            id=_STANDARD.id,
            kept=(*_GITLAB.kept, *_STANDARD.kept),
        ),
        (Sender.ALERTMANAGER, None): _ALERTMANAGER,
        (Sender.STANDARD, None): _STANDARD,
    }
)


def form_of(sender: Sender, check: Check | None) -> Form | None:
    """Return the form of a sender's deliveries with a kind of proof; None if it has no such form.

    Args:
        sender: The sender.
        check: The kind of proof; None for the sender's usual one.
    """
    if sender is Sender.OTHER:
        return Form(check=check or Check.HMAC, header="")
    usual = _FORMS[sender, None]
    if check in {None, usual.check}:
        return usual
    return _FORMS.get((sender, check))
