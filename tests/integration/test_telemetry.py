"""Traces against a real collector on loopback, which speaks OTLP over HTTP and can misbehave."""

import gzip
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog
from anyio import to_thread
from attrs import define, field, frozen
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from typing_extensions import override

from dispatchd import __version__
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.domain.trace import spans_of
from dispatchd.agent.health.tracing import TraceExporter, read_headers
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict
from support.clock import advance
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.records import NOW
from support.servers import Reply, Request, http_server, threaded
from support.until import until

PAUSE_S = 60
"""Longer than the exporter rests, after a request or a failure (seconds)."""

QUEUE = 1000
"""What the exporter keeps for a collector that is away (jobs)."""


@frozen
class Received:
    """One request that was taken."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return ExportTraceServiceRequest.FromString(self.body)

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for resource in self.document.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@define
class Collector:
    """A collector; it gives the answers that are set, and 200 when there are none left."""

    port: int = 0
    answers: list[int] = field(factory=list)
    refused: int = 0
    taken: list[Received] = field(factory=list)
    changed: threading.Condition = field(factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    @property
    def jobs(self) -> list[str]:
        """The jobs that have arrived, in order."""
        return [
            next(
                each.value.string_value
                for each in span.attributes
                if each.key == "dispatchd.job.id"
            )
            for request in list(self.taken)
            for span in request.spans
            if span.name == "job"
        ]

    def take(self, request: Received) -> int:
        with self.changed:
            status = self.answers.pop(0) if self.answers else 200
            if status == 200:
                self.taken.append(request)
            else:
                self.refused += 1
            self.changed.notify_all()
        return status

    async def until(self, condition: Callable[[], object]) -> None:
        """Return when a condition has become true by what this collector was sent."""

        def wait() -> bool:
            with self.changed:
                return bool(self.changed.wait_for(condition, 60))

        assert await to_thread.run_sync(wait), (self.jobs, self.refused)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take requests for the length of a block, always on the same port."""

        def answer(request: Request) -> Reply:
            zipped = request.headers.get("content-encoding") == "gzip"
            body = gzip.decompress(request.body) if zipped else request.body
            return Reply(self.take(Received(request.path, request.headers, body)))

        with http_server(answer, port=self.port) as self.port:
            yield


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    with found.listening():
        yield found


def exporter(collector: Collector, **headers: str) -> TraceExporter:
    return TraceExporter(
        url=collector.url,
        headers=headers,
        instance_id=lambda: "machine-7",
        random=random.Random(1),
        bugs=BugFence(),
    )


@asynccontextmanager
async def at_work(traces: TraceExporter) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(traces.run)
        yield
        tasks.cancel_scope.cancel()


def past(job_id: str, **job: Any) -> TrackedJob:
    """Return the record of a job that failed, as it goes to history."""
    verdict = Verdict(
        outcome=Outcome.FAILED,
        cause=FailureCause.EXIT_CODE,
        summary="It printed hunter2.",
    )
    record = TrackedJob.received(
        Job(id=job_id, workflow="build", event="push", **job), now=NOW
    )
    record = record.advance(Event.ACCEPT_CONFIRMED, NOW + timedelta(seconds=1))
    record = record.advance(Event.ATTEMPT_STARTING, NOW + timedelta(seconds=2))
    record = record.with_attempt(
        Attempt(
            number=1,
            started_at=NOW + timedelta(seconds=2),
            deadline_at=NOW + timedelta(seconds=60),
            ended_at=NOW + timedelta(seconds=3, microseconds=4),
            cause=FailureCause.EXIT_CODE,
        )
    )
    record = record.advance(Event.DECIDED, NOW + timedelta(seconds=4), verdict=verdict)
    return record.advance(Event.FINISH_ACKNOWLEDGED, NOW + timedelta(seconds=5))


def attributes(of: Any) -> dict[str, str | int]:
    return {
        each.key: each.value.string_value or each.value.int_value
        for each in of.attributes
    }


async def test_a_collector_gets_the_spans_of_a_past_job_as_they_are_derived(
    collector: Collector,
) -> None:
    record = past("job-1", repository="octo/repo")
    traces = exporter(collector, Authorization="Bearer t0ken")

    async with at_work(traces):
        traces.export(record)
        await collector.until(lambda: collector.taken)

    [request] = collector.taken
    [resource] = request.document.resource_spans
    assert request.path == "/v1/traces"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["authorization"] == "Bearer t0ken"
    assert attributes(resource.resource) == {
        "service.name": "dispatchd",
        "service.version": __version__,
        "service.instance.id": "machine-7",
    }
    assert [
        (
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            attributes(span),
            span.status.message,
            span.status.code == span.status.STATUS_CODE_ERROR,
        )
        for span in request.spans
    ] == [
        (
            span.name,
            span.trace_id,
            span.span_id,
            span.parent_id,
            span.start_ns,
            span.end_ns,
            span.attributes,
            span.error,
            bool(span.error),
        )
        for span in spans_of(record)
    ]


