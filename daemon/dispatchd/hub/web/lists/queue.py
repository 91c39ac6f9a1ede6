"""Page of the queue: what waits and why, its depth over time, and the pause of dispatch."""

from http import HTTPStatus
from typing import Final

from attrs import frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dispatchd.hub.context import Context
from dispatchd.hub.domain.model import ENDED, HELD, WAITING
from dispatchd.hub.domain.scopes import OPERATE
from dispatchd.hub.storage.dispatch_rules import Pause
from dispatchd.hub.web.lists.depth import course
from dispatchd.hub.web.lists.workers import queue_of
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import Visitor, answering, render
from dispatchd.hub.web.view_model import Row

_LONGEST_REASON: Final = 1000
"""Longest reason of a pause (characters), as in pause-request.schema.json."""

_LISTED: Final = 100
"""Queued jobs on the page (count)."""

_READ: Final = 5000
"""Newest jobs whose waits the charts are of (count)."""

_SPANS: Final = (("1 hour", 1), ("1 day", 24), ("1 week", 168))
"""Times that the charts can show: a name, and the length (hours)."""

_GROUPS: Final = (
    ("Waiting", WAITING),
    ("On machines", HELD),
    ("Ended", ENDED),
)


@frozen
class QueuePage:
    """Routes of the queue, and of the pause of dispatch."""

    entry: Entry

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/queue", answering(self.show), methods=["GET"]),
            Route("/dispatch/pause", answering(self.pause), methods=["POST"]),
            Route("/dispatch/resume", answering(self.resume), methods=["POST"]),
        ]

    @property
    def context(self) -> Context:
        """Context of the hub."""
        return self.entry.context

    async def show(self, request: Request) -> Response:
        """Return what waits, and how it was."""
        visitor = await self.entry.visitor(request)
        wanted = request.query_params.get("hours", "")
        hours = next((each for _, each in _SPANS if str(each) == wanted), 24)
        return HTMLResponse(
            await self.context.use_for_list(lambda: _page(self.context, visitor, hours))
        )

    async def pause(self, request: Request) -> Response:
        """Pause dispatch."""
        form = await self.entry.posted(request, needs=OPERATE)
        reason = form.get("reason", "").strip()[:_LONGEST_REASON]
        pause = Pause(since=self.context.now(), reason=reason)
        await self.context.use(lambda: self.context.stores.pauses.begin(pause))
        self.context.waiting.changed.notify()
        return RedirectResponse("/queue", HTTPStatus.SEE_OTHER)

    async def resume(self, request: Request) -> Response:
        """Resume dispatch."""
        await self.entry.posted(request, needs=OPERATE)
        await self.context.use(self.context.stores.pauses.end)
        self.context.waiting.wake_all()
        return RedirectResponse("/queue", HTTPStatus.SEE_OTHER)


def _page(context: Context, visitor: Visitor, hours: int) -> str:
    reader, now = context.stores.reader, context.now()
    since = now - hours * 3600
    queue, jobs = queue_of(context), reader.next_queued(_LISTED)
    return render(
        "queue.html",
        visitor,
        now=now,
        pause=context.stores.pauses.get(),
        rows=[
            Row.of(job, now=now, why=queue.why(job, ahead))
            for ahead, job in enumerate(jobs)
        ],
        counts=reader.counts(),
        groups=_GROUPS,
        names=context.stores.machines.names(),
        course=course(reader.waits(since=since, most=_READ), since=since, now=now),
        spans=_SPANS,
        hours=hours,
    )
