"""A database of revision 0002 that has grown."""

import json
from typing import Any

import sqlalchemy as sa

from dispatchd.hub.storage.migrations import steps

UNFINISHED = ("queued", "claimed", "accepted", "running", "needs_attention")
ODD = 'j"ö\\u0000\\\\'


def grown(url: str, jobs: int, waiting: int = 0) -> None:
    """Make a database of revision 0002 with jobs that have ended, some that wait, one of each other state, and their deliveries."""
    empty = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with empty.begin() as db:
        for revision in ("0001", "0002"):
            steps.upgrade(db, revision)
        metadata = sa.MetaData()
        metadata.reflect(db)
        states = [*["succeeded"] * jobs, *UNFINISHED, *["queued"] * waiting]
        ids = [ODD, *(f"j{number}" for number in range(1, len(states)))]
        rows = [_job(job_id, state) for job_id, state in zip(ids, states, strict=True)]
        db.execute(sa.insert(metadata.tables["jobs"]), rows)
        texts = [{"id": job_id, "payload": "{}", "headers": "{}"} for job_id in ids]
        db.execute(sa.insert(metadata.tables["texts"]), texts)
        deliveries = [
            {"id": f"of {job_id}", "job_id": job_id, "received_at": 1.0}
            for job_id in ("", *ids)
        ]
        db.execute(sa.insert(metadata.tables["deliveries"]), deliveries)
    empty.dispose()


def _job(job_id: str, state: str) -> dict[str, Any]:
    document = {"id": job_id, "pull_request_number": 7}
    flags = dict.fromkeys(("urgent", "lapsed", "cancel_requested"), False)
    return {"id": job_id, "document": json.dumps(document), "state": state, **flags}
