"""Submission of jobs, from whatever source: they are checked for size, stored with their delivery, and announced."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final
from uuid import uuid4

from attrs import evolve, frozen
from sqlalchemy import Connection

from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import (
    DocumentTooLarge,
    IdTaken,
    JobTooLarge,
    PayloadGone,
)
from dispatchd.hub.domain.event_kinds import is_by_comment, must_be_asked_about
from dispatchd.hub.domain.model import Check, Delivery, HubJob, Submission
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.deliveries import add_again, keep_delivery
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.jobs.checks import check_of
from dispatchd.hub.storage.jobs.requeues import note_requeue

_LARGEST_READ: Final = 32 * 1024 * 1024
"""Largest answer that a machine reads (bytes); contracts/README.md, limits."""

_LARGEST_JOB: Final = _LARGEST_READ - 16 * 1024
"""Largest job (bytes): without the fields that a pull adds."""

_LARGEST_DOCUMENT: Final = 64 * 1024
"""Largest document of a job, which has all but payload and headers (bytes): each list and heartbeat reads it. That of a
GitHub event has about 1 KiB."""


@frozen
class Submissions:
    """Submits jobs."""

    context: Context

    async def submit(self, submission: Submission) -> bool:
        """Store a job durably and wake those who wait for it; return False, and change nothing, if its id is taken.

        Raises:
            DocumentTooLarge: The job is large without its payload and headers.
            JobTooLarge: No machine could read the job.
            QueueFull: The queue is full.
            StorageBusy: The database can't be used now.
        """
        delivery = _delivery(submission, self.context.now())
        job = await self.context.write(lambda: self._keep(submission, delivery))
        if job is None:
            return False
        self.context.waiting.notify(job)
        return True

    async def again(self, job: HubJob, new_id: str = "") -> str:
        """Submit a job again as a new one, and return the new job's id.

        Args:
            job: The job that has ended.
            new_id: The new job's id; it is returned if an earlier call for the same job made one with it. Empty for a new id.

        Raises:
            PayloadGone: Its payload was removed.
            IdTaken: Another job has the new id.
        """
        new_id = new_id or str(uuid4())
        database = self.context.stores.database
        new = await self.context.write(
            lambda: database.write(lambda db: self._admit_again(db, job, new_id))
        )
        if new is not None:
            self.context.waiting.notify(new)
            return new.id
        reader = self.context.stores.reader
        if await self.context.use(lambda: reader.requeued_of(new_id)) != job.id:
            raise IdTaken(new_id)
        return new_id

    async def redeliver(self, delivery: Delivery, jobs: Sequence[HubJob]) -> list[str]:
        """Submit the jobs of a delivery again as new ones, all or none, and return the new jobs' ids.

        Raises:
            JobTooLarge: No machine could read one.
            PayloadGone: The payload of one was removed.
            QueueFull: The queue has no room for all of them.
        """

        def work(db: Connection) -> list[HubJob]:
            again = [self._admit_again(db, job, str(uuid4())) for job in jobs]
            made = [new for new in again if new is not None]
            ids = tuple(new.id for new in made)
            keep_delivery(db, evolve(delivery, state="redelivered", job_ids=ids))
            return made

        database = self.context.stores.database
        made = await self.context.write(lambda: database.write(work))
        for new in made:
            self.context.waiting.notify(new)
        return [new.id for new in made]

    def admit(self, db: Connection, submission: Submission) -> HubJob | None:
        """Insert a job within a transaction and return it; return None, and change nothing, if its id is taken.

        The caller wakes those who wait for it (`Waiting.notify`) after the commit.

        Raises:
            JobTooLarge: No machine could read the job.
            QueueFull: The queue is full.
        """
        queue = self.context.settings.queue
        return self._admission.admit(
            db,
            self._admissible(submission),
            now=self.context.now(),
            most=queue.most,
            most_bytes=queue.most_bytes,
        )

    def _admit_again(self, db: Connection, job: HubJob, new_id: str) -> HubJob | None:
        """Insert within a transaction a new job that runs another one again; return None if its id is taken.

        Raises:
            PayloadGone: The payload of the other one was removed.
        """
        texts = db.execute(queries.TEXTS_OF, {"of_id": job.id}).first()
        if texts is None:
            raise PayloadGone(job.id)
        shown = check_of(db, job.id)
        check = shown.check if shown else None
        submission = once_more(job, check, texts.payload, texts.headers, new_id=new_id)
        new = self.admit(db, submission)
        if new is not None:
            add_again(db, job.document.delivery_id, job.id, new.id)
            note_requeue(db, new.id, job.id)
        return new

    def _keep(self, submission: Submission, delivery: Delivery | None) -> HubJob | None:
        # One that an earlier release has taken may run again.
        if len(submission.document.text) > _LARGEST_DOCUMENT:
            raise DocumentTooLarge(_LARGEST_DOCUMENT)
        queue = self.context.settings.queue
        return self._admission.submit(
            self._admissible(submission),
            now=self.context.now(),
            most=queue.most,
            most_bytes=queue.most_bytes,
            delivery=delivery,
        )

    def _admissible(self, submission: Submission) -> Submission:
        """Return a submission as the configuration allows it.

        Raises:
            JobTooLarge: No machine could read the job.
        """
        if submission.size > _LARGEST_JOB:
            raise JobTooLarge(_LARGEST_READ)
        supersedes = submission.supersedes and self.context.settings.queue.supersede
        return evolve(submission, supersedes=supersedes)

    @property
    def _admission(self) -> Admission:
        return Admission(self.context.stores.database)


def once_more(
    job: HubJob,
    check: Check | None,
    payload: str,
    headers: str,
    *,
    new_id: str,
    presser: str = "",
) -> Submission:
    """Return the submission that runs a job again, with a check of its own where the job had one.

    If GitHub has not been asked about the job, or its answer refused it, it is asked again: nobody has permitted the job
    yet. It is also asked about a command that a user at GitHub (`presser`, a login) runs again by a button.
    """
    document = job.document.changed(id=new_id)
    is_resolved = check is not None or job.deliveries > 0
    if presser and is_by_comment(job.document):
        is_resolved, check, document = False, None, document.changed(actor=presser)
    if check is not None:
        # GitHub wants a new check run of the same name; a completed one must not be reopened.
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
        # A person wants this commit; it isn't newer than the waiting jobs.
        supersedes=False,
        received=not is_resolved and job.by_event and must_be_asked_about(job.document),
        by_event=job.by_event,
        event_at=job.event_at,
        check=check,
    )


def _delivery(submission: Submission, now: float) -> Delivery | None:
    """Return the delivery that a job names, or None."""
    document = submission.document
    if not document.delivery_id:
        return None
    return Delivery(
        id=document.delivery_id,
        event=document.event,
        action=document.action,
        installation=document.installation_id,
        repository=document.repository,
        payload_hash=sha256(submission.payload.encode()).hexdigest(),
        received_at=now,
        routing=f"workflow {document.workflow or document.command}",
        state="queued",
        job_ids=(submission.id,),
    )
