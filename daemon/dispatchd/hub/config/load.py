"""Configuration of the hub: `hub.toml` and its drop-ins, validated as a whole (contracts/schemas/hub-config.schema.json)."""

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from attrs import evolve, frozen

from dispatchd.drop_ins import Sources
from dispatchd.errors import ConfigError, Problem
from dispatchd.hub.config import login as login_tables
from dispatchd.hub.config import schedules as schedule_tables
from dispatchd.hub.config import webhooks as webhook_tables
from dispatchd.hub.config.github import GithubSettings, mistakes, resolved
from dispatchd.hub.config.login import LoginSettings
from dispatchd.hub.config.schedules import Schedule
from dispatchd.hub.config.webhooks import Webhook
from dispatchd.network.proxies import MAX_PORT
from dispatchd.protocol import toml_text
from dispatchd.protocol.contracts import violations
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.job import Json

FILE: Final = "hub.toml"
TOKEN_FILE: Final = "admin-token"  # noqa: S105  # a name


@frozen(kw_only=True)
class Leases:
    """Durations of claims (seconds)."""

    seconds: float = 60.0
    patience_s: float = 300.0
    """Additional time for which an accepted job stays with a machine that isn't heard of any more (seconds)."""
    unheard_s: float = 86_400.0
    """Additional time for a machine that has never sent a heartbeat for the job, and perhaps can't (seconds)."""
    most_expiries: int = 3
    """Most times that a job is queued again because its lease has expired (count)."""


@frozen(kw_only=True)
class Queue:
    """Limits of the queue."""

    most: int = 100_000
    """Most jobs that may wait (count)."""
    most_mib: int = 4096
    """Largest size of all of them together (MiB)."""
    supersede: bool = True
    """True if a newer commit of a pull request supersedes older queued jobs of it."""

    @property
    def most_bytes(self) -> int:
        """Largest size of all waiting jobs together (bytes)."""
        return self.most_mib << 20


@frozen(kw_only=True)
class ConnectionLimits:
    """Limits of connections."""

    most: int = 2048
    """Most connections in all (count); fewer if the process may not open so many descriptors."""
    silent_per_address: int = 256
    """Most connections of one address that are silent before or within a request (count); 0 for no limit."""


@frozen(kw_only=True)
class Retention:
    """Retention of records (days)."""

    days: float = 30.0
    """Time for which ended jobs and deliveries are kept (days)."""
    audit_days: float = 365.0
    """Time for which the audit list is kept (days)."""


@frozen(kw_only=True)
class LogSettings:
    """Storage of the logs of jobs."""

    folder: str = "logs"
    """Folder of the logs; relative to the configuration file."""
    days: float = 14.0
    """Time for which the log of a job is kept (days)."""
    job_mib: int = 256
    """Largest size of all logs of one job together (MiB)."""

    @property
    def most_bytes(self) -> int:
        """Largest size of all logs of one job together (bytes)."""
        return self.job_mib << 20


@frozen(kw_only=True)
class ArtifactSettings:
    """Storage of the artifacts of jobs."""

    folder: str = "artifacts"
    """Folder of the files; relative to the configuration file."""
    days: float = 14.0
    """Time for which the artifacts of a job are kept (days)."""
    job_mib: int = 1024
    """Largest size of all artifacts of one job together (MiB); 0 to store none."""
    file_mib: int = 512
    """Largest size of one of them (MiB)."""

    @property
    def most_bytes(self) -> int:
        """Largest size of all artifacts of one job together (bytes)."""
        return self.job_mib << 20

    @property
    def most_file_bytes(self) -> int:
        """Largest size of one artifact (bytes)."""
        return self.file_mib << 20


@frozen(kw_only=True)
class Settings:
    """A validated configuration; the paths in it are absolute."""

    file: Path = Path()
    listen: str = "127.0.0.1:8484"
    database_url: str = "sqlite:///hub.db"
    license_id: str = "self-hosted"
    tls_cert_file: str = ""
    """Certificate of the hub; empty for plain HTTP."""
    tls_key_file: str = ""
    """Private key of the certificate; empty if it is in the certificate's file."""
    leases: Leases = Leases()
    queue: Queue = Queue()
    connections: ConnectionLimits = ConnectionLimits()
    retention: Retention = Retention()
    logs: LogSettings = LogSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    schedules: tuple[Schedule, ...] = ()
    """Schedules that make jobs."""
    webhooks: tuple[Webhook, ...] = ()
    """Hooks of senders beside GitHub."""
    github: GithubSettings | None = None
    """Settings for GitHub; None for a hub without GitHub."""
    login: LoginSettings | None = None
    """Ways in which people log in; None for access tokens alone."""

    @property
    def token_file(self) -> Path:
        """File with the first token, written by `hub init` for the commands on the same machine."""
        return self.file.parent / TOKEN_FILE

    @property
    def log_folder(self) -> Path:
        """Folder of the logs of jobs."""
        return self.file.parent / self.logs.folder

    @property
    def artifact_folder(self) -> Path:
        """Folder of the artifacts of jobs."""
        return self.file.parent / self.artifacts.folder

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def url(self) -> str:
        """Address of the hub for clients on its own machine."""
        host, _, port = self.listen.rpartition(":")
        here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104  # an address to reach, not to bind
        return f"{self.scheme}://{here.get(host, host)}:{port}"

    @property
    def scheme(self) -> str:
        """Scheme of the hub's address: `https`, or `http` without TLS."""
        return "https" if self.tls_cert_file else "http"

    @property
    def is_in_clear(self) -> bool:
        """True if requests, with their secrets, go over a network in clear text."""
        host, _ = self.address
        return not (self.tls_cert_file or _is_loopback(host))


