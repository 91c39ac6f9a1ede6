"""Live updates of open pages, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Final

import anyio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.login.ways import ServiceAway
from dispatchd.hub.storage.jobs.reader import Filter
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import LoginNeeded

_EVERY_S: Final = 1.0
"""Least time between two events (seconds)."""
_BEAT_S: Final = 15.0
"""Longest silence of a stream (seconds): proxies close those that seem dead."""
_LOOK_S: Final = 2.0
"""Interval at which a page looks where another hub process may have changed something (seconds)."""

_CHANGED: Final = b"event: changed\ndata:\n\n"
_BEAT: Final = b": here\n\n"


def event_stream(request: Request, events: AsyncIterator[bytes]) -> Response:
    """Return events as they come; to HEAD the headers alone, because the events don't end."""
    answer = Response() if request.method == "HEAD" else StreamingResponse(events)
    answer.headers["Content-Type"] = "text/event-stream; charset=utf-8"
    # Proxies such as nginx would collect the events first.
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


@frozen
class Live:
    """Stream of events."""

    entry: Entry

    @property
    def context(self) -> Context:
        """Context of the hub."""
        return self.entry.context

    def stream(self, request: Request) -> Response:
        """Return events until the hub stops or the session ends."""
        return event_stream(request, self._events(request))

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        bell = self.context.waiting.changed.next
        before = await self._seen(request)
        # At once, so that the browser knows that it is connected.
        yield _BEAT
        beat_at = anyio.current_time() + _BEAT_S
        while before is not None and not self.context.waiting.stopping:
            rang = await self._rings(bell, beat_at)
            bell = self.context.waiting.changed.next
            seen = await self._seen(request)
            if seen is None or self.context.waiting.stopping:
                return
            # Whoever sees the jobs of some repositories alone isn't told of changes of others.
            changed = rang and (not seen or seen != before)
            before = seen
            # A heartbeat comes at its time alone: one at a change would tell of the jobs of others.
            if changed or anyio.current_time() >= beat_at:
                yield _CHANGED if changed else _BEAT
                beat_at = anyio.current_time() + _BEAT_S
            if rang:
                await self._pause()

    async def _rings(self, bell: anyio.Event, beat_at: float) -> bool:
        """Wait for a change or for the next heartbeat; return whether something may have changed."""
        shared = self.context.stores.database.is_shared
        wait_s = max(0.0, beat_at - anyio.current_time())
        with anyio.move_on_after(min(wait_s, _LOOK_S) if shared else wait_s):
            await bell.wait()
        return shared or bell.is_set()

    async def _pause(self) -> None:
        until = anyio.current_time() + _EVERY_S
        while not self.context.waiting.stopping and anyio.current_time() < until:
            bell = self.context.waiting.changed.next
            with anyio.move_on_after(until - anyio.current_time()):
                await bell.wait()

    async def _seen(self, request: Request) -> str | None:
        """Return the jobs that a person sees who doesn't see all, as a text to compare; empty for others, None if nobody is logged in."""
        try:
            visitor = await self.entry.reader(request)
            if visitor.repositories is None:
                return ""
            theirs = Filter(repositories=frozenset(visitor.repositories))
            reader = self.context.stores.reader
            jobs = await self.context.use_for_list(lambda: reader.list(theirs))
        except (LoginNeeded, ServiceAway):
            return None
        except StorageBusy:
            # The page shows that error when it looks.
            return ""
        return repr([job for job in jobs if visitor.sees(job)])
