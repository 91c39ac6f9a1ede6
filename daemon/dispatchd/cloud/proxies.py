"""Which proxy the endpoint is asked through: the configured one, else the environment's.

The variables are those of curl(1) and libcurl: `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`,
the lower-case name first. A loopback endpoint is never asked through a proxy: there the name would mean
the proxy's own machine.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
from attrs import field, frozen

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_PORT: Final = 65535


@frozen(kw_only=True)
class FoundProxy:
    """A proxy as it was written, and where: the configuration key or the variable's name."""

    text: str = field(repr=False)
    source: str


@frozen(kw_only=True)
class Proxy:
    """A proxy to use; `url` without credentials, `auth` as (user, password)."""

    url: httpx.URL
    source: str
    auth: tuple[str, str] | None = field(repr=False)

    @property
    def at(self) -> str:
        """The proxy's host and port, as words show it."""
        return authority(self.url.host, port_of(self.url))


def port_of(url: httpx.URL) -> int:
    """Return a URL's port, the scheme's own where it names none."""
    return url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def authority(host: str, port: int) -> str:
    """Return host and port as URLs and CONNECT have them (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def port_problem(url: httpx.URL) -> str:
    """Return what is wrong with a URL's port, or ""."""
    return "" if (url.port or 1) <= _MAX_PORT else "must have a port up to 65535"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: `localhost` (RFC 6761, 6.3) or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def find_proxy(
    url: httpx.URL, configured: str, environment: Mapping[str, str]
) -> FoundProxy | None:
    """Return the proxy that a URL is asked through, or None for none.

    A configured proxy is used whatever NO_PROXY says.
    """
    if is_loopback(url.host):
        return None
    if configured:
        return FoundProxy(text=configured, source="cloud.proxy")
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            if text := environment.get(spelled, "").strip():
                found = FoundProxy(
                    text=text if "://" in text else f"http://{text}", source=spelled
                )
                return None if _excepted(url, environment) else found
    return None


def check_proxy(found: FoundProxy) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a proxy's URL; its text is not repeated, as it may hold a password."""
    where = "" if found.source == "cloud.proxy" else f"is empty and {found.source} "
    expected = f"{where}must be an http or https URL with a host"
    try:
        url = httpx.URL(found.text)
    except httpx.InvalidURL:
        yield "cloud.proxy", expected
        return
    if url.scheme not in _DEFAULT_PORTS or not url.host:
        yield "cloud.proxy", expected
    if problem := port_problem(url):
        yield "cloud.proxy", f"{where}{problem}"
    if url.userinfo and found.source == "cloud.proxy":
        yield (
            "cloud.proxy",
            "must have no credentials; they belong in cloud.proxy_credentials_file",
        )


def use_proxy(found: FoundProxy, credentials_file: Path | None) -> Proxy:
    """Return a found proxy with its credentials: the file's, else those in a variable's URL.

    Fails with OSError or ValueError: the file or the URL can't be used.
    """
    url = httpx.URL(found.text)
    auth = (url.username, url.password) if url.userinfo else None
    if credentials_file is not None:
        auth = read_credentials(credentials_file)
    return Proxy(
        url=url.copy_with(username=None, password=None, path="/"),
        source=found.source,
        auth=auth,
    )


def read_credentials(path: Path) -> tuple[str, str]:
    """Return user and password from a file with `user:password` on one line.

    Raises:
        ValueError: The file holds something else; the message repeats nothing of it.

    Fails with OSError: it can't be read.
    """
    try:
        line = path.read_text("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        line = ""
    user, colon, password = line.partition(":")
    if not user or not colon or "\n" in line:
        message = f"must hold user:password on one line, and {path} doesn't"
        raise ValueError(message)
    return user, password


def _excepted(url: httpx.URL, environment: Mapping[str, str]) -> bool:
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    return bypasses(excepted, url.host, port_of(url))


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Return whether a NO_PROXY list excepts a host.

    An entry is `*`, an address, a network (CIDR), or a name that stands for itself and all below it,
    with or without a leading dot; each may end in `:port`.
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
