"""GitHub server of a run: the machine's configuration names the servers, and a payload only chooses among them.

A script sends its token to GITHUB_API_URL. Strangers write payloads, so a payload must not set that address.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import text

PUBLIC: Final = "https://github.com"

_SCHEME: Final = "https://"

_HOST: Final = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)

_ADDRESSES: Final = (
    ("repository", "html_url"),
    ("repository", "url"),
    ("sender", "html_url"),
)
"""Paths of a payload that hold an address of its server, best first; an installation's has no repository."""


def server_of(address: str) -> str:
    """Return the server of an address, such as https://github.com for https://api.github.com/repos/o/r.

    It is empty for text that is no address, and for plain HTTP, over which no token is sent.
    """
    try:
        url = urlsplit(address)
    except ValueError:
        return ""
    # A variable never holds user information.
    host = url.netloc.rpartition("@")[2].lower().removesuffix(":443")
    if url.scheme != "https" or not _HOST.fullmatch(host):
        return ""
    cloud = host.removeprefix("api.")
    return _SCHEME + (cloud if _is_cloud(cloud) else host)


def chosen(servers: Sequence[str], payload: Json) -> str:
    """Return the server of a payload if it is one of those given, else the first of them, or an empty string."""
    said = (server_of(text(payload, *path)) for path in _ADDRESSES)
    return next(
        (server for server in said if server in servers), next(iter(servers), "")
    )


def api_of(server: str) -> str:
    """Return the address of a server's REST API."""
    host = server.removeprefix(_SCHEME)
    return f"{_SCHEME}api.{host}" if _is_cloud(host) else f"{server}/api/v3"


def graphql_of(server: str) -> str:
    """Return the address of a server's GraphQL API."""
    host = server.removeprefix(_SCHEME)
    return (
        f"{_SCHEME}api.{host}/graphql" if _is_cloud(host) else f"{server}/api/graphql"
    )


def _is_cloud(host: str) -> bool:
    return host == "github.com" or host.endswith(".ghe.com")
