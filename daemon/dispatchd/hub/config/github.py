"""The table `[github]` of the hub's configuration (contracts/schemas/hub-config.schema.json)."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from attrs import evolve, field, frozen

from dispatchd.network.proxies import url_problem
from dispatchd.protocol.job import CANCEL


class Ingest(StrEnum):
    """Way in which events come to the hub."""

    WEBHOOK = "webhook"
    """GitHub sends them. A hub that is an App fetches afterwards those that GitHub couldn't deliver."""
    POLL = "poll"
    """The hub fetches all of them: for a hub that GitHub can't reach."""


class Subject(StrEnum):
    """Kind of thread in which a comment with a command counts."""

    PULL_REQUEST = "pull_request"
    ISSUE = "issue"


class Forks(StrEnum):
    """Handling of pull requests from forks."""

    NEVER = "never"
    COMMAND = "command"
    """Jobs on command only: somebody with write permission starts one commit by `/run SHA`."""


class Permission(StrEnum):
    """Permission in a repository, least first (GitHub's role names)."""

    READ = "read"
    TRIAGE = "triage"
    WRITE = "write"
    MAINTAIN = "maintain"
    ADMIN = "admin"


@frozen(kw_only=True)
class Rule:
    """Rule that makes jobs of events. It has either `events` or a `command`.

    Patterns are those of a shell (`*`, `?`, `[...]`), and `*` also matches a slash. An empty tuple matches
    everything, except for `actions`: its default depends on the event (`github/routing/matching.py`).
    """

    name: str
    """Unique name; also that of the check at GitHub."""
    workflow: str
    repositories: tuple[str, ...]
    """Patterns of OWNER/NAME."""
    events: tuple[str, ...] = ()
    """Names of events, as in X-GitHub-Event."""
    actions: tuple[str, ...] = ()
    command: str = ""
    """Word after `/run` in a comment."""
    on: Subject = Subject.PULL_REQUEST
    """Kind of thread in which a comment with the command counts."""
    permission: Permission = Permission.WRITE
    """Least permission in the repository that the command's author needs."""
    refs: tuple[str, ...] = ()
    """Patterns of full or short refs; for a pull request they match its base."""
    labels: tuple[str, ...] = ()
    """Patterns of labels. The issue or pull request must have one of these labels (or have just got it)."""
    drafts: bool = False
    """True if the rule also matches drafts."""
    forks: Forks = Forks.NEVER
    bots: bool = True
    """True if the rule also matches events that a bot has caused."""
    dependabot_secrets: bool = False
    """True if jobs of Dependabot's events get secrets and tokens."""
    priority: int = 0
    run_permissions: Mapping[str, str] | None = field(default=None, hash=False)
    """Most permissions of a token for one of its runs; None for `github.run_permissions`."""


@frozen(kw_only=True)
class GithubSettings:
    """Settings of a hub that is a GitHub App's back end, or that has a token. Paths are absolute once loaded."""

    app_id: int = 0
    private_key_file: Path | None = None
    """The App's private key (PEM)."""
    token_file: Path | None = None
    """Token in place of an App; it can't make check runs."""
    api_url: str = "https://api.github.com"
    ca_file: Path | None = None
    """Certificates to trust beside the system's, for a GitHub Enterprise Server of one's own (PEM)."""
    api_version: str = "2022-11-28"
    webhook_secret_files: tuple[Path, ...] = ()
    """Files with webhook secrets. Each is valid, so that a secret can be changed without a gap."""
    ingest: Ingest = Ingest.WEBHOOK
    poll_interval_s: float = 15.0
    retention_days: float = 3.0
    """Time for which GitHub keeps deliveries (days): 3, or 7 at a GitHub Enterprise Server."""
    installations: tuple[int, ...] = ()
    """Installations of the App whose events are processed; empty for all."""
    public_url: str = ""
    """Address of the hub's web page for people, used in the links of checks."""
    partially_succeeded: str = "neutral"
    """Conclusion of a job that has partially succeeded."""
    writes_per_minute: int = 60
    """Most writes for an installation in a minute (count)."""
    run_permissions: Mapping[str, str] = field(factory=dict)
    """Most permissions of a run's token where its rule sets none: permission -> `read` or `write`."""
    rules: tuple[Rule, ...] = ()

    @property
    def is_app(self) -> bool:
        """True if the hub authenticates as an App."""
        return self.app_id != 0

    def permissions_of_run(self, rule_name: object) -> Mapping[str, str]:
        """Return the most permissions of a token for a rule's run; none for a rule that isn't configured (any more)."""
        rule = self.rule(str(rule_name)) if self.is_app else None
        if rule is None:
            return {}
        own = rule.run_permissions
        return self.run_permissions if own is None else own

    @property
    def target(self) -> str:
        """Hook of the App's deliveries (`Delivery.target`)."""
        return f"integration/{self.app_id}"

    def rule(self, name: str) -> Rule | None:
        """Return the rule of a name, or None."""
        return next((rule for rule in self.rules if rule.name == name), None)


