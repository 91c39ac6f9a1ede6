"""An event and all that it asks for, durable in one transaction before anybody is told that it has come.

GitHub takes a success for good and never asks again, so the answer to a webhook is given after this. The same
delivery a second time changes nothing, whether it comes by webhook or by polling.
"""

from collections.abc import Iterator
from typing import Final
from uuid import uuid4

from attrs import evolve, frozen
from sqlalchemy import Connection

from dispatchd.domain.job import Json
from dispatchd.hub import job_queries as queries
from dispatchd.hub import rules
from dispatchd.hub.admission import Admission
from dispatchd.hub.delivery_store import insert_delivery, keep_delivery
from dispatchd.hub.desk import Desk
from dispatchd.hub.github.check_store import Owed, check_of, checks_of
from dispatchd.hub.github.event import GithubEvent, is_by_comment
from dispatchd.hub.github.job_fields import job_fields
from dispatchd.hub.github.routing import Button, Cancel, Plan, Run, Step, SuiteAgain
from dispatchd.hub.intake import once_more
from dispatchd.hub.job_rows import read_job, write_job
from dispatchd.hub.model import (
    ENDED,
    Check,
    Deadlocked,
    Delivery,
    HubJob,
    Submission,
)

COMMIT_LENGTHS: Final = (40, 64)
"""How many hex digits a commit's full id has (SHA-1, SHA-256)."""


@frozen(kw_only=True)
class Arrival:
    """An event that has come in; payload and headers are exact JSON texts."""

    target: str
    id: str
    event: GithubEvent
    payload: str
    headers: str
    payload_hash: str


@frozen(kw_only=True)
class Taken:
    """What has become of an arrival; `jobs` are those that it has made or changed."""

    delivery: Delivery
    is_duplicate: bool = False
    jobs: tuple[HubJob, ...] = ()


@frozen
class Inbox:
    """Takes events in. Calls block, and may come from any thread; each fails with StorageBusy if it can't."""

    desk: Desk

    def take(self, arrival: Arrival, plan: Plan) -> Taken:
        """Keep an event durably and do what it asks for; nothing, if it is known.

        Fails with QueueFull if it asks for a job and as many wait as may.
        """
        try:
            return self._take(arrival, plan)
        except Deadlocked:
            # Against somebody who cancels the same jobs in another order; GitHub doesn't ask again.
            return self._take(arrival, plan)

    def _take(self, arrival: Arrival, plan: Plan) -> Taken:
        event, database = arrival.event, self.desk.database
        now = self.desk.now()
        delivery = Delivery(
            target=arrival.target,
            id=arrival.id,
            event=event.name,
            action=event.action,
            installation=event.installation,
            repository=event.repository,
            payload_hash=arrival.payload_hash,
            received_at=now,
            routing=plan.reason,
            state="queued" if plan.steps else "ignored",
        )
        with database.transaction() as db:
            if not insert_delivery(db, delivery, shared=database.is_shared):
                return Taken(delivery=delivery, is_duplicate=True)
            if not plan.steps:
                return Taken(delivery=delivery)
            work = _Work(db=db, desk=self.desk, arrival=arrival, now=now)
            done = [each for step in plan.steps for each in work.do(step)]
            made = tuple(each.job for each in done if each.is_new and each.job)
            delivery = evolve(
                delivery,
                routing="; ".join(
                    [plan.reason, *(each.words for each in done if each.words)]
                ),
                state="queued" if made else "done",
                job_ids=tuple(job.id for job in made),
            )
            keep_delivery(db, delivery)
            jobs = tuple(each.job for each in done if each.job is not None)
            return Taken(delivery=delivery, jobs=jobs)


@frozen(kw_only=True)
class _Done:
    """What a step came to: a job that it has made or changed, and words for what the plan couldn't know."""

    job: HubJob | None = None
    is_new: bool = False
    words: str = ""