def test_headers_are_read_from_lines_of_name_and_value() -> None:
    text = "\nAuthorization: Basic a:b=\r\n  X-Scope-OrgID :  7  \n"

    assert read_headers(text) == {"Authorization": "Basic a:b=", "X-Scope-OrgID": "7"}


@pytest.mark.parametrize(
    "line", ["t0ken", "Authorization:", ": t0ken", "A: t0\x07ken", "A: t\u00f6ken"]
)
def test_a_line_that_is_no_header_is_refused_without_being_quoted(line: str) -> None:
    with pytest.raises(ValueError, match="line 2") as refused:
        read_headers(f"A: b\n{line}\n")

    assert "ken" not in str(refused.value)


async def test_nothing_of_outputs_and_no_secret_leaves_the_machine(
    collector: Collector,
) -> None:
    traces = exporter(collector)

    async with at_work(traces):
        traces.export(past("job-1", claim_token="c1aim", actor="somebody"))
        await collector.until(lambda: collector.taken)

    for word in (b"hunter2", b"c1aim", b"somebody"):
        assert word not in collector.taken[0].body


async def test_a_job_is_told_once_when_it_goes_to_history(collector: Collector) -> None:
    traces = exporter(collector)
    record = past("job-1")

    async with at_work(traces):
        traces.see(TrackedJob.received(record.job, now=NOW))
        traces.see(record)
        again = record.advance(Event.REDELIVERED, NOW + timedelta(days=1))
        traces.see(again)
        traces.see(again.advance(Event.FINISH_ACKNOWLEDGED, NOW + timedelta(days=1)))
        traces.see(past("job-2"))
        await collector.until(lambda: "job-2" in collector.jobs)

    assert collector.jobs == ["job-1", "job-2"]


async def test_a_collector_that_was_down_gets_everything_afterwards() -> None:
    collector = Collector()
    with collector.listening():
        pass  # now it has a port, and nobody listens there
    traces = exporter(collector)

    with structlog.testing.capture_logs() as log:
        async with at_work(traces):
            for number in range(3):
                traces.export(past(f"job-{number}"))
            await until(lambda: log)
            with collector.listening():
                await advance(PAUSE_S)
                await collector.until(lambda: len(collector.jobs) == 3)
                await until(lambda: len(log) > 1)
                traces.export(past("job-3"))
                await advance(PAUSE_S)
                await collector.until(lambda: len(collector.jobs) == 4)

    assert collector.jobs == [f"job-{number}" for number in range(4)]
    assert traces.dropped == 0
    assert [(each["log_level"], each["event"]) for each in log] == [
        ("warning", "traces_not_exported"),
        ("info", "traces_exported_again"),
    ]
    assert "refused" in log[0]["reason"]


async def test_an_outage_is_told_once_however_often_a_batch_is_refused(
    collector: Collector,
) -> None:
    collector.answers = [500, 401, 200]
    traces = exporter(collector)

    with structlog.testing.capture_logs() as log:
        async with at_work(traces):
            traces.export(past("job-1"))
            await until(lambda: log)
            await advance(PAUSE_S)
            await collector.until(lambda: collector.refused == 2)
            await advance(PAUSE_S)
            await collector.until(lambda: collector.taken)

    assert collector.refused == 2
    assert collector.jobs == ["job-1"]
    assert [each["event"] for each in log] == [
        "traces_not_exported",
        "traces_exported_again",
    ]


async def test_a_batch_that_the_collector_can_not_read_does_not_hold_up_the_next(
    collector: Collector,
) -> None:
    collector.answers = [400]
    traces = exporter(collector)

    async with at_work(traces):
        traces.export(past("job-1"))
        await collector.until(lambda: collector.refused)
        traces.export(past("job-2"))
        await collector.until(lambda: collector.taken)

    assert collector.jobs == ["job-2"]
    assert traces.dropped == 1


async def test_a_full_queue_gives_up_the_oldest_and_says_so_once(
    collector: Collector,
) -> None:
    traces = exporter(collector)

    with structlog.testing.capture_logs() as log:
        for number in range(QUEUE + 5):
            traces.export(past(f"job-{number}"))
        async with at_work(traces):
            await collector.until(lambda: len(collector.jobs) == QUEUE)

    assert collector.jobs == [f"job-{number}" for number in range(5, QUEUE + 5)]
    assert traces.dropped == 5
    assert [each["event"] for each in log] == ["traces_dropped"]


async def test_a_stop_sends_what_is_queued(collector: Collector) -> None:
    traces = exporter(collector)

    async with at_work(traces):
        traces.export(past("job-1"))
        await collector.until(lambda: collector.taken)
        # The exporter rests now, so that many short jobs share a request.
        traces.export(past("job-2"))

    assert collector.jobs == ["job-1", "job-2"]


