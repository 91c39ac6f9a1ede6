"""Logs of jobs: chunks from machines (contracts/README.md, logs), and reading them, also while they grow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Final

import anyio
from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.errors import ContractViolation
from dispatchd.hub.api.jobs import Jobs
from dispatchd.hub.context import Context
from dispatchd.hub.domain.events import News
from dispatchd.hub.domain.json_shortener import Shortener
from dispatchd.hub.domain.model import ENDED, HELD, HubJob
from dispatchd.hub.domain.scopes import READ
from dispatchd.hub.http_bodies import (
    MIB,
    Limits,
    Refused,
    read_proven,
    seconds,
    whole_number,
)
from dispatchd.hub.storage.logs.store import WATCHED_S, LogPart
from dispatchd.hub.waiters import Watched
from dispatchd.protocol.job import Json
from dispatchd.protocol.report import LogChunk

_CALL: Final = "/api/v1/github/dispatch/{job_id:job}/log"
_READ: Final = "/api/v1/jobs/{job_id:job}/log"
_NAME: Final = "log"

_OF_LOG: Final = Limits(
    # A body over 64 KiB begins with credentials; none of its strings is cut.
    shortener=partial(Shortener, longest=2 * MIB, longest_inside=0, most_items=0),
    texts=2 * MIB,
)

_LARGEST_READ: Final = MIB
"""Largest part of a log in one answer (bytes)."""

_LONGEST_WAIT_S: Final = 60.0
_LOOK_S: Final = 1.0
"""Interval of looks at a log that another hub process may write (seconds)."""

_LATE_S: Final = 10.0
"""Time for which the rest of a log is waited for: after the end of its job, or after what came of an older attempt
(seconds)."""


@frozen(kw_only=True)
class LogView:
    """Logs of a job at one moment, in the order of its attempts."""

    job: HubJob
    parts: Sequence[LogPart]
    now: float

    @property
    def is_over(self) -> bool:
        """True if no further attempt can begin."""
        return self.job.state in ENDED

    def has_all(self, number: int) -> bool:
        """Return whether a part is complete or given up, by its number (from 1)."""
        if number < len(self.parts):
            # A newer attempt has begun. The rest of an older log comes soon, or never.
            part = self.parts[number - 1]
            return part.is_whole or self._is_late(part.changed_at)
        if not self.is_over:
            return False
        is_whole = bool(self.parts) and self.parts[-1].is_whole
        return is_whole or self._is_late(self.job.finished_at)

    def _is_late(self, since: float) -> bool:
        # A clock that was set back must not make the wait longer.
        return abs(self.now - since) > _LATE_S


@frozen
class Logs:
    """Routes on which machines send logs, and people and programs read them."""

    context: Context
    jobs: Jobs

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route(_CALL, self.take, methods=["POST"]),
            Route(_READ, self.read, methods=["GET"]),
        ]

    async def take(self, request: Request) -> Response:
        """Store a chunk of a machine that has, or has had, the job.

        Raises:
            Refused: The machine has never had it, or there is no such job.
        """
        body = await read_proven(request, "log-request", _OF_LOG, self._prove)
        job_id = request.path_params["job_id"]

        def store() -> tuple[int, bool, bool]:
            machine = self.context.holder(body).server_id
            if not any(
                claim.machine == machine
                for claim in self.context.stores.reader.attempts(job_id)
            ):
                message = "this machine has never had such a job"
                raise Refused(HTTPStatus.NOT_FOUND, message)
            chunk = LogChunk.from_wire(body)
            end = self.context.logs.append(job_id, machine, chunk)
            watching = self.context.logs.is_watched(job_id, now=self.context.now())
            return end, watching, bool(chunk.data or chunk.whole)

        try:
            end, watching, is_news = await self.context.use(store)
        except ContractViolation as violation:
            message = f"{violation.path} {violation.rule}"
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message) from violation
        if is_news:
            self.context.waiting.logs.notify(job_id)
        return JSONResponse({"offset": end, "watching": watching})

    async def read(self, request: Request) -> Response:
        """Return a part of a log; with `wait` (seconds), as soon as there is more of it than `offset`."""
        job_id = request.path_params["job_id"]
        if not request.scope["raw_path"].endswith(f"/{_NAME}".encode()):
            # An id that ends like this route, with its slash encoded.
            request.path_params["job_id"] = f"{job_id}/{_NAME}"
            return await self.jobs.show(request)
        await self.context.require(request, READ)
        query = request.query_params
        offset = whole_number(query.get("offset"), 0)
        most = whole_number(query.get("limit"), _LARGEST_READ)
        deadline = anyio.current_time() + seconds(query.get("wait"), _LONGEST_WAIT_S)
        with self.following(job_id, mark=bool(query.get("wait"))) as follower:
            while True:
                rings = follower.next
                view = await follower.look()
                number = whole_number(query.get("part"), len(view.parts) or 1)
                data = await self.text(view, number, offset, most)
                left_s = deadline - anyio.current_time()
                if data or view.has_all(number) or self._is_over(left_s):
                    break
                await self.news(rings, left_s)
        return _answer(view, number, offset, data)

    @contextmanager
    def following(self, job_id: str, *, mark: bool = True) -> Iterator["Follower"]:
        """Follow the log of a job in a block.

        Args:
            job_id: The job.
            mark: True to have its machine send the log meanwhile as it grows.
        """
        watchers = self.context.waiting.logs
        with watchers.watch(job_id, partial(self.view, job_id)) as watched:
            yield Follower(self, watched, mark)

    async def news(self, rings: anyio.Event, left_s: float) -> None:
        """Wait until a followed log may have grown."""
        shared = self.context.stores.database.is_shared
        # The end of a wait for the rest of a log is announced by nobody.
        with anyio.move_on_after(min(left_s, _LOOK_S if shared else _LATE_S / 2)):
            await rings.wait()

    async def view(self, job_id: str) -> LogView:
        """Return the logs of a job as they are now.

        Raises:
            Refused: There is no such job.
        """
        return await self.context.use(lambda: self.view_now(job_id))

    def view_now(self, job_id: str) -> LogView:
        """Return the logs of a job as they are now. Blocks.

        Raises:
            Refused: There is no such job.
        """
        reader = self.context.stores.reader
        job = reader.get(job_id)
        if job is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
        claims = reader.attempts(job_id)
        machines = [*dict.fromkeys(claim.machine for claim in claims)]
        return LogView(
            job=job,
            parts=self.context.logs.parts(job_id, machines),
            now=self.context.now(),
        )

    async def text(self, view: LogView, number: int, offset: int, most: int) -> bytes:
        """Return the text of a part from an offset; empty where there is none."""
        if not 1 <= number <= len(view.parts):
            return b""
        part = view.parts[number - 1]
        most = max(0, min(most, _LARGEST_READ))
        return await self.context.use(
            lambda: self.context.logs.read(view.job.id, part, offset, most)
        )

    async def mark(self, view: LogView) -> None:
        """Note that somebody watches a log, and wake the machine that has the job if nobody did before."""
        job = view.job
        if job.state in ENDED:
            return
        is_new = await self.context.use(
            lambda: self.context.logs.watch(job.id, now=self.context.now())
        )
        if is_new and job.state in HELD:
            news = News(job_id=job.id, is_queued=False, machine=job.machine)
            self.context.waiting.polls.end(news.machine)
            if self.context.stores.database.is_shared:
                await self.context.use(lambda: self.context.stores.jobs.announce(news))

    def _is_over(self, left_s: float) -> bool:
        return left_s <= 0 or self.context.waiting.stopping

    async def _prove(self, credentials: dict[str, Json]) -> None:
        await self.context.use(lambda: self.context.holder(credentials))


@define
class Follower:
    """One who follows the log of a job."""

    _logs: Logs
    _watched: Watched[LogView]
    _marks: bool
    _marked_at: float = field(default=-inf, init=False)
    """Time of its last mark, by the event loop's clock (seconds)."""

    @property
    def next(self) -> anyio.Event:
        """Event of the next change. Take it before the look."""
        return self._watched.changed.next

    async def look(self) -> LogView:
        """Return the logs of the job as they are now, and note that somebody watches them.

        Raises:
            Refused: There is no such job.
        """
        view, now = await self._watched.look(), anyio.current_time()
        if self._marks and now - self._marked_at > WATCHED_S / 3:
            self._marked_at = now
            await self._logs.mark(view)
        return view


def _flag(*, value: bool) -> str:
    return "1" if value else "0"


def _answer(view: LogView, number: int, offset: int, data: bytes) -> Response:
    known = 1 <= number <= len(view.parts)
    size = view.parts[number - 1].size if known else 0
    is_complete = view.has_all(number) and offset + len(data) >= size
    return Response(
        data,
        media_type="text/plain; charset=utf-8",
        headers={
            "Log-Part": str(number),
            "Log-Parts": str(len(view.parts)),
            "Log-Size": str(size),
            "Log-Next": str(offset + len(data)),
            "Log-Complete": _flag(value=is_complete),
            "Log-Ended": _flag(value=view.is_over),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )
