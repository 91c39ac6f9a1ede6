"""Choice of the proxy for a server: the configured one, else the environment's.

Only this module reads these variables, for all outgoing connections: daemon, hub, commands, checkouts and traces. They
are those of curl(1) and libcurl: `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, the lower-case name first. A
loopback server is never reached through a proxy: there the name would mean the proxy's own machine.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import httpx
from attrs import field, frozen

from dispatchd.errors import ConfigError, Problem
from dispatchd.network.trust import client_context

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_PORT: Final = 65535

_LABEL: Final = 63
"""Longest part of a host's name (characters; RFC 1035, 2.3.4)."""

_ENVIRONMENT: Final = Path("the environment")
"""Place of a variable, for messages."""


@frozen(kw_only=True)
class ProxySetting:
    """Proxy as it is written, and its source: the configuration key (which has a dot) or the variable's name."""

    text: str = field(repr=False)
    source: str

    @property
    def is_configured(self) -> bool:
        """True if it comes from the configuration, and not from a variable."""
        return "." in self.source


@frozen(kw_only=True)
class Proxy:
    """Proxy to use; `url` without credentials, `auth` as (user, password)."""

    url: httpx.URL
    source: str
    auth: tuple[str, str] | None = field(repr=False)

    @property
    def at(self) -> str:
        """Host and port of the proxy, for messages."""
        return authority(self.url.host, port_of(self.url))

    @property
    def full_url(self) -> str:
        """URL of the proxy with its credentials, for libraries that take nothing else."""
        user, password = self.auth or ("", "")
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"{self.url.scheme}://{login}{self.at}"


def port_of(url: httpx.URL) -> int:
    """Return a URL's port, or the default of its scheme."""
    return url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def authority(host: str, port: int) -> str:
    """Return host and port in the form of URLs and CONNECT (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parsed(address: str) -> httpx.URL:
    """Return an address as a URL whose host can be read.

    Raises:
        InvalidURL: It isn't one.
    """
    try:
        url = httpx.URL(address)
        # It is stricter about brackets, and refuses with a ValueError wherever it reads the address later.
        urlsplit(address)
    except ValueError as error:
        raise httpx.InvalidURL(str(error)) from error
    try:
        labels = url.host.removesuffix(".").split(".")
    except UnicodeError as error:
        # It begins with xn--, and is no name (RFC 5891).
        message = f"Invalid IDNA hostname: {error}"
        raise httpx.InvalidURL(message) from error
    if url.host and not all(0 < len(label) <= _LABEL for label in labels):
        # Python would refuse it with a UnicodeError, only once it is looked up.
        message = "Invalid hostname: a part of it between dots is empty or too long"
        raise httpx.InvalidURL(message)
    return url


def port_problem(url: httpx.URL) -> str:
    """Return the reason why a URL's port is invalid, or ""."""
    return "" if (url.port or 1) <= MAX_PORT else "must have a port up to 65535"


def url_problem(address: str) -> str:
    """Return the reason why an address is no URL, or ""."""
    try:
        return port_problem(parsed(address))
    except httpx.InvalidURL as error:
        return f"must be a URL ({error})"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: `localhost` (RFC 6761, 6.3) or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def find_proxy(
    url: httpx.URL,
    configured: str,
    environment: Mapping[str, str],
    key: str = "cloud.proxy",
) -> ProxySetting | None:
    """Return the proxy for a URL, or None for none.

    A configured proxy is used whatever NO_PROXY says; `key` is the configuration key that names it.
    """
    if is_loopback(url.host):
        return None
    if configured:
        return ProxySetting(text=configured, source=key)
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            if text := environment.get(spelled, "").strip():
                proxy = ProxySetting(
                    text=text if "://" in text else f"http://{text}", source=spelled
                )
                return None if is_excepted(url, environment) else proxy
    return None


def check_proxy(
    proxy: ProxySetting, key: str = "cloud.proxy"
) -> Iterator[tuple[str, str]]:
    """Yield key and problem of a proxy's URL. Its text is not repeated, as it may hold a password."""
    key = proxy.source if proxy.is_configured else key
    where = "" if proxy.is_configured else f"is empty and {proxy.source} "
    for problem in _problems(proxy):
        yield key, f"{where}{problem}"
    if proxy.is_configured and "@" in proxy.text:
        yield (
            key,
            f"must have no credentials; they belong in {key}_credentials_file",
        )


def environment_proxy(url: httpx.URL, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that the environment names for a URL, with its credentials, or None for none.

    Raises:
        ConfigError: The proxy can't be used; the error names the variable, and doesn't repeat its text.
    """
    proxy = find_proxy(url, "", environment)
    if proxy is None:
        return None
    problems = [
        Problem(file=_ENVIRONMENT, key=proxy.source, expected=problem)
        for problem in _problems(proxy)
    ]
    if problems:
        raise ConfigError(problems)
    return use_proxy(proxy, None)


def httpx_proxy(proxy: Proxy, ca_file: Path | None = None) -> httpx.Proxy:
    """Return a proxy as httpx takes it. A client's certificate is for servers, and is not shown to a proxy."""
    context = client_context(ca_file) if proxy.url.scheme == "https" else None
    return httpx.Proxy(proxy.url, auth=proxy.auth, ssl_context=context)


def _problems(proxy: ProxySetting) -> Iterator[str]:
    expected = "must be an http or https URL with a host"
    try:
        url = parsed(proxy.text)
    except httpx.InvalidURL:
        yield expected
        return
    if url.scheme not in _DEFAULT_PORTS or not url.host:
        yield expected
    if problem := port_problem(url):
        yield problem


def use_proxy(proxy: ProxySetting, credentials_file: Path | None) -> Proxy:
    """Return a proxy with its credentials: those of the file, else those in a variable's URL.

    Raises:
        OSError: The file can't be read.
        ValueError: The file or the URL can't be used.
    """
    url = parsed(proxy.text)
    auth = (url.username, url.password) if url.userinfo else None
    if credentials_file is not None:
        auth = read_credentials(credentials_file)
    return Proxy(
        url=url.copy_with(username=None, password=None, path="/"),
        source=proxy.source,
        auth=auth,
    )


def read_credentials(path: Path) -> tuple[str, str]:
    """Return user and password from a file with `user:password` on one line.

    Raises:
        ValueError: The file holds something else; the message repeats nothing of it.
        OSError: The file can't be read.
    """
    try:
        line = path.read_text("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        line = ""
    user, colon, password = line.partition(":")
    if not user or not colon or "\n" in line:
        message = f"must hold user:password on one line, and {path} doesn't"
        raise ValueError(message)
    return user, password


def is_excepted(url: httpx.URL, environment: Mapping[str, str]) -> bool:
    """Return whether the environment's NO_PROXY excepts a URL."""
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    return bypasses(excepted, url.host, port_of(url))


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Return whether a NO_PROXY list excepts a host.

    An entry is `*`, an address, a network (CIDR), or a name that stands for itself and all names below it,
    with or without a leading dot. Each may end in `:port`.
    """
    host = host.lower().rstrip(".")
    entries = re.split(r"[,\s]+", no_proxy.lower())
    return any(_covers(entry, host, port) for entry in entries if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name, _, of_port = entry.rpartition(":")
        if name and of_port.isdigit():
            return int(of_port) == port and _covers(name, host, port)
        suffix = entry.removeprefix("*").strip(".")
        return host == suffix or host.endswith(f".{suffix}")
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
