"""Address of the GitHub that people use, beside its API. Pure."""

from typing import Final
from urllib.parse import urlsplit

_API: Final = "https://api.github.com"
_WEB: Final = "https://github.com"


def web_url(api_url: str) -> str:
    """Return the address of GitHub's website for that of its API (GitHub docs, REST API, base URL)."""
    if api_url.rstrip("/") == _API:
        return _WEB
    parts = urlsplit(api_url)
    # On GHE.com the API has a host of its own.
    return f"{parts.scheme}://{parts.netloc.removeprefix('api.')}"
