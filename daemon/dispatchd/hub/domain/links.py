"""Links to the subjects of jobs at GitHub. Pure."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from dispatchd.protocol.job import Job, Json

_API: Final = "https://api.github.com"
_WEB: Final = "https://github.com"


def web_url(api_url: str) -> str:
    """Return the address of GitHub's website for that of its API (GitHub docs, REST API, base URL)."""
    if api_url.rstrip("/") == _API:
        return _WEB
    found = urlsplit(api_url)
    # On GHE.com the API has a host of its own.
    return f"{found.scheme}://{found.netloc.removeprefix('api.')}"


def link_of(document: Mapping[str, Json], web: str) -> str:
    """Return the address of a job's subject: its pull request, else its issue, commit or repository; empty if it has none."""
    repository = document.get("repository_name")
    named = Job(id="", repository=repository if isinstance(repository, str) else "")
    if named.owner_and_name is None:
        return ""
    for kind, name in (
        ("pull", "pull_request_number"),
        ("issues", "issue_number"),
        ("commit", "sha"),
    ):
        value = document.get(name)
        if isinstance(value, (int, str)) and value and value is not True:
            return f"{web}/{named.repository}/{kind}/{quote(str(value), safe='')}"
    return f"{web}/{named.repository}"