@frozen(kw_only=True)
class _Work:
    """One transaction's work."""

    db: Connection
    desk: Desk
    arrival: Arrival
    now: float

    def do(self, step: Step) -> Iterator[_Done]:
        match step:
            case Run():
                yield self._run(step)
            case Cancel():
                yield self._cancel(step)
            case Button(external_id=external_id, again=again):
                yield self._press(external_id.partition("#")[0], again=again)
            case SuiteAgain(sha=sha):
                yield from self._suite(sha)

    def _run(self, step: Run) -> _Done:
        rule, document = step.rule, self._document(step)
        check = None if step.must_ask else check_for(document, rule.name)
        submission = self._submission(
            document, rule.priority, check, received=step.must_ask
        )
        return self._admit(submission)

    def _cancel(self, step: Cancel) -> _Done:
        document = self._document(step)
        return self._admit(self._submission(document, 0, None, received=True))

    def _document(self, step: Run | Cancel) -> dict[str, Json]:
        fields = job_fields(self.arrival.event, self.arrival.id, step)
        return {"id": str(uuid4()), **fields}

    def _press(self, job_id: str, *, again: bool) -> _Done:
        shown = check_of(self.db, job_id)
        if shown is None or shown.check.repository != self.arrival.event.repository:
            return _Done(words=f"there is no job {job_id} for it (any more)")
        if again:
            check = shown.check
            # Of several of a name it is the newest that people see.
            of_commit = checks_of(self.db, check.repository, check.sha)
            same = [each for each in of_commit if each.check.name == check.name]
            return self._again(same[-1])
        row = self.db.execute(queries.LOCKED, {"of_id": job_id}).mappings().one()
        job = read_job(row)
        if job.state in ENDED:
            return _Done(words=f"job {job_id} has ended as {job.state} already")
        after = rules.cancel(job, now=self.now)
        write_job(self.db, job, after)
        return _Done(job=after)

    def _suite(self, sha: str) -> Iterator[_Done]:
        newest = {
            each.check.name: each
            for each in checks_of(self.db, self.arrival.event.repository, sha)
        }
        if not newest:
            yield _Done(words="there is no job for this commit (any more)")
        for name, each in newest.items():
            if is_by_comment(each.job.document):
                # Who wants all checks once more doesn't want a deployment.
                yield _Done(words=f"{name} was started by a comment, and only by one")
            else:
                yield self._again(each)

    def _again(self, shown: Owed) -> _Done:
        job = shown.job
        if job.state not in ENDED:
            return _Done(words=f"{shown.check.name} is {job.state} already")
        texts = self.db.execute(queries.TEXTS_OF, {"of_id": job.id}).first()
        if texts is None:
            return _Done(words=f"the payload of {job.id} is not kept any more")
        presser = self.arrival.event.actor
        return self._admit(
            once_more(job, shown.check, texts.payload, texts.headers, presser=presser)
        )

    def _submission(
        self,
        document: dict[str, Json],
        priority: int,
        check: Check | None,
        *,
        received: bool,
    ) -> Submission:
        return Submission(
            id=str(document["id"]),
            document=document,
            payload=self.arrival.payload,
            headers=self.arrival.headers,
            priority=priority,
            supersedes=self.desk.settings.queue.supersede,
            by_event=True,
            event_at=self.arrival.event.changed_at,
            received=received,
            check=check,
        )

    def _admit(self, submission: Submission) -> _Done:
        job = Admission(self.desk.database).admit(
            self.db, submission, now=self.now, most=self.desk.settings.queue.most
        )
        return _Done(job=job, is_new=True)


def check_for(document: dict[str, Json], name: str) -> Check | None:
    """Return what shows a job at GitHub, or None for one that is about no commit."""
    sha = str(document.get("sha") or "")
    if len(sha) not in COMMIT_LENGTHS:
        return None
    return Check(
        installation=_whole(document.get("installation_id")),
        repository=str(document["repository_name"]),
        sha=sha,
        pull_request=_whole(document.get("pull_request_number")),
        name=name,
    )


def _whole(value: Json) -> int:
    return value if isinstance(value, int) else 0
