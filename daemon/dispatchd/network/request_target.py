"""Request targets: the absolute form, which a server has to take as well (RFC 9112, 3.2.2), and names in a path."""

import re
from typing import Final
from urllib.parse import quote

from attrs import frozen

_ABSOLUTE: Final = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)


@frozen
class AbsoluteTarget:
    """Request target in absolute form: the host with its port, and the target in origin form, which begins with /."""

    host: str
    origin_form: str


def absolute_target(target: str) -> AbsoluteTarget | None:
    """Return the parts of a request target in absolute form, or None for one in another form."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return None
    authority, rest = match.groups()
    host = authority.rpartition("@")[2]
    return AbsoluteTarget(host, rest if rest.startswith("/") else f"/{rest}")


def in_path(name: str) -> str:
    """Return a name as one segment of a path. Dots are encoded too: clients take them for folders."""
    return quote(name, safe="", errors="surrogatepass").replace(".", "%2E")
