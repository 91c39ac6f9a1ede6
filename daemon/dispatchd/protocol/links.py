"""Links to what a job is about at GitHub."""

from collections.abc import Mapping
from urllib.parse import quote

from dispatchd.protocol.job import Job, Json


def link_of(document: Mapping[str, Json], web: str) -> str:
    """Return the address of what a job is about, best first: pull request, issue, commit, repository; else nothing."""
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
