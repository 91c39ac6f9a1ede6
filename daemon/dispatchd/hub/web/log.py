"""The log on the page of a job: its end when the page is loaded, then live, and all of it as a download."""

import json
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import anyio
from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dispatchd.hub.api.logs import Logs, LogView
from dispatchd.hub.web.ansi import Style, log_html
from dispatchd.hub.web.login import Entry

_SHOWN: Final = 128 * 1024
"""Part of a log that a page shows when it is loaded (bytes): its end."""

_PIECE: Final = 64 * 1024
"""Part of a log in one event (bytes)."""

_BEHIND: Final = 512 * 1024
"""Text that the stream may be behind (bytes); more of it is left out, and is in the download."""

_EVERY_S: Final = 0.25
"""Least time between two events (seconds)."""

_BEAT_S: Final = 15.0
"""Longest silence of a stream (seconds): proxies close those that seem dead."""

_BEAT: Final = b": here\n\n"

_POINT: Final = re.compile(r"([0-9]{1,6})-([0-9]{1,15})-([a-z0-9]{0,12})")


@frozen(kw_only=True)
class Point:
    """Point in the logs of a job: the number of the part, the offset in it (bytes), the style of the text there."""

    part: int = 1
    offset: int = 0
    style: Style = field(factory=Style)

    @classmethod
    def read(cls, text: str) -> "Point":
        """Return the point that an address or an event names; the beginning for any other text."""
        match = _POINT.fullmatch(text)
        if match is None:
            return cls()
        return cls(
            part=max(1, int(match[1])),
            offset=int(match[2]),
            style=Style.read(match[3]),
        )

    @property
    def text(self) -> str:
        """Text of the point, for an address or an event."""
        return f"{self.part}-{self.offset}-{self.style.token}"


@frozen(kw_only=True)
class Shown:
    """Log as a page shows it when it is loaded."""

    html: str
    point: Point
    """Point from which it continues."""
    size: int
    """Size of all of the part (bytes)."""
    is_cut: bool
    """True if the beginning isn't shown."""
    is_whole: bool
    """True if the hub has all of the newest attempt's log."""
    parts: int


def shown_log(logs: Logs, view: LogView) -> Shown | None:
    """Return the end of the newest log of a job for its page; None if there is none. Blocks."""
    if not view.parts:
        return None
    number, part = len(view.parts), view.parts[-1]
    start = max(0, part.size - _SHOWN)
    data = logs.context.logs.read(view.job.id, part, start, _SHOWN)
    if start:
        # From the beginning of a line, where that costs little.
        skipped = data.find(b"\n", 0, _SHOWN // 4) + 1
        start, data = start + skipped, data[skipped:]
    end = len(data) if part.is_whole else data.rfind(b"\n") + 1
    html, style = log_html(data[:end].decode(errors="replace"), Style())
    return Shown(
        html=html,
        point=Point(part=number, offset=start + end, style=style),
        size=part.size,
        is_cut=start > 0,
        is_whole=part.is_whole,
        parts=number,
    )


@define
class _Stream:
    """Stream of the log of a job to one page."""

    entry: Entry
    logs: Logs
    job_id: str
    point: Point

    async def events(self, request: Request) -> AsyncIterator[bytes]:
        """Yield events until the log is complete, the hub stops, or the session ends."""
        # At once, so that the browser knows that it is connected.
        yield _BEAT
        waiting = self.logs.context.waiting
        with self.logs.following(self.job_id) as follower:
            while not waiting.stopping and await self.entry.still_reads(
                request, self.job_id
            ):
                rings = follower.next
                view = await follower.look()
                event = await self._next(view)
                if event:
                    yield event
                    await anyio.sleep(_EVERY_S)
                    continue
                if view.has_all(len(view.parts)) and self.point.part >= len(view.parts):
                    yield b"event: end\ndata:\n\n"
                    return
                yield _BEAT
                await self.logs.news(rings, _BEAT_S)

    async def _next(self, view: LogView) -> bytes:
        """Return the next event; empty while there is nothing new."""
        point, note = self.point, ""
        if point.part > len(view.parts):
            return b""
        part = view.parts[point.part - 1]
        if part.size - point.offset > _BEHIND:
            left_out = part.size - point.offset - _PIECE
            note = f"\n[... {left_out:,} bytes are left out here; they are in the download]\n"
            point = Point(part=point.part, offset=part.size - _PIECE)
        offset = min(point.offset, part.size)
        data = await self.logs.text(view, point.part, offset, _PIECE)
        is_last = view.has_all(point.part) and offset + len(data) >= part.size
        end = len(data) if is_last or len(data) == _PIECE else data.rfind(b"\n") + 1
        if end and len(data) == _PIECE:
            end = data.rfind(b"\n") + 1 or _PIECE
        if not end and is_last and point.part < len(view.parts):
            number = point.part + 1
            self.point = Point(part=number)
            html = f'<strong class="attempt">Attempt {number}</strong>\n'
            return self._event(html)
        if not end:
            return b""
        text = note + data[:end].decode(errors="replace")
        # In a thread: a text of nothing but colours takes long.
        html, style = await self.logs.context.use(partial(log_html, text, point.style))
        self.point = Point(part=point.part, offset=offset + end, style=style)
        return self._event(html)

    def _event(self, html: str) -> bytes:
        # JSON, because a line end would end the field.
        return (
            f"event: log\nid: {self.point.text}\ndata: {json.dumps(html)}\n\n".encode()
        )


def log_stream(entry: Entry, logs: Logs, job_id: str, request: Request) -> Response:
    """Return the stream of a job's log, from the point that the page has."""
    last = request.headers.get("last-event-id", "")
    point = Point.read(last or request.query_params.get("from", ""))
    return StreamingResponse(
        _Stream(entry, logs, job_id, point).events(request),
        media_type="text/event-stream",
        # Proxies such as nginx would collect the events first.
        headers={"X-Accel-Buffering": "no"},
    )


def download(logs: Logs, view: LogView) -> Response:
    """Return all logs of a job as one text."""

    async def pieces() -> AsyncIterator[bytes]:
        for number, part in enumerate(view.parts, 1):
            if len(view.parts) > 1:
                yield f"==> attempt {number} <==\n".encode()
            offset = 0
            while data := await logs.text(view, number, offset, part.size - offset):
                offset += len(data)
                yield data

    return StreamingResponse(
        pieces(),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="log.txt"'},
    )
