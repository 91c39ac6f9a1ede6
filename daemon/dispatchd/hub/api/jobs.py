"""Routes of jobs: submit, list, watch, cancel, requeue and resolve."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from http import HTTPStatus
from typing import Final
from uuid import uuid4

import anyio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.api.views import attempt_document, job_document, texts_document
from dispatchd.hub.auth.audit import owner_of
from dispatchd.hub.context import Context
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.decisions import rules as decisions
from dispatchd.hub.domain.decisions.decision import Decision
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.domain.errors import PayloadGone
from dispatchd.hub.domain.model import ENDED, Attempt, HubJob, State, Submission
from dispatchd.hub.domain.schedules.progress import schedule_of
from dispatchd.hub.domain.scopes import ADMIN, READ, SUBMIT, allows
from dispatchd.hub.extension import Extension
from dispatchd.hub.http_bodies import (
    LARGEST_JOB_BODY,
    TEXTS,
    Refused,
    limit_of,
    read_body,
    read_members,
    seconds,
)
from dispatchd.hub.queue.changed import changed
from dispatchd.hub.queue.submit import Submissions
from dispatchd.hub.storage.jobs.reader import Filter
from dispatchd.protocol.job import Json
from dispatchd.protocol.outcome import LONGEST_NOTE

_LONGEST_WATCH_S: Final = 300.0
_LONGEST_LIST: Final = 1000

_LONGEST_ID: Final = 512
"""Longest id of a job (characters), as in submit-request.schema.json."""

_VERSION: Final = "Job-Version"
"""Header of an answer with a job: another one whenever the answer is another one."""

_FINISHED: Final = "finished"
"""Name that a watcher may wait for beside a state: any state in which a job has ended."""


@frozen
class Jobs:
    """Routes on which people and programs submit, watch and change jobs."""

    context: Context
    submissions: Submissions
    extension: Extension

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        one = "/api/v1/jobs/{job_id:job}"
        return [
            Route("/api/v1/jobs", self.submit, methods=["POST"]),
            Route("/api/v1/jobs", self.list, methods=["GET"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/requeue", self.requeue, methods=["POST"]),
            Route(f"{one}/resolve", self.resolve, methods=["POST"]),
            Route(one, self.show, methods=["GET"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Queue a job; it is durable when the answer is 201.

        A token for `submit` can end no other job: neither by a cancel job, nor by a newer commit. That needs `admin`,
        like the call that cancels a job.

        Raises:
            Refused: The id is taken or reserved, or the job would end others and the token lacks `admin`.
        """
        token = await self.context.require(request, SUBMIT)
        members = await read_members(request, "submit-request", LARGEST_JOB_BODY)
        document = {
            name: member.value for name, member in members.items() if name not in TEXTS
        }
        priority, supersedes = (
            document.pop("priority", 0),
            document.pop("supersede", None),
        )
        if JobDocument(document).is_cancel or supersedes is True:
            self.context.allow(request, token, ADMIN, what="a job that ends others")
        # In the form in which every kind of database stores it (storage/schema.py, Words).
        job_id = str(document.get("id") or uuid4()).replace(
            "\0", "\N{REPLACEMENT CHARACTER}"
        )
        self._require_free(job_id)
        texts = {
            name: members[name].text if name in members else "null" for name in TEXTS
        }
        submission = Submission(
            id=job_id,
            document=JobDocument({**document, "id": job_id}),
            priority=int(str(priority or 0)),
            supersedes=supersedes is not False and allows(token, ADMIN),
            payload=texts["payload"],
            headers=texts["headers"],
        )
        if not await self.submissions.submit(submission):
            raise Refused(HTTPStatus.CONFLICT, f"there is already a job {job_id}")
        return JSONResponse({"id": job_id}, status_code=HTTPStatus.CREATED)

    async def list(self, request: Request) -> Response:
        """Return the newest jobs, sorted oldest first."""
        await self.context.require(request, READ)
        job_filter = filter_of(request, "100")
        jobs, names = await self.context.use_for_list(
            lambda: (
                self.context.stores.reader.list(job_filter),
                self.context.stores.machines.names(),
            )
        )
        # Without their outputs, which may be 16 kB each.
        return JSONResponse({"jobs": [self._document(job, names) for job in jobs]})

    async def show(self, request: Request) -> Response:
        """Return one job; with `wait` (seconds), as soon as it has reached the state `until` or the time is over.

        With `seen`, the version of an answer, also as soon as the answer is another one.
        """
        await self.context.require(request, READ)
        job_id = request.path_params["job_id"]
        until = request.query_params.get("until", _FINISHED)
        seen = request.query_params.get("seen", "")
        deadline = anyio.current_time() + seconds(
            request.query_params.get("wait"), _LONGEST_WATCH_S
        )
        watchers = self.context.waiting.watchers
        with watchers.watch(job_id, lambda: self._whole(job_id)) as watched:
            while True:
                rings = watched.changed.next
                job, attempts, names = await watched.look()
                left_s = deadline - anyio.current_time()
                is_over = (
                    has_reached(job, until)
                    or left_s <= 0
                    or self.context.waiting.stopping
                )
                if is_over or seen:
                    answer = self._answer(job, attempts, names)
                    if is_over or answer.headers[_VERSION] != seen:
                        return answer
                with anyio.move_on_after(left_s):
                    await rings.wait()

    async def cancel(self, request: Request) -> Response:
        """End a job: at once where no machine has it, else through its machine."""
        await self.context.require(request, ADMIN)
        job = await self.end(request.path_params["job_id"])
        names = await self.context.use(self.context.stores.machines.names)
        return JSONResponse(self._document(job, names))

    async def requeue(self, request: Request) -> Response:
        """Submit an ended job again, under a new id: machines never run one id twice."""
        await self.context.require(request, ADMIN)
        new_id = request.query_params.get("new_id", "")
        again = await self.again(request.path_params["job_id"], new_id)
        return JSONResponse({"id": again}, status_code=HTTPStatus.CREATED)

    async def resolve(self, request: Request) -> Response:
        """Decide about a parked job; its machine carries the decision out."""
        await self.context.require(request, ADMIN)
        body = await read_body(request, "resolve-request")
        seen = body.get("parked")
        job = await self.decide(
            request.path_params["job_id"],
            str(body["as"]),
            str(body.get("note") or ""),
            by=owner_of(request),
            seen=None if seen is None else str(seen),
        )
        names = await self.context.use(self.context.stores.machines.names)
        return JSONResponse(self._document(job, names))

    def _require_free(self, job_id: str) -> None:
        """Raise if an id is that of a job of a schedule: whoever took it first would keep the schedule from that run.

        Raises:
            Refused: It is one.
        """
        name = schedule_of(job_id)
        if any(name == schedule.name for schedule in self.context.settings.schedules):
            message = f"the id {job_id} is for the schedule {name}; choose another one"
            raise Refused(HTTPStatus.CONFLICT, message)

    def _answer(
        self, job: HubJob, attempts: Sequence[Attempt], names: Mapping[str, str]
    ) -> Response:
        """Return the answer with all of a job, and its version."""
        answer = JSONResponse(
            {
                **self._document(job, names),
                **texts_document(job),
                "attempts": [attempt_document(attempt, names) for attempt in attempts],
            }
        )
        answer.headers[_VERSION] = sha256(answer.body).hexdigest()
        return answer

    def _document(self, job: HubJob, names: Mapping[str, str]) -> dict[str, Json]:
        link = self.extension.link_of(job)
        return job_document(job, now=self.context.now(), names=names, link=link)

    async def end(self, job_id: str) -> HubJob:
        """Cancel a job for the hub's owner, and return it as it is then.

        Raises:
            JobEnded: It has already ended.
            Refused: There is no such job.
        """
        now = self.context.now()
        ended = await self.context.write(
            lambda: self.context.stores.jobs.change(
                job_id, lambda job: claim_rules.cancel(job, now=now)
            )
        )
        if ended is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
        self.context.waiting.notify(ended[1])
        return ended[1]

    async def decide(
        self, job_id: str, choice: str, note: str, *, by: str, seen: str | None = None
    ) -> HubJob:
        """Decide about a parked job, and return it as it is then; durable before the machine is told.

        Args:
            job_id: The job.
            choice: The decision, one of `CHOICES`.
            note: The reason; empty for none.
            by: The name of the person or token.
            seen: The stay in `needs_attention` that they have seen; None for the present one.

        Raises:
            JobEnded: It has ended.
            NotResolvable: It isn't parked, or its machine can't get this decision.
            Refused: There is no such job.
        """
        now, names = self.context.now(), self.context.stores.machines.names

        def change() -> tuple[HubJob, HubJob] | None:
            machines = names()
            return self.context.stores.jobs.change(
                job_id,
                lambda job: decisions.decide(
                    job,
                    Decision(
                        choice=choice,
                        note=" ".join(note.split())[:LONGEST_NOTE],
                        by=by,
                        at=now,
                        parked=job.parked,
                        claim=job.deliveries,
                    ),
                    machine=machines.get(job.machine, job.machine),
                    seen=seen,
                ),
            )

        decided = await self.context.write(change)
        if decided is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
        self.context.waiting.notify(decided[1])
        return decided[1]

    async def again(self, job_id: str, new_id: str = "") -> str:
        """Submit an ended job again, and return the new job's id.

        Args:
            job_id: The job that has ended.
            new_id: The new job's id, 512 characters at most, so that a repeat of this call makes no second job;
                empty for a new one.

        Raises:
            IdTaken: Another job has the new id.
            Refused: There is no such job, or it has not ended, or the new id is for a schedule.
        """
        self._require_free(new_id)
        return await self.submissions.again(await self._ended(job_id, new_id), new_id)

    async def again_with(
        self, job_id: str, values: Mapping[str, str], new_id: str = ""
    ) -> str:
        """Submit an ended job again with other values, and return the new job's id.

        Args:
            job_id: The job that has ended.
            values: The values, as `changed` of `queue/changed.py` takes them.
            new_id: The new job's id, as for `again`.

        Raises:
            PayloadGone: Its payload was removed.
            NotChangeable: It can't have these values.
            Refused: There is no such job, or it has not ended, or the new id is taken by another job.
        """
        job = await self._ended(job_id, new_id)
        reader = self.context.stores.reader
        texts = await self.context.use(lambda: reader.texts(job_id))
        if texts is None:
            raise PayloadGone(job_id)
        new_id = new_id or str(uuid4())
        self._require_free(new_id)
        submission = changed(job, texts, values, new_id=new_id)
        if not await self.submissions.submit(submission):
            there = await self._job(new_id)
            if there.document != submission.document:
                raise Refused(HTTPStatus.CONFLICT, f"there is already a job {new_id}")
        return new_id

    async def _ended(self, job_id: str, new_id: str) -> HubJob:
        """Return a job that can be run again under a new id.

        Raises:
            Refused: There is no such job, or it has not ended, or the new id is too long.
        """
        if len(new_id) > _LONGEST_ID:
            rule = f"new_id is longer than {_LONGEST_ID} characters"
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, rule)
        job = await self._job(job_id)
        if job.state not in ENDED:
            raise Refused(
                HTTPStatus.CONFLICT, f"the job is {job.state}; cancel it first"
            )
        return job

    async def _job(self, job_id: str) -> HubJob:
        return _found(
            await self.context.use(lambda: self.context.stores.reader.get(job_id)),
            job_id,
        )

    async def _whole(
        self, job_id: str
    ) -> tuple[HubJob, Sequence[Attempt], Mapping[str, str]]:
        """Return a job, its attempts, and the names of machines."""
        reader, machines = self.context.stores.reader, self.context.stores.machines
        job, attempts, names = await self.context.use(
            lambda: (reader.get(job_id), reader.attempts(job_id), machines.names())
        )
        return _found(job, job_id), attempts, names


def _found(job: HubJob | None, job_id: str) -> HubJob:
    """Return a job.

    Raises:
        Refused: There is none.
    """
    if job is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
    return job


def filter_of(request: Request, limit: str) -> Filter:
    """Return the filter of a query.

    Raises:
        Refused: It names an unknown state.
    """
    query = request.query_params
    state = query.get("state", "")
    if state and state not in set(State):
        similar = get_close_matches(state, State, n=1)
        known = (
            f"did you mean {similar[0]}?"
            if similar
            else f"there are: {', '.join(State)}"
        )
        message = f"there is no state {state!r}; {known}"
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message)
    return Filter(
        state=state,
        repository=query.get("repository", ""),
        workflow=query.get("workflow", ""),
        like=query.get("like", ""),
        before=query.get("before", ""),
        limit=limit_of(request, limit, _LONGEST_LIST),
    )


def has_reached(job: HubJob, until: str) -> bool:
    """Return whether a watcher's wait is over: the job is in the state, or has ended."""
    return job.state in ENDED or job.state.value == until
