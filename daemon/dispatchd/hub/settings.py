"""The hub's configuration: `hub.toml`, checked as a whole (contracts/schemas/hub-config.schema.json)."""

import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from dispatchd.contracts import violations
from dispatchd.conversion import strict_converter
from dispatchd.errors import ConfigError, Problem
from dispatchd.hub.github.settings import GithubSettings, mistakes, resolved

FILE: Final = "hub.toml"
TOKEN_FILE: Final = "admin-token"  # noqa: S105  # a name


@frozen(kw_only=True)
class Leases:
    """How long claims hold; times are in seconds."""

    seconds: float = 60.0
    patience_s: float = 300.0
    """How much longer an accepted job stays with a machine that isn't heard of any more."""
    unheard_s: float = 86_400.0
    """How much longer with one that has sent no heartbeat for it at all, and may have none."""
    most_expiries: int = 3
    """How often a job is queued again because of it (count)."""


@frozen(kw_only=True)
class Queue:
    """What may wait."""

    most: int = 100_000
    """How many jobs (count)."""
    most_mib: int = 4096
    """How large all of them together (MiB)."""
    supersede: bool = True
    """Whether a newer commit of a pull request takes older queued jobs of it out."""

    @property
    def most_bytes(self) -> int:
        """How large all of them together (bytes)."""
        return self.most_mib << 20


@frozen(kw_only=True)
class ConnectionLimits:
    """How many connections there may be."""

    most: int = 2048
    """In all (count); fewer where the process may not open so many descriptors."""
    silent_per_address: int = 256
    """Of one address, of those that are silent before or within a request (count); 0 for any number."""


@frozen(kw_only=True)
class Retention:
    """How long ended jobs and deliveries are kept (days)."""

    days: float = 30.0


@frozen(kw_only=True)
class Settings:
    """A checked configuration; the paths in it are absolute."""

    file: Path = Path()
    listen: str = "127.0.0.1:8484"
    database_url: str = "sqlite:///hub.db"
    license_id: str = "self-hosted"
    tls_cert_file: str = ""
    """Empty for plain HTTP."""
    tls_key_file: str = ""
    """Empty if the key is in the certificate's file."""
    leases: Leases = Leases()
    queue: Queue = Queue()
    connections: ConnectionLimits = ConnectionLimits()
    retention: Retention = Retention()
    github: GithubSettings | None = None
    """None for a hub that has nothing to do with GitHub."""

    @property
    def token_file(self) -> Path:
        """Where `hub init` leaves the first token, for the commands on the same machine."""
        return self.file.parent / TOKEN_FILE

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def url(self) -> str:
        """Under which the hub is reached from its own machine."""
        host, _, port = self.listen.rpartition(":")
        here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104  # an address to reach, not to bind
        return f"{self.scheme}://{here.get(host, host)}:{port}"

    @property
    def scheme(self) -> str:
        """`https`, or `http` without TLS."""
        return "https" if self.tls_cert_file else "http"

    @property
    def is_in_clear(self) -> bool:
        """Whether what machines and people send, secrets too, goes over a network in clear."""
        host, _ = self.address
        return not (self.tls_cert_file or _is_loopback(host))


_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=False)


def load(file: Path, *, before_app: bool = False) -> Settings:
    """Return the configuration in a file.

    Args:
        file: The file.
        before_app: Whether a GitHub App may still be missing: then of `[github]` the rules alone have to be right.

    Raises:
        ConfigError: It can't be used; names every problem.
    """
    file = file.absolute()
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        expected = f"must be a readable file ({error.strerror}); `dispatchd hub init` makes one"
        raise ConfigError([Problem(file=file, key="", expected=expected)]) from error
    except ValueError as error:
        expected = f"must be TOML in UTF-8 ({error})"
        raise ConfigError([Problem(file=file, key="", expected=expected)]) from error
    found = [
        Problem(file=file, key=each.path.removeprefix("$."), expected=each.rule)
        for each in violations("hub-config", document)
    ]
    if found:
        raise ConfigError(found)
    settings = evolve(_converter.structure(document, Settings), file=file)
    github = settings.github
    if github is not None:
        found = [
            Problem(file=file, key=key, expected=expected)
            for key, expected in mistakes(github)
            if key.startswith("github.rules") or not before_app
        ]
        if found:
            raise ConfigError(found)
        github = resolved(github, file.parent)
    url = _absolute(settings.database_url, file.parent)
    cert_file, key_file = (
        each and str(file.parent / each)
        for each in (settings.tls_cert_file, settings.tls_key_file)
    )
    return evolve(
        settings,
        database_url=url,
        github=github,
        tls_cert_file=cert_file,
        tls_key_file=key_file,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _absolute(url: str, folder: Path) -> str:
    """Return a database URL whose file, if it is one, doesn't depend on the working directory."""
    kind, _, path = url.partition(":///")
    return f"sqlite:///{folder / path}" if kind == "sqlite" and path else url
