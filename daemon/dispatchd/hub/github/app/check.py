"""Check of the hub's GitHub App: each thing that has to be right is read from GitHub; nothing is changed."""

import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from attrs import frozen

from dispatchd.errors import ConfigError
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.config.secret_files import read_secret
from dispatchd.hub.github.api.client import Client, Document
from dispatchd.hub.github.api.credentials import Credentials
from dispatchd.hub.github.api.responses import GithubError, NoCredential, NotThere
from dispatchd.hub.github.api.transport import Call, Transport, transport
from dispatchd.hub.github.app import findings as app_findings
from dispatchd.hub.github.app import reach as app_reach
from dispatchd.protocol.finding import Finding, Level
from dispatchd.protocol.json_path import number
from dispatchd.redaction.known_secrets import KnownSecrets

_MOST_REPOSITORIES: Final = 50
"""Most repositories that are checked (count)."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_WITHOUT_APP: Final = (
    "a token in place of an App: commit statuses, and no checks and their buttons, no tokens for runs, no polling,"
    " and nothing that was missed comes again by itself"
)


async def check_app(
    settings: GithubSettings,
    *,
    now: Callable[[], float],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Finding]:
    """Yield the findings, in the order in which things have to work; `environment` names the proxy."""
    known = KnownSecrets()
    for finding in _secrets(settings):
        yield finding
    try:
        async with transport(
            settings, now=now, known=known, environment=environment
        ) as way:
            credentials = Credentials.open(settings, way)
            checks = _RemoteChecks(settings, Client(credentials), way)
            findings = checks.app() if settings.is_app else checks.token()
            async for finding in findings:
                yield finding
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("credentials", Level.FAILED, str(problem))
    for finding in app_findings.of_rules(settings):
        yield finding


def _secrets(settings: GithubSettings) -> Iterator[Finding]:
    """Yield the findings about the files with secrets."""
    good = [
        file
        for file in (settings.private_key_file, settings.token_file)
        if file is not None and file.is_file()
    ]
    for index, file in enumerate(settings.webhook_secret_files):
        message = _unusable(file, f"github.webhook_secret_files[{index}]")
        if message:
            yield Finding("secrets", Level.FAILED, message)
        else:
            good.append(file)
    open_ones = [file for file in good if file.stat().st_mode & _OTHERS]
    for file in open_ones:
        message = f"{file} is open to other users: chmod 600 {file}"
        yield Finding("secrets", Level.WARNING, message)
    if good and not open_ones:
        yield Finding("secrets", Level.OK, ", ".join(file.name for file in good))


def _unusable(file: Path, key: str) -> str:
    """Return the reason why a file with a webhook's secret is invalid; empty if it is valid."""
    try:
        read_secret(file, config_file=file, key=key)
    except ConfigError as error:
        return "; ".join(
            f"{problem.key}: {problem.expected}" for problem in error.problems
        )
    return ""


@frozen
class _RemoteChecks:
    """Checks that need calls of GitHub."""

    settings: GithubSettings
    client: Client
    way: Transport

    async def token(self) -> AsyncIterator[Finding]:
        """Yield the findings of a hub with a token."""
        yield Finding("app", Level.WARNING, _WITHOUT_APP)
        call = Call(name="ask GitHub with the token", path="rate_limit")
        try:
            await self.client.credentials.as_installation(0, call)
        except NotThere:
            # A GitHub Enterprise Server without rate limits answers 404; it has accepted the token.
            yield self._reached()
        except GithubError as error:
            yield Finding("api", Level.FAILED, str(error))
        else:
            yield self._reached()
            yield app_findings.of_clock(self.way.ahead_s)

    async def app(self) -> AsyncIterator[Finding]:
        """Yield the findings of a hub that is an App."""
        try:
            app = await self.client.app()
        except GithubError as error:
            yield self._refused(error)
            if self.way.ahead_s:
                yield app_findings.of_clock(self.way.ahead_s)
            return
        yield self._reached()
        yield app_findings.of_clock(self.way.ahead_s)
        name = app.get("name") or app.get("slug")
        message = f"{name} ({self.settings.app_id}); the private key is one of its keys"
        yield Finding("app", Level.OK, message)
        for finding in app_findings.of_permissions(self.settings, app):
            yield finding
        for finding in app_findings.of_events(self.settings, app):
            yield finding
        steps: dict[str, Callable[[Document], Awaitable[list[Finding]]]] = {
            "webhook": self._hook,
            "installations": self._installations,
            "repositories": self._repositories,
            "deliveries": self._deliveries,
        }
        for label, ask in steps.items():
            try:
                findings = await ask(app)
            except GithubError as error:
                findings = [Finding(label, Level.FAILED, str(error))]
            for finding in findings:
                yield finding

    def _reached(self) -> Finding:
        return Finding("api", Level.OK, f"{self.settings.api_url} answers")

    def _refused(self, error: GithubError) -> Finding:
        app_id = self.settings.app_id
        if isinstance(error, NotThere):
            message = f"GitHub has no App {app_id}: it was removed, or github.app_id or api_url is another one's ({error.reason})"
            return Finding("app", Level.FAILED, message)
        if isinstance(error, NoCredential):
            message = f"the private key is none of the App {app_id}: make one on the App's page, or mend github.app_id ({error.reason})"
            return Finding("app", Level.FAILED, message)
        return Finding("api", Level.FAILED, str(error))

    async def _hook(self, app: Document) -> list[Finding]:
        try:
            hook = await self.client.hook_config()
        except NotThere:
            hook = {}
        return [*app_findings.of_hook(self.settings, app, hook)]

    async def _installations(self, app: Document) -> list[Finding]:
        installations = await self.client.installations()
        return [*app_reach.of_installations(self.settings, app, installations)]

    async def _repositories(self, _: Document) -> list[Finding]:
        """Return the repositories of rules that no installation covers; GitHub can't look up patterns."""
        rules = {
            name: rule.name
            for rule in self.settings.rules
            for name in rule.repositories
            if not app_findings.is_wild(name)
        }
        findings: list[Finding] = []
        for name in list(rules)[:_MOST_REPOSITORIES]:
            reason = await self._uncovered(name)
            if reason:
                message = f"{name}: {reason} (rule {rules[name]})"
                findings.append(Finding("repositories", Level.FAILED, message))
        if rules and not findings:
            return [Finding("repositories", Level.OK, ", ".join(rules))]
        return findings

    async def _uncovered(self, repository: str) -> str:
        """Return the reason why no event of a repository is received; empty if events are."""
        try:
            document = await self.client.repository_installation(repository)
        except NotThere:
            return (
                "no installation of the App covers it, or there is no such repository"
            )
        counting, installation = self.settings.installations, number(document, "id")
        if counting and installation not in counting:
            return f"its installation {installation} is none of github.installations"
        return ""

    async def _deliveries(self, app: Document) -> list[Finding]:
        page = await self.client.deliveries()
        return [app_reach.of_deliveries(self.settings, app, page.items)]
