"""Routes of the pages: the lists, and a page for each job."""

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode
from uuid import uuid4

from attrs import field, frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dispatchd.hub.api.artifacts import Artifacts
from dispatchd.hub.api.jobs import Jobs
from dispatchd.hub.api.logs import Logs
from dispatchd.hub.auth.audit import owner_of
from dispatchd.hub.context import Context
from dispatchd.hub.domain.decisions.decision import Decision, waiting
from dispatchd.hub.domain.model import ENDED, WAITING, HubJob, State
from dispatchd.hub.domain.result_details import read_details
from dispatchd.hub.domain.scopes import ADMIN, OPERATE
from dispatchd.hub.extension import Extension
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.queue.changed import LONGEST_PAYLOAD, can_change
from dispatchd.hub.web.artifacts import shown_artifacts
from dispatchd.hub.web.events import Live
from dispatchd.hub.web.lists.deliveries import DeliveriesPage
from dispatchd.hub.web.lists.github import GithubPage
from dispatchd.hub.web.lists.jobs import JobsPage
from dispatchd.hub.web.lists.machines import MachinesPage
from dispatchd.hub.web.lists.queue import QueuePage
from dispatchd.hub.web.lists.workers import queue_of
from dispatchd.hub.web.log import download, line_of, log_stream, shown_log
from dispatchd.hub.web.log_lines import LineCounts
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import (
    Handler,
    LoginNeeded,
    Visitor,
    answering,
    render,
    static,
)
from dispatchd.hub.web.text import job_path, stage, standing
from dispatchd.hub.web.view_model import Progress, nested, origin, parts, steps, took_s
from dispatchd.protocol.outcome import CHOICES

_MOST_AHEAD: Final = 100_000
"""Queued jobs before a job that are counted (count)."""


