"""Look-ups at the hub for what a person has typed: the beginning of an id, the name of a workflow."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from dispatchd.cli.hub.client import HubClient
from dispatchd.errors import UsageError

_SHOWN: Final = 5
"""Most ids that a message names (count)."""


def job_id_of(hub: HubClient, beginning: str) -> str:
    """Return the whole id of the job whose id begins with a text; the text itself if there is none.

    Raises:
        NotReachable: The hub doesn't answer.
        UsageError: The hub refuses, or more than one job begins with it.
    """
    like = quote(beginning, safe="", errors="surrogatepass")
    path = f"/api/v1/jobs?like={like}&limit={_SHOWN + 1}"
    jobs = hub.rows(path, "jobs", "hub-job", cannot=f"find job {beginning}")
    return _the_one("job", beginning, [job["id"] for job in jobs])


def delivery_id_of(hub: HubClient, beginning: str) -> str:
    """Return the whole id of the delivery whose id begins with a text, among the newest; else the text itself.

    Raises:
        NotReachable: The hub doesn't answer.
        UsageError: The hub refuses, or more than one delivery begins with it.
    """
    deliveries = hub.rows(
        "/api/v1/deliveries?limit=1000",
        "deliveries",
        "hub-delivery",
        cannot=f"find delivery {beginning}",
    )
    ids = [delivery["id"] for delivery in deliveries]
    return _the_one("delivery", beginning, ids)


def workflows_of(hub: HubClient) -> set[str]:
    """Return the workflows that machines declare and that the newest jobs asked for.

    Raises:
        NotReachable: The hub doesn't answer.
        UsageError: The hub refuses.
    """
    cannot = "list workflows"
    jobs = hub.rows("/api/v1/jobs?limit=1000", "jobs", "hub-job", cannot=cannot)
    declared = {name for each in hub.machines() for name in each["workflows"] or ()}
    return declared | {str(job.get("dag_name") or "") for job in jobs} - {""}


def _the_one(kind: str, beginning: str, ids: Sequence[str]) -> str:
    """Return the one id that is a text or begins with it; the text itself if none does.

    Raises:
        UsageError: More than one begins with it.
    """
    matches = [each for each in ids if each.startswith(beginning)]
    if beginning in matches or not matches:
        return beginning
    if len(matches) > 1:
        names = ", ".join(matches[:_SHOWN])
        count = f"more than {_SHOWN}" if len(matches) > _SHOWN else str(len(matches))
        reason = f"{count} begin with it ({names}); give more of the id"
        raise UsageError(cannot=f"find {kind} {beginning!r}", reason=reason)
    return matches[0]
