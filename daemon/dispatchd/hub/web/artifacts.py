"""Artifacts on the page of a job: a table with a link to each file that the hub has."""

from typing import Final
from urllib.parse import urlencode

from attrs import frozen

from dispatchd.hub.api.artifacts import Artifacts, state_of

_SHOWN: Final = 100
"""Artifacts on the page of a job (count); the others are for the command and the API."""

_SENTENCES: Final = {
    "waiting": "its machine has not sent it yet",
    "missing": "the hub doesn't have it any more",
    "stored": "",
}


@frozen(kw_only=True)
class ShownArtifact:
    """Artifact as a page shows it. `link` is empty where there is nothing to download."""

    path: str
    size: str
    sha256: str
    link: str
    why_not: str


@frozen(kw_only=True)
class ShownArtifacts:
    """Artifacts of a job as its page shows them."""

    files: list[ShownArtifact]
    more: int
    """Artifacts that aren't shown (count)."""


def shown_artifacts(artifacts: Artifacts, job_id: str) -> ShownArtifacts:
    """Return the artifacts of a job for its page. Blocks."""
    rows = artifacts.rows_now(job_id)
    files = []
    for row, _, has_bytes in rows[:_SHOWN]:
        state = state_of(row, has_bytes=has_bytes)
        query = urlencode({"id": job_id, "path": row.path}, errors="surrogatepass")
        shown = ShownArtifact(
            path=row.path,
            size=f"{row.size:,}",
            sha256=row.sha256,
            link=f"/artifact?{query}" if has_bytes else "",
            why_not=row.refused or _SENTENCES.get(state, ""),
        )
        files.append(shown)
    return ShownArtifacts(files=files, more=len(rows) - len(files))
