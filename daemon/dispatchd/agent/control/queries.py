"""Queries of people and tools to a running daemon, as routes of the control socket; nothing here changes anything."""

import re
from collections.abc import AsyncGenerator, Iterable
from http import HTTPStatus
from typing import Final

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectSendStream
from attrs import define, field

from dispatchd.agent.control.calls import Call, Lines, Refused, Reply, Text
from dispatchd.agent.control.metrics_server import MetricsServer
from dispatchd.agent.control.routes import Routes
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.health.metrics import MEDIA_TYPE, Metrics
from dispatchd.agent.health.status import Status
from dispatchd.agent.store.codec import to_public
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.protocol.job import Json
from dispatchd.protocol.published.openapi import Api, bundled

_BEHIND: Final = 1000
"""Most events that a reader may be behind (count); then its stream ends."""

_COUNT: Final = re.compile("[0-9]{1,9}", re.ASCII)

_PAST: Final = 10
"""Default number of past jobs that are listed (count)."""


@define
class EventFeed:
    """Sends every change of a job to those who follow at the moment."""

    _readers: set[MemoryObjectSendStream[Json]] = field(factory=set, init=False)

    def see(self, record: TrackedJob) -> None:
        """Pass on a record that has become durable; for the tracker."""
        if not self._readers:
            return
        item = _event(record)
        for reader in list(self._readers):
            try:
                reader.send_nowait(item)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._readers.discard(reader)
                reader.close()

    async def items(self) -> AsyncGenerator[Json, None]:
        """Yield changes from now on, until the reader is too far behind."""
        sender, receiver = anyio.create_memory_object_stream[Json](_BEHIND)
        self._readers.add(sender)
        try:
            async with receiver:
                async for item in receiver:
                    yield item
        finally:
            self._readers.discard(sender)
            sender.close()


@define(kw_only=True)
class Queries:
    """Shows status, health, metrics, jobs and their events, and what the socket takes."""

    status: Status
    metrics: Metrics
    tracker: Tracker
    store: JobStore
    feed: EventFeed
    description: str = field(factory=lambda: bundled(Api.CONTROL), init=False)
    """Description of the socket (JSON), read before another release's file may stand in its place."""

    def routes(self) -> Routes:
        """Return the routes, for the control server."""
        return {
            ("GET", "/v1/status"): self.show_status,
            ("GET", "/v1/health"): self.show_health,
            ("GET", "/v1/metrics"): self.show_metrics,
            ("GET", "/v1/jobs"): self.list_jobs,
            ("GET", "/v1/jobs/{job}"): self.show_job,
            ("GET", "/v1/events"): self.follow,
            ("GET", "/openapi.json"): self.describe,
        }

    async def show_status(self, _: Call) -> Reply:
        """Return everything about the daemon."""
        return Reply(body=self.status.document())

    async def show_health(self, _: Call) -> Reply:
        """Return whether the daemon is ready; 503 if it isn't."""
        problems = self.status.health.problems
        code = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return Reply(
            status=code, body={"ready": not problems, "problems": list(problems)}
        )

    async def show_metrics(self, _: Call) -> Text:
        """Return all metrics."""
        return Text(body=self.metrics.text(), media_type=MEDIA_TYPE)

    async def describe(self, _: Call) -> Text:
        """Return the calls of the socket, as OpenAPI."""
        return Text(body=self.description, media_type="application/json")

    async def list_jobs(self, call: Call) -> Reply:
        """Return every tracked job, then the newest `past` ones; or those whose ids begin with `like`.

        Raises:
            Refused: `past` is not a count.
        """
        beginning = call.query.get("like")
        if beginning is not None:
            return await self._list_like(beginning)
        past = call.query.get("past", str(_PAST))
        if _COUNT.fullmatch(past) is None:
            reason = "`past` must be a whole number from 0 on"
            raise Refused(status=HTTPStatus.BAD_REQUEST, reason=reason)
        tracked = self.tracker.in_phase(*Phase)
        ended = await to_thread.run_sync(self.store.newest_past, int(past))
        return _listed(tracked, ended)

    async def _list_like(self, beginning: str) -> Reply:
        tracked = [
            record
            for record in self.tracker.in_phase(*Phase)
            if record.job.id.startswith(beginning)
        ]
        ended = await to_thread.run_sync(self.store.past_like, beginning)
        return _listed(tracked, ended)

    async def show_job(self, call: Call) -> Reply:
        """Return one job, tracked or past.

        Raises:
            Refused: There is no such job.
        """
        job_id = call.parameters["job"]
        record = await self.tracker.find(job_id)
        if record is None:
            reason = f"there is no job {job_id}"
            raise Refused(status=HTTPStatus.NOT_FOUND, reason=reason)
        return Reply(body=to_public(record))

    async def follow(self, _: Call) -> Lines:
        """Return the events of jobs from now on, as they happen."""
        return Lines(items=self.feed.items())


def _listed(tracked: Iterable[TrackedJob], ended: Iterable[TrackedJob]) -> Reply:
    # A job that ends between the two reads is in both; the record of its end is the later one.
    records = {record.job.id: record for record in (*tracked, *ended)}
    return Reply(body={"jobs": [to_public(record) for record in records.values()]})


def _event(record: TrackedJob) -> Json:
    step = record.steps[-1] if record.steps else None
    verdict = record.verdict
    return {
        "at": record.changed_at.isoformat(),
        "job": record.job.id,
        "workflow": record.job.workflow,
        "event": step.event.value if step is not None else "received",
        "phase": record.phase.value,
        "attempt": len(record.attempts),
        "outcome": verdict.outcome.value if verdict is not None else None,
    }


def metrics_server(
    address: str, queries: Queries, bugs: BugFence
) -> MetricsServer | None:
    """Return the server for an address in the form of `metrics.listen`, or None for none."""
    if not address:
        return None
    host, _, port = address.rpartition(":")
    routes: Routes = {
        ("GET", "/metrics"): queries.show_metrics,
        ("GET", "/health"): queries.show_health,
    }
    return MetricsServer(
        host=host.strip("[]"), port=int(port), routes=routes, bugs=bugs
    )
