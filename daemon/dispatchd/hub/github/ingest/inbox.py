"""Inbox of events. An event and all that it asks for are committed in one transaction, before anybody gets an answer.

GitHub doesn't repeat a delivery after a success, so a webhook is answered after the commit. The same delivery
a second time changes nothing, whether it comes by webhook or by polling.
"""

from collections.abc import Iterator
from typing import Final

from attrs import evolve, frozen
from sqlalchemy import Connection, update

from dispatchd.hub.auth.audit_list import add_change
from dispatchd.hub.context import Context
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.decisions.decision import stay_tag
from dispatchd.hub.domain.document import RESOLVE, JobDocument
from dispatchd.hub.domain.event_kinds import is_by_comment
from dispatchd.hub.domain.model import ENDED, Check, Delivery, HubJob, State, Submission
from dispatchd.hub.github.event import GithubEvent
from dispatchd.hub.github.ingest.acts import change_at_github
from dispatchd.hub.github.ingest.resolutions import parked_jobs, with_target
from dispatchd.hub.github.routing.job_fields import job_fields
from dispatchd.hub.github.routing.job_id import JobIds
from dispatchd.hub.github.routing.route import (
    Button,
    Cancel,
    Plan,
    Resolve,
    Run,
    Step,
    SuiteAgain,
)
from dispatchd.hub.queue.admission import Admission, lock_repository
from dispatchd.hub.queue.submit import once_more
from dispatchd.hub.storage.deliveries import (
    insert_delivery,
    is_known,
    keep_delivery,
)
from dispatchd.hub.storage.jobs import queries
from dispatchd.hub.storage.jobs.checks import JobCheck, check_of, checks_of
from dispatchd.hub.storage.jobs.rows import read_job, write_job
from dispatchd.hub.storage.schema import CHECKS
from dispatchd.hub.storage.seen_bodies import first_delivery, note_body
from dispatchd.protocol.job import CANCEL

COMMIT_LENGTHS: Final = (40, 64)
"""Lengths of a commit's full id (hex digits; SHA-1, SHA-256)."""


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
    """Result of an arrival; `jobs` are those that it made or changed."""

    delivery: Delivery
    is_duplicate: bool = False
    replay_of: str = ""
    """Id of the delivery with which the same body came first."""
    jobs: tuple[HubJob, ...] = ()


@frozen
class Inbox:
    """Inbox of a hub.

    Calls block, and may come from any thread. Each raises StorageBusy if the database can't be used now.
    """

    context: Context

    def take(self, arrival: Arrival, plan: Plan, *, by_hook: bool = False) -> Taken:
        """Store an event and do what it asks for; do nothing if it is known.

        Args:
            arrival: The event.
            plan: The steps that it asks for.
            by_hook: True if id and hook come from the sender of a webhook alone. The same body under another id or hook is a
                replay then. Nothing of a replay is stored, so that the event is still processed if GitHub lists that id.

        Raises:
            QueueFull: The event asks for a job and the queue is full.
        """
        return self.context.stores.database.write(
            lambda db: self._take(db, arrival, plan, by_hook=by_hook)
        )

    def _take(
        self, db: Connection, arrival: Arrival, plan: Plan, *, by_hook: bool
    ) -> Taken:
        event = arrival.event
        now = self.context.now()
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
        lock_repository(db, event.repository, event.repository_id)
        if by_hook:
            first = first_delivery(db, arrival.payload_hash, event.name)
            if first:
                replay_of = "" if is_known(db, delivery) else first
                return Taken(delivery=delivery, is_duplicate=True, replay_of=replay_of)
            note_body(db, arrival.payload_hash, arrival.id, event.name, now=now)
        if not insert_delivery(db, delivery):
            return Taken(delivery=delivery, is_duplicate=True)
        if not plan.steps:
            return Taken(delivery=delivery)
        ids = JobIds(target=arrival.target, delivery_id=arrival.id)
        work = _Work(db=db, context=self.context, arrival=arrival, ids=ids, now=now)
        done = [outcome for step in plan.steps for outcome in work.do(step)]
        made = tuple(outcome.job for outcome in done if outcome.is_new and outcome.job)
        delivery = evolve(
            delivery,
            routing="; ".join(
                [plan.reason, *(outcome.note for outcome in done if outcome.note)]
            ),
            state="queued" if made else "done",
            job_ids=tuple(job.id for job in made),
        )
        keep_delivery(db, delivery)
        jobs = tuple(outcome.job for outcome in done if outcome.job is not None)
        return Taken(delivery=delivery, jobs=jobs)


@frozen(kw_only=True)
class _Done:
    """Result of a step: the job that it made or changed, and a note about what the plan couldn't know."""

    job: HubJob | None = None
    is_new: bool = False
    note: str = ""


