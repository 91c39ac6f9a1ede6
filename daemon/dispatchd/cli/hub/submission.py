"""Submission of a job by a command: queued once, also where the hub's answer is lost."""

import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from dispatchd.cli.hub.client import HubClient, IsThere, Unanswered
from dispatchd.errors import NotReachable

_CALLS: Final = 4
"""Most calls for one job (count)."""

_AGAIN_S: Final = 0.5
"""Pause before a call is repeated (seconds)."""


def submitted(hub: HubClient, job: Mapping[str, Any], *, cannot: str) -> dict[str, Any]:
    """Queue a job, and return the hub's answer. The job gets its id here, so that a repeated call queues no second one.

    Raises:
        NotReachable: The hub doesn't answer; if it may have queued the job, the reason names its id.
        UsageError: The hub refuses.
    """
    named = {**job, "id": job.get("id") or str(uuid4())}
    lost: NotReachable | None = None
    for _ in range(_CALLS):
        try:
            return hub.ask("POST", "/api/v1/jobs", named, cannot=cannot, has="id")
        except IsThere:
            if lost is None:
                raise
            # By one of the calls before.
            return {"id": named["id"]}
        except NotReachable as error:
            if lost is None and not isinstance(error, Unanswered):
                raise
            lost = error
        time.sleep(_AGAIN_S)
    reason = str(lost).removeprefix(f"cannot {cannot}: ")
    raise NotReachable(
        cannot=cannot,
        reason=f"{reason}; it may be queued all the same, as {named['id']}",
    ) from lost