_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=False)


def load(file: Path, *, before_app: bool = False) -> Settings:
    """Return the configuration in a file and its drop-ins.

    Args:
        file: The file.
        before_app: True if a GitHub App may still be missing. Only the rules of `[github]` have to be valid then.

    Raises:
        ConfigError: The files can't be used; it names every problem.
    """
    file = file.absolute()
    sources = read_sources(file)
    settings = evolve(_converter.structure(_checked(sources), Settings), file=file)
    if settings.address[1] > MAX_PORT:
        # getaddrinfo(3) would take the remainder.
        expected = f"must have a port up to {MAX_PORT}"
        _require_none(sources, [("listen", expected)])
    of_tables = schedule_tables.mistakes(settings.schedules)
    _require_none(sources, [*of_tables, *webhook_tables.mistakes(settings.webhooks)])
    github = settings.github
    if github is not None:
        found = (
            (key, expected)
            for key, expected in mistakes(github)
            if key.startswith("github.rules") or not before_app
        )
        _require_none(sources, found)
        github = resolved(github, file.parent)
    login = _login(sources, settings)
    try:
        url = _absolute(settings.database_url, file.parent)
    except UnicodeEncodeError as error:
        expected = "must be in a folder whose name is UTF-8"
        raise ConfigError([Problem(file=file, key="", expected=expected)]) from error
    cert_file, key_file = (
        path and str(file.parent / path)
        for path in (settings.tls_cert_file, settings.tls_key_file)
    )
    return evolve(
        settings,
        database_url=url,
        github=github,
        webhooks=webhook_tables.resolved(settings.webhooks, file.parent),
        login=login,
        tls_cert_file=cert_file,
        tls_key_file=key_file,
    )


def read_sources(file: Path) -> Sources:
    """Return the tables of a file and its drop-ins; only their syntax is checked.

    Raises:
        ConfigError: One of them can't be read, or isn't TOML.
    """

    def parse(path: Path) -> dict[str, Json]:
        try:
            return toml_text.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            hint = "; `dispatchd hub init` makes one" if path == file else ""
            expected = f"must be a readable file ({error.strerror}){hint}"
            problem = Problem(file=path, key="", expected=expected)
            raise ConfigError([problem]) from error
        except ValueError as error:
            expected = f"must be TOML in UTF-8 ({error})"
            problem = Problem(file=path, key="", expected=expected)
            raise ConfigError([problem]) from error

    return Sources.read(file, parse)


def _checked(sources: Sources) -> dict[str, Any]:
    """Return the tables of all files together, by the schema.

    Raises:
        ConfigError: They break the schema.
    """
    document = sources.merged
    found = (
        (violation.path.removeprefix("$."), violation.rule)
        for violation in violations("hub-config", document)
    )
    _require_none(sources, found)
    return document


def _login(sources: Sources, settings: Settings) -> LoginSettings | None:
    """Return the settings of `[login]` with absolute paths.

    Raises:
        ConfigError: They have mistakes.
    """
    login, github = settings.login, settings.github
    if login is None:
        return None
    public_url = "" if github is None else github.public_url
    has_github = github is not None
    _require_none(
        sources,
        login_tables.mistakes(login, has_github=has_github, public_url=public_url),
    )
    return login_tables.resolved(login, settings.file.parent, public_url)


def _require_none(sources: Sources, found: Iterable[tuple[str, str]]) -> None:
    """Raise if there is a mistake, each of which is a key and an expectation.

    Raises:
        ConfigError: There is one.
    """
    problems = [
        Problem(file=sources.file_of(key), key=key, expected=expected)
        for key, expected in found
    ]
    if problems:
        raise ConfigError(problems)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _absolute(url: str, folder: Path) -> str:
    """Return a database URL whose file, if it is one, doesn't depend on the working directory.

    Raises:
        UnicodeEncodeError: The folder's name can't be a part of one.
    """
    kind, _, path = url.partition(":///")
    if kind != "sqlite" or not path or path.startswith("/"):
        return url
    return f"sqlite:///{quote(str(folder))}/{path}"