PULL_REQUEST: Final = "pull_request"
MERGE_GROUP: Final = "merge_group"

_BY_BUTTONS: Final = (
    "checks are run again by their buttons, and comments start jobs by command alone"
)
_OF_ANY_COMMIT: Final = "it may be about a commit of a fork, and doesn't say so"

_NOT_BY_RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "check_run": _BY_BUTTONS,
        "check_suite": _BY_BUTTONS,
        "issue_comment": _BY_BUTTONS,
        "pull_request_review_comment": _BY_BUTTONS,
        "deployment": _OF_ANY_COMMIT,
        "deployment_protection_rule": _OF_ANY_COMMIT,
        "deployment_status": _OF_ANY_COMMIT,
        "status": _OF_ANY_COMMIT,
    }
)
"""Events that no rule may have -> reason."""


def resolved(settings: GithubSettings, folder: Path) -> GithubSettings:
    """Return settings whose paths don't depend on the working directory."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    return evolve(
        settings,
        private_key_file=absolute(settings.private_key_file),
        token_file=absolute(settings.token_file),
        ca_file=absolute(settings.ca_file),
        webhook_secret_files=tuple(
            folder / file for file in settings.webhook_secret_files
        ),
    )


def mistakes(settings: GithubSettings) -> Iterator[tuple[str, str]]:
    """Yield the mistakes that a schema can't express: key and expectation."""
    if settings.is_app == (settings.token_file is not None):
        yield (
            "github.app_id",
            "must be set, with private_key_file, or token_file in their place",
        )
    if settings.is_app != (settings.private_key_file is not None):
        yield "github.private_key_file", "must stand beside app_id"
    if settings.ingest is Ingest.POLL and not settings.is_app:
        yield (
            "github.ingest",
            "must be webhook without an App: only an App's deliveries can be polled",
        )
    if settings.ingest is Ingest.WEBHOOK and not settings.webhook_secret_files:
        yield (
            "github.webhook_secret_files",
            "must name a file with the webhook's secret, or set ingest = 'poll'",
        )
    yield from _unusable_urls(settings)
    names = [rule.name for rule in settings.rules]
    for index, rule in enumerate(settings.rules):
        for key, expected in _mistakes_of(rule, names[:index]):
            yield f"github.rules[{index}].{key}", expected


def _unusable_urls(settings: GithubSettings) -> Iterator[tuple[str, str]]:
    for key, url in (
        ("github.api_url", settings.api_url),
        ("github.public_url", settings.public_url),
    ):
        if problem := url_problem(url):
            yield key, problem


def _mistakes_of(rule: Rule, names_before: list[str]) -> Iterator[tuple[str, str]]:
    if rule.name in names_before:
        yield "name", f"must be unique; {rule.name!r} isn't"
    for event in rule.events:
        if event in _NOT_BY_RULES:
            yield "events", f"must not have {event}: {_NOT_BY_RULES[event]}"
    if rule.command == CANCEL:
        yield "command", "must not be cancel, which means something else to machines"
    if rule.forks is Forks.COMMAND and rule.on is Subject.ISSUE:
        yield "forks", "must be never for comments on issues"
