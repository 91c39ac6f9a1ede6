"""Page of the jobs, newest first: filtered, searched, and in parts."""

from typing import Final
from urllib.parse import urlencode

from attrs import evolve, frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dispatchd.hub.api.jobs import filter_of
from dispatchd.hub.context import Context
from dispatchd.hub.domain.model import State
from dispatchd.hub.storage.jobs.reader import SEARCHED, Filter
from dispatchd.hub.web.lists.workers import queue_of
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import Visitor, answering, render
from dispatchd.hub.web.view_model import Row

_LISTED: Final = 50
"""Jobs on a page (count)."""

_LONGEST_SEARCH: Final = 200
"""Longest search (characters)."""

_QUICK: Final = (
    State.QUEUED,
    State.RUNNING,
    State.NEEDS_ATTENTION,
    State.FAILED,
    State.SUCCEEDED,
)
"""States with a link of their own above the list."""


@frozen
class JobsPage:
    """Route of the list of jobs, which is the first page."""

    entry: Entry

    def routes(self) -> list[Route]:
        """Return the route, for the application."""
        return [Route("/", answering(self.show), methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Return the newest jobs that fit the filter in the address."""
        visitor = await self.entry.reader(request)
        query = request.query_params
        job_filter = evolve(
            filter_of(request, str(_LISTED)),
            words=query.get("q", "").strip()[:_LONGEST_SEARCH],
            before=query.get("before", ""),
        )
        if visitor.repositories is not None:
            theirs = frozenset(visitor.repositories)
            job_filter = evolve(job_filter, repositories=theirs)
        context = self.entry.context
        return HTMLResponse(
            await context.use_for_list(lambda: _page(context, visitor, job_filter))
        )


def _page(context: Context, visitor: Visitor, job_filter: Filter) -> str:
    stores, now = context.stores, context.now()
    if job_filter.before:
        # A job that the visitor doesn't see is as if there were none: else the list would tell that it exists.
        last = stores.reader.get(job_filter.before, visitor.repositories)
        if last is None or not visitor.sees(last):
            job_filter = evolve(job_filter, before="")
    # Newest first; one more than is shown tells whether there are older ones.
    asked = evolve(job_filter, limit=job_filter.limit + 1)
    found = stores.reader.list(asked)[::-1]
    has_older = len(found) > job_filter.limit
    found = found[: job_filter.limit]
    jobs = [job for job in found if visitor.sees(job)]
    sees_all = visitor.repositories is None
    waits = sees_all and any(job.state is State.QUEUED for job in jobs)
    queue = queue_of(context) if waits else None
    kept = {
        "q": job_filter.words,
        "repository": job_filter.repository,
        "workflow": job_filter.workflow,
        "state": job_filter.state,
    }
    return render(
        "list.html",
        visitor,
        now=now,
        pause=stores.pauses.get() if sees_all else None,
        rows=[
            Row.of(job, now=now, why=queue.why(job) if queue else "") for job in jobs
        ],
        counts=stores.reader.counts() if sees_all else {},
        quick=_QUICK if sees_all else (),
        job_filter=job_filter,
        is_filtered=any(kept.values()),
        searched=f"{SEARCHED:,}" if job_filter.words else "",
        names=stores.machines.names(),
        older=_address({**kept, "before": jobs[-1].id}) if has_older and jobs else "",
        newest=_address(kept) if job_filter.before else "",
    )


def _address(fields: dict[str, str]) -> str:
    said = {name: value for name, value in fields.items() if value}
    return f"/?{urlencode(said, errors='surrogatepass')}" if said else "/"
