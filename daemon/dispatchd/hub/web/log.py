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
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.web.ansi import Style, log_html
from dispatchd.hub.web.events import event_stream
from dispatchd.hub.web.log_lines import LineCounts, Read, folded, numbered, offset_of
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

_POINT: Final = re.compile(
    r"([0-9]{1,6})-([0-9]{1,15})-([a-z0-9]{0,12})(?:-([0-9]{1,12}))?(-g)?"
)

_LINES_BEFORE: Final = 10
"""Lines that are shown before the one that an address names (count)."""

_LONGEST_NUMBER: Final = 12
"""Longest number of a line in an address (digits)."""


@frozen(kw_only=True)
class Point:
    """Point in the logs of a job: the number of the part, the offset in it (bytes), and style, line and group there."""

    part: int = 1
    offset: int = 0
    style: Style = field(factory=Style)
    line: int = 1
    is_inside: bool = False
    """True if a group continues there."""

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
            line=max(1, int(match[4] or 1)),
            is_inside=bool(match[5]),
        )

    @property
    def text(self) -> str:
        """Text of the point, for an address or an event."""
        group = "-g" if self.is_inside else ""
        return f"{self.part}-{self.offset}-{self.style.token}-{self.line}{group}"


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
    first_line: int
    is_whole: bool
    """True if the hub has all of the newest attempt's log."""
    parts: int


def line_of(request: Request) -> int:
    """Return the number of the line that an address names; 0 for none."""
    wanted = request.query_params.get("line", "")
    is_number = wanted.isascii() and wanted.isdecimal()
    return int(wanted) if is_number and len(wanted) <= _LONGEST_NUMBER else 0


def _reader(logs: Logs, view: LogView, number: int) -> Read:
    return partial(logs.context.logs.read, view.job.id, view.parts[number - 1])


def _name(view: LogView, number: int) -> str:
    return f"{view.parts[number - 1].machine} {view.parts[number - 1].attempt} {view.job.id}"


def shown_log(
    logs: Logs, view: LogView, counts: LineCounts, line: int = 0
) -> Shown | None:
    """Return a part of the newest log of a job for its page; None if there is none. Blocks.

    Args:
        logs: The logs.
        view: The logs of the job.
        counts: The counts of lines.
        line: The number of the line from which it is shown, with some before it; 0 for the end.
    """
    if not view.parts:
        return None
    number, part = len(view.parts), view.parts[-1]
    read = _reader(logs, view, number)
    begin = offset_of(max(1, line - _LINES_BEFORE), read) if line else None
    start = max(0, part.size - _SHOWN) if begin is None else begin
    data = read(start, _SHOWN)
    if begin is not None and start + len(data) < part.size:
        data = data[: data.rfind(b"\n") + 1] or data
    if start and begin is None:
        # From the beginning of a line, where that costs little.
        skipped = data.find(b"\n", 0, _SHOWN // 4) + 1
        start, data = start + skipped, data[skipped:]
    end = len(data) if part.is_whole else data.rfind(b"\n") + 1
    text = data[:end].decode(errors="replace")
    html, style = log_html(text, Style())
    first = counts.line_at(_name(view, number), read, start)
    last = first + data.count(b"\n", 0, end)
    wanted = line - first if line else -1
    html, is_inside = folded(
        numbered(html, number, first), text, closes=True, wanted=wanted
    )
    return Shown(
        html=html,
        point=Point(
            part=number,
            offset=start + end,
            style=style,
            line=last,
            is_inside=is_inside,
        ),
        size=part.size,
        is_cut=start > 0,
        first_line=first,
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
    counts: LineCounts

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
                try:
                    view = await follower.look()
                    event = await self._next(view)
                except (Refused, StorageBusy):
                    # The job has gone, or the database for a moment: the browser asks again, and is told.
                    return
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
            note = f'<span class="d">[... {left_out:,} bytes are left out here; they are in the download]</span>\n'
            point = await self._skipped(view, part.size - _PIECE)
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
        text = data[:end].decode(errors="replace")
        # In a thread: a text of nothing but colours, or of empty lines, takes long.
        html, style, is_inside = await self.logs.context.use(
            partial(_lines, text, point)
        )
        self.point = Point(
            part=point.part,
            offset=offset + end,
            style=style,
            line=point.line + data.count(b"\n", 0, end),
            is_inside=is_inside,
        )
        return self._event(note + html)

    async def _skipped(self, view: LogView, offset: int) -> Point:
        """Return a later point of the part, of which the stream is too far behind."""
        number = self.point.part
        read = _reader(self.logs, view, number)
        line = await self.logs.context.use(
            lambda: self.counts.line_at(_name(view, number), read, offset)
        )
        return Point(part=number, offset=offset, line=line)

    def _event(self, html: str) -> bytes:
        # JSON, because a line end would end the field.
        return (
            f"event: log\nid: {self.point.text}\ndata: {json.dumps(html)}\n\n".encode()
        )


def _lines(text: str, point: Point) -> tuple[str, Style, bool]:
    """Return lines from a point as HTML, their style at the end, and whether that is in a group. Takes long."""
    html, style = log_html(text, point.style)
    lines = numbered(html, point.part, point.line)
    html, is_inside = folded(lines, text, is_inside=point.is_inside)
    return html, style, is_inside


def log_stream(
    entry: Entry, logs: Logs, job_id: str, request: Request, counts: LineCounts
) -> Response:
    """Return the stream of a job's log, from the point that the page has."""
    last = request.headers.get("last-event-id", "")
    point = Point.read(last or request.query_params.get("from", ""))
    stream = _Stream(entry, logs, job_id, point, counts)
    return event_stream(request, stream.events(request))


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
