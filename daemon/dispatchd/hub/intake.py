"""How jobs come in, whoever brings them: checked for size, kept with their delivery, told to who waits."""

from hashlib import sha256
from http import HTTPStatus
from typing import Final
from uuid import uuid4

from attrs import evolve, frozen

from dispatchd.hub.desk import Desk
from dispatchd.hub.github.event import is_by_comment, must_be_asked_about
from dispatchd.hub.model import Check, Delivery, HubJob, Submission
from dispatchd.hub.rules import Refused

_LARGEST_JOB: Final = 32 * 1024 * 1024 - 16 * 1024
"""Largest job that is taken (bytes): what a machine reads, less what a pull adds to it; contracts/README.md, limits."""


@frozen
class Intake:
    """Takes jobs in."""

    desk: Desk

    async def submit(self, submission: Submission) -> bool:
        """Keep a job durably and tell who waits for it; False, and nothing changes, if its id is taken.

        Fails with Refused if it is too large, with QueueFull, and with StorageBusy.
        """
        delivery = _delivery(submission, self.desk.now())
        job = await self.desk.use(lambda: self._keep(submission, delivery))
        if job is None:
            return False
        self.desk.tell(job)
        return True

    async def again(self, job: HubJob, new_id: str = "") -> str:
        """Submit what a job was made from once more, and return the new job's id.

        Args:
            job: The job that has ended.
            new_id: The new job's id; a job that was made with it before is the answer. Empty for a new one.

        Raises:
            Refused: Its payload is gone, or another job has the new id.
        """
        texts, shown = await self.desk.use(
            lambda: (self.desk.reader.texts(job.id), self.desk.checks.get(job.id))
        )
        if texts is None:
            raise Refused(
                HTTPStatus.GONE, f"the payload of {job.id} is not kept any more"
            )
        check = shown.check if shown else None
        submission = once_more(job, check, *texts, new_id=new_id or str(uuid4()))
        new = await self.desk.use(lambda: self._keep(submission, again_of=job))
        if new is not None:
            self.desk.tell(new)
            return new.id
        reader = self.desk.reader
        earlier, its_texts = await self.desk.use(
            lambda: (reader.get(submission.id), reader.texts(submission.id))
        )
        if (
            earlier is None
            or earlier.document != submission.document
            or its_texts != texts
        ):
            raise Refused(
                HTTPStatus.CONFLICT, f"there is already another job {submission.id}"
            )
        return earlier.id

    def _keep(
        self,
        submission: Submission,
        delivery: Delivery | None = None,
        again_of: HubJob | None = None,
    ) -> HubJob | None:
        if submission.size > _LARGEST_JOB:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "the job is larger than the 32 MiB that a machine reads",
            )
        queue, now = self.desk.settings.queue, self.desk.now()
        supersedes = submission.supersedes and queue.supersede
        return self.desk.jobs.submit(
            evolve(submission, supersedes=supersedes),
            now=now,
            most=queue.most,
            most_bytes=queue.most_bytes,
            delivery=delivery,
            again_of=again_of,
        )


def once_more(
    job: HubJob,
    check: Check | None,
    payload: str,
    headers: str,
    *,
    new_id: str,
    presser: str = "",
) -> Submission:
    """Return what a job was made from as a new job, with a check of its own where the job had one.

    What GitHub hasn't been asked about, or has refused, is asked about again: nobody has said yet that it may run.
    So is a command that somebody at GitHub (`presser`, a login) wants once more by a button.
    """
    document = {**job.document, "id": new_id}
    asked = check is not None or job.deliveries > 0
    if presser and is_by_comment(job.document):
        asked, check, document["actor_login"] = False, None, presser
    if check is not None:
        # GitHub wants a new check run of the same name, and no ended one opened again.
        check = Check(
            installation=check.installation,
            repository=check.repository,
            sha=check.sha,
            pull_request=check.pull_request,
            name=check.name,
        )
    return Submission(
        id=new_id,
        document=document,
        payload=payload,
        headers=headers,
        priority=job.priority,
        # A person wants this commit; it is no newer than what waits.
        supersedes=False,
        received=not asked and job.by_event and must_be_asked_about(job.document),
        by_event=job.by_event,
        event_at=job.event_at,
        check=check,
    )


def _delivery(submission: Submission, now: float) -> Delivery | None:
    """Return the delivery that a job names, or None."""
    document = submission.document
    delivery_id, installation = (
        document.get(name) for name in ("delivery_id", "installation_id")
    )
    if not delivery_id:
        return None
    return Delivery(
        id=str(delivery_id),
        event=str(document.get("event_name") or ""),
        action=str(document.get("event_action") or ""),
        installation=installation if isinstance(installation, int) else 0,
        repository=str(document.get("repository_name") or ""),
        payload_hash=sha256(submission.payload.encode()).hexdigest(),
        received_at=now,
        routing=f"workflow {document.get('dag_name') or document.get('command')}",
        state="queued",
        job_ids=(submission.id,),
    )