async def test_names_that_are_not_unicode_do_not_spoil_a_batch(
    collector: Collector,
) -> None:
    traces = exporter(collector)

    async with at_work(traces):
        traces.export(past("job-\ud800", repository="\udfff"))
        await collector.until(lambda: collector.taken)

    assert collector.jobs == ["job-?"]


async def test_the_environment_does_not_lead_traces_elsewhere(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "http_proxy",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "somebody-else")
    traces = exporter(collector)

    async with at_work(traces):
        traces.export(past("job-1"))
        await collector.until(lambda: collector.taken)

    assert b"somebody-else" not in collector.taken[0].body


EXPORT_UNTIL_TOLD_TO_STOP = """
import random, sys
import anyio
from datetime import UTC, datetime
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.protocol.job import Job
from dispatchd.agent.health.tracing import TraceExporter

async def main():
    traces = TraceExporter(url=sys.argv[1], instance_id=str, random=random.Random(), bugs=BugFence())
    async with anyio.create_task_group() as tasks:
        await tasks.start(traces.run)
        traces.export(TrackedJob.received(Job(id="job-1"), now=datetime.now(UTC)))
        await anyio.to_thread.run_sync(sys.stdin.readline)
        tasks.cancel_scope.cancel()

anyio.run(main)
"""


@contextmanager
def endless() -> Iterator[tuple[str, threading.Event]]:
    """A collector whose answer never ends; its address, and the event of the first request."""
    asked, over = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.set()
            with suppress(OSError):
                # Byte by byte, so that no time limit between two bytes ever runs out.
                while not over.wait(0.1):
                    self.wfile.write(b"H")

        @override
        def log_message(self, *_: object) -> None:
            pass

    with threaded(Handler) as port:
        try:
            yield f"http://127.0.0.1:{port}/v1/traces", asked
        finally:
            over.set()


@contextmanager
def exporting(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that exports a trace until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT_UNTIL_TOLD_TO_STOP, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_stop_does_not_wait_for_a_collector_whose_answer_never_ends() -> None:
    with endless() as (url, asked), exporting(url) as process:
        assert asked.wait(60)
        out, err = process.communicate("stop\n", timeout=60)

    assert (process.returncode, err) == (0, "")
    assert "traces_dropped" in out


def test_what_the_sdk_says_of_an_outage_stays_away_from_stderr() -> None:
    with exporting("http://127.0.0.1:9/v1/traces") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        _, err = process.communicate("stop\n", timeout=60)

    assert "traces_not_exported" in first
    assert (process.returncode, err) == (0, "")


def run_python(code: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return found.stdout.strip()


def test_a_missing_extra_is_one_clear_line() -> None:
    said = run_python(
        "import random, sys; sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from dispatchd.concurrency.bug_fence import BugFence\n"
        "from dispatchd.errors import UserError\n"
        "from dispatchd.agent.health.tracing import TraceExporter\n"
        "try: TraceExporter(url='http://127.0.0.1:9', instance_id=str, random=random.Random(), bugs=BugFence())\n"
        "except UserError as error: print(error.exit_code, error)\n"
    )

    assert said == (
        "69 cannot export traces: opentelemetry.sdk.trace is not installed; "
        "install the release's wheel with [otel] behind its name"
    )


def test_who_sends_no_traces_loads_nothing_of_the_extra() -> None:
    said = run_python(
        "import sys, dispatchd.agent.health.tracing\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'requests', 'google'))])"
    )

    assert said == "[]"


async def test_a_run_is_handed_the_trace_that_its_job_ends_up_in_across_a_crash(
    tmp_path: Path, collector: Collector
) -> None:
    context, go = tmp_path / "context", tmp_path / "go"
    script = f"""
        printf %s "$TRACEPARENT" >{context}.aside; mv {context}.aside {context}
        until [ -e {go} ]; do sleep 0.05; done
    """
    async with endpoint() as hub:
        config = write_config(
            tmp_path / "machine",
            hub.url,
            {"it": ["/bin/sh", "-c", script]},
            store=f'folder = "state"\nmin_free_mib = 0\n[telemetry]\notlp_url = "{collector.url}"',
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await until(context.exists)
            await daemon.crash()
            daemon.start()
            go.touch()
            await collector.until(lambda: collector.taken)

    spans = {span.name: span for span in collector.taken[0].spans}
    attempt = spans["attempt 1"]
    expected = f"00-{attempt.trace_id.hex()}-{attempt.span_id.hex()}-01"
    assert context.read_text() == expected
    assert sorted(spans) == ["accept", "attempt 1", "job", "report", "wait"]
    assert attributes(spans["job"])["dispatchd.outcome"] == "succeeded"