@frozen
class Page:
    """Routes of the web page."""

    context: Context
    entry: Entry
    jobs: Jobs
    logs: Logs
    artifacts: Artifacts
    extension: Extension
    _counts: LineCounts = field(factory=LineCounts, init=False)

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        entry, one = self.entry, "/jobs/{job_id:job}"
        return [
            *JobsPage(entry).routes(),
            *QueuePage(entry).routes(),
            *MachinesPage(entry).routes(),
            *DeliveriesPage(entry).routes(),
            *GithubPage(entry, self.extension).routes(),
            _get("/login", entry.show),
            _post("/login", entry.login),
            _post("/logout", entry.logout),
            _get("/events", self.events),
            # With the id in the query, as below.
            _get("/log", self.log),
            _get("/log/events", self.log_events),
            _get("/artifact", self.artifact),
            _get("/static/{version}/{name}", static),
            # With the id in the query; `job_path` explains why.
            _get("/jobs", self.show),
            _post("/jobs/cancel", self.cancel),
            _post("/jobs/requeue", self.requeue),
            _post("/jobs/change", self.change),
            _post("/jobs/resolve", self.resolve),
            _post(f"{one}/cancel", self.cancel),
            _post(f"{one}/requeue", self.requeue),
            _post(f"{one}/change", self.change),
            _post(f"{one}/resolve", self.resolve),
            _get(one, self.show),
        ]

    async def show(self, request: Request) -> Response:
        """Return one job."""
        visitor, job_id = await self._seen(request)
        page = await self.context.use(
            lambda: self._job(visitor, job_id, line_of(request))
        )
        # So that a page without the script has more of the log when it is loaded again.
        await self.logs.mark(await self.logs.view(job_id))
        return HTMLResponse(page)

    async def events(self, request: Request) -> Response:
        """Stream changes to an open page.

        Raises:
            Refused: Nobody is logged in.
        """
        try:
            await self.entry.reader(request)
        except LoginNeeded as error:
            raise Refused(HTTPStatus.UNAUTHORIZED, "the session has ended") from error
        return Live(self.entry).stream(request)

    async def log(self, request: Request) -> Response:
        """Return all logs of a job as a text to store."""
        _, job_id = await self._seen(request)
        return download(self.logs, await self.logs.view(job_id))

    async def artifact(self, request: Request) -> Response:
        """Return the bytes of an artifact, to store."""
        _, job_id = await self._seen(request)
        return await self.artifacts.download(job_id, request)

    async def log_events(self, request: Request) -> Response:
        """Stream the log of a job to an open page.

        Raises:
            Refused: Nobody is logged in, or there is no such job.
        """
        try:
            _, job_id = await self._seen(request)
        except LoginNeeded as error:
            raise Refused(HTTPStatus.UNAUTHORIZED, "the session has ended") from error
        await self.logs.view(job_id)
        return log_stream(self.entry, self.logs, job_id, request, self._counts)

    async def _seen(self, request: Request) -> tuple[Visitor, str]:
        """Return the visitor, and the id of the wanted job.

        Raises:
            Refused: There is no such job, or none that the visitor may see: nobody can tell which.
        """
        visitor, job_id = await self.entry.reader(request), _job_id(request)
        if visitor.repositories is not None:
            reader = self.context.stores.reader
            theirs = visitor.repositories
            job = await self.context.use(lambda: reader.get(job_id, theirs))
            if job is None or not visitor.sees(job):
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
        return visitor, job_id

    async def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        await self.entry.posted(request, needs=OPERATE)
        job = await self.jobs.end(_job_id(request))
        return RedirectResponse(job_path(job.id), HTTPStatus.SEE_OTHER)

    async def requeue(self, request: Request) -> Response:
        """Submit an ended job again, and redirect to the new one."""
        form = await self.entry.posted(request, needs=OPERATE)
        again = await self.jobs.again(_job_id(request), form.get("new_id", ""))
        return RedirectResponse(job_path(again), HTTPStatus.SEE_OTHER)

    async def change(self, request: Request) -> Response:
        """Submit an ended job again with other values, and redirect to the new one; that is as much as to submit any job."""
        form = await self.entry.posted(request, needs=ADMIN)
        again = await self.jobs.again_with(
            _job_id(request), form, form.get("new_id", "")
        )
        return RedirectResponse(job_path(again), HTTPStatus.SEE_OTHER)

    async def resolve(self, request: Request) -> Response:
        """Decide about a parked job, as it stood on the page.

        Raises:
            Refused: The form has no decision, or the visitor may make none.
        """
        form = await self.entry.posted(request, needs=OPERATE)
        choice = form.get("as", "")
        if choice not in CHOICES:
            message = f"the decision has to be one of: {', '.join(CHOICES)}"
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        job = await self.jobs.decide(
            _job_id(request),
            choice,
            form.get("note", ""),
            by=owner_of(request),
            seen=form.get("parked"),
        )
        return RedirectResponse(job_path(job.id), HTTPStatus.SEE_OTHER)

    def _job(self, visitor: Visitor, job_id: str, line: int) -> str:
        job = self.context.stores.reader.get(job_id)
        if job is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
        attempts = self.context.stores.reader.attempts(job_id)
        decision, now = Decision.of(job), self.context.now()
        bar, details = parts(job, attempts, now), read_details(job.result_details)
        log = shown_log(self.logs, self.logs.view_now(job_id), self._counts, line)
        return render(
            "job.html",
            visitor,
            now=now,
            job=job,
            new_id=uuid4(),
            attempts=attempts,
            steps=steps(job, attempts),
            progress=Progress.of(job),
            parts_of_time=bar,
            nested=nested(bar, details.spans),
            took_s=took_s(job, now),
            origin=origin(job, self.extension.links_of(job)),
            standing=standing(job, self._why(visitor, job)),
            decision=decision,
            may_decide=job.state is State.NEEDS_ATTENTION
            and bool(job.parked)
            and not (job.cancel_requested or waiting(job)),
            stage=stage(decision, job) if decision else "",
            payload=self._payload(visitor, job),
            names=self.context.stores.machines.names(),
            details=details,
            log=log,
            artifacts=shown_artifacts(self.artifacts, job_id),
            first_query=urlencode({"id": job_id, "line": 1}, errors="surrogatepass"),
            log_query=urlencode({"id": job_id}, errors="surrogatepass"),
        )

    def _payload(self, visitor: Visitor, job: HubJob) -> str | None:
        """Return the payload of a job to change; empty for one that can't be shown, None for a job that can't be changed."""
        if not (visitor.is_admin and job.state in ENDED and can_change(job)):
            return None
        payload = self.context.stores.reader.short_payload(job.id, LONGEST_PAYLOAD)
        is_plain = all(part.isprintable() for part in re.split("[\r\n\t]", payload))
        return payload if is_plain else ""

    def _why(self, visitor: Visitor, job: HubJob) -> str:
        """Return why a job waits, for those who may know of machines and of other jobs."""
        if job.state not in WAITING or visitor.repositories is not None:
            return ""
        ahead = self.context.stores.reader.ahead_of(job.id, _MOST_AHEAD)
        return queue_of(self.context).why(job, ahead)


def _get(path: str, handler: Handler) -> Route:
    return Route(path, answering(handler), methods=["GET"])


def _post(path: str, handler: Handler) -> Route:
    return Route(path, answering(handler), methods=["POST"])


def _job_id(request: Request) -> str:
    job_id: str = request.path_params.get("job_id") or request.query_params.get(
        "id", ""
    )
    return job_id