@frozen(kw_only=True)
class _Work:
    """Execution of a plan's steps in one transaction."""

    db: Connection
    context: Context
    arrival: Arrival
    ids: JobIds
    now: float

    def do(self, step: Step) -> Iterator[_Done]:
        match step:
            case Run():
                yield self._run(step)
            case Cancel():
                yield self._cancel(step)
            case Resolve():
                yield self._resolve(step)
            case Button(external_id=external_id, again=again):
                yield self._press(external_id.partition("#")[0], again=again)
            case SuiteAgain(sha=sha):
                yield from self._suite(sha)

    def _run(self, step: Run) -> _Done:
        rule = step.rule
        document = self._document(step, rule.name)
        check = None if step.must_ask else check_for(document, rule.name)
        submission = self._submission(
            document, rule.priority, check, received=step.must_ask
        )
        return self._admit(submission)

    def _cancel(self, step: Cancel) -> _Done:
        document = self._document(step, CANCEL)
        return self._admit(self._submission(document, 0, None, received=True))

    def _resolve(self, step: Resolve) -> _Done:
        """Note a decision, with the parked job that it is about now: GitHub's answer may take a while."""
        document = self._document(step, RESOLVE)
        if not step.external_id:
            parked = parked_jobs(self.db, document)
            said_at = self.arrival.event.said_at
            document = with_target(document, parked, said_at=said_at)
            return self._admit(self._submission(document, 0, None, received=True))
        job_id = step.external_id.partition("#")[0]
        shown = check_of(self.db, job_id)
        if shown is None or not self._is_of_repository(shown):
            return _Done(note=f"there is no job {job_id} for it (any more)")
        job = shown.job
        if job.state is not State.NEEDS_ATTENTION or stay_tag(job) != step.stay:
            return _Done(note=f"job {job_id} is no longer parked as this check shows")
        document = with_target(document, [job])
        return self._admit(self._submission(document, 0, None, received=True))

    def _document(self, step: Run | Cancel | Resolve, cause: str) -> JobDocument:
        job_id = self.ids.next(cause)
        return job_fields(self.arrival.event, self.arrival.id, step, job_id=job_id)

    def _press(self, job_id: str, *, again: bool) -> _Done:
        shown = check_of(self.db, job_id)
        if shown is None or not self._is_of_repository(shown):
            return _Done(note=f"there is no job {job_id} for it (any more)")
        if again:
            check = shown.check
            # Of several checks with a name people see the newest.
            names = check.repository, self.arrival.event.repository
            of_commit = checks_of(self.db, check.sha, *names)
            same = [
                job_check
                for job_check in of_commit
                if job_check.check.name == check.name
            ]
            return self._again(same[-1])
        row = self.db.execute(queries.LOCKED, {"of_id": job_id}).mappings().one()
        job = read_job(row)
        if job.state in ENDED:
            return _Done(note=f"job {job_id} has ended as {job.state} already")
        after = claim_rules.cancel(job, now=self.now)
        write_job(self.db, job, after)
        change = change_at_github(self.arrival.event.actor, job.id, "cancel")
        add_change(self.db, change, now=self.now)
        return _Done(job=after)

    def _suite(self, sha: str) -> Iterator[_Done]:
        of_commit = checks_of(self.db, sha, self.arrival.event.repository)
        # No checks under this repository name; there may be some under an earlier one.
        of_commit = of_commit or checks_of(self.db, sha)
        newest = {
            job_check.check.name: job_check
            for job_check in of_commit
            if self._is_of_repository(job_check)
        }
        if not newest:
            yield _Done(note="there is no job for this commit (any more)")
        for name, job_check in newest.items():
            if is_by_comment(job_check.job.document):
                # A re-run of all checks must not start a deployment.
                yield _Done(note=f"{name} was started by a comment, and only by one")
            else:
                yield self._again(job_check)

    def _is_of_repository(self, shown: JobCheck) -> bool:
        """Return whether a check is of the event's repository. The id decides where it is known: names change."""
        event, known = self.arrival.event, shown.job.document.repository_id
        if known and event.repository_id:
            return known == event.repository_id
        return shown.check.repository.casefold() == event.repository.casefold()

    def _again(self, shown: JobCheck) -> _Done:
        job = shown.job
        if job.state not in ENDED:
            return _Done(note=f"{shown.check.name} is {job.state} already")
        texts = self.db.execute(queries.TEXTS_OF, {"of_id": job.id}).first()
        if texts is None:
            return _Done(note=f"the payload of {job.id} is not kept any more")
        event = self.arrival.event
        self._follow_rename(shown)
        # The repository may have another name by now, and the App another installation.
        document = job.document.changed(
            repository=event.repository, installation_id=event.installation
        )
        job = evolve(job, document=document)
        check = evolve(
            shown.check,
            repository=event.repository,
            installation=event.installation,
        )
        return self._admit(
            once_more(
                job,
                check,
                texts.payload,
                texts.headers,
                new_id=self.ids.next(job.id),
                presser=event.actor,
            )
        )

    def _follow_rename(self, shown: JobCheck) -> None:
        """Show the checks of a commit and name under the repository's new name: of all of them only the newest counts."""
        check, name = shown.check, self.arrival.event.repository
        if check.repository == name:
            return
        of_commit = checks_of(self.db, check.sha, check.repository)
        same = [
            job_check.job.id
            for job_check in of_commit
            if job_check.check.name == check.name and self._is_of_repository(job_check)
        ]
        change = update(CHECKS).where(CHECKS.c.job_id.in_(same))
        self.db.execute(change.values(repository=name))

    def _submission(
        self,
        document: JobDocument,
        priority: int,
        check: Check | None,
        *,
        received: bool,
    ) -> Submission:
        return Submission(
            id=document.id,
            document=document,
            payload=self.arrival.payload,
            headers=self.arrival.headers,
            priority=priority,
            supersedes=self.context.settings.queue.supersede,
            by_event=True,
            event_at=self.arrival.event.changed_at,
            received=received,
            check=check,
        )

    def _admit(self, submission: Submission) -> _Done:
        queue = self.context.settings.queue
        job = Admission(self.context.stores.database).admit(
            self.db,
            submission,
            now=self.now,
            most=queue.most,
            most_bytes=queue.most_bytes,
        )
        return _Done(job=job, is_new=True)


def check_for(document: JobDocument, name: str) -> Check | None:
    """Return the check that shows a job at GitHub, or None for a job without a commit."""
    if len(document.sha) not in COMMIT_LENGTHS:
        return None
    return Check(
        installation=document.installation_id,
        repository=document.repository,
        sha=document.sha,
        pull_request=document.pull_request,
        name=name,
    )
