"""Traces: one for each job that has gone to history, sent to an OpenTelemetry collector (extra `otel`).

The content of a trace is in `agent/domain/trace.py`. It is sent as OTLP over HTTP by a thread of its own: a collector
that is slow, silent or gone costs traces, and never a job. Traces that a killed daemon had not sent are lost. OTEL_*
variables about certificates and headers apply where nothing is configured; .netrc is never read.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskStatus
from attrs import define, field, frozen
from typing_extensions import override

from dispatchd import __version__
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.trace import Span, spans_of
from dispatchd.brand import DISPATCHD
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.retry import Retry
from dispatchd.errors import NotReachable
from dispatchd.network.content_coding import ACCEPT_IDENTITY

_QUEUE: Final = 1000
"""Most traces, one for each job, that wait for a collector (count): a few MiB at most."""

_BATCH: Final = 64
"""Most traces in one request (count): some 400 spans, 50 KiB before compression."""

_PAUSE_S: Final = 1.0
"""Shortest time between two requests (seconds), unless a whole batch waits."""

_REQUEST_S: Final = 5.0
"""Deadline of a batch, including the tries that the SDK makes by itself (seconds)."""

_LAST_CHANCE_S: Final = 2.0
"""Time for which a stop waits for queued traces (seconds)."""

_HOPELESS: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
"""Answers about the content of a request, which will be the same next time. The other side can mend all others."""


@define(kw_only=True, eq=False)
class TraceExporter:
    """Sends the traces of past jobs to `url`, the full address of a collector's trace receiver.

    `headers` go with each request, through `proxy` (its URL with credentials; empty for none). `instance_id` returns
    the id of this machine. If the extra is missing, the constructor raises NotReachable.
    """

    url: str
    instance_id: Callable[[], str]
    service: str = DISPATCHD.name
    """Name of the program."""
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    proxy: str = field(default="", repr=False)
    random: random.Random
    bugs: BugFence
    dropped: int = field(default=0, init=False)
    """Traces that were dropped so far (count)."""
    _send: "_Send" = field(init=False, repr=False)
    _close: Callable[[], None] = field(init=False, repr=False)
    _queue: deque[TrackedJob] = field(factory=deque, init=False, repr=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False)
    """Guards the queue, `dropped` and the fields below; notified when the thread has something to do."""
    _stopping: bool = field(default=False, init=False)
    _sending: int = field(default=0, init=False)
    _retry: Retry = field(init=False)
    _drop_logged: bool = field(default=False, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False, repr=False
    )

    @_retry.default
    def _new_retry(self) -> Retry:
        return Retry(self.random)

    def __attrs_post_init__(self) -> None:
        self._send, self._close = _open(self.url, self.headers, self.proxy)

    def see(self, record: TrackedJob) -> None:
        """Queue the trace of a record that has become durable and final; for the tracker."""
        phases = [step.phase for step in record.steps]
        # A record that was in history before already has its trace, and was only handed out again.
        if phases[-1:] == [Phase.HISTORY] and Phase.HISTORY not in phases[:-1]:
            self.export(record)

    def export(self, record: TrackedJob) -> None:
        """Queue the trace of a job in history. Never waits; drops the oldest trace if the queue is full."""
        with self._changed:
            self._queue.append(record)
            self._trim()
            self._changed.notify()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Send until cancelled; then queued traces get a last, short time."""
        # Not a worker of anyio: the interpreter would wait for its end, and a dead collector takes long.
        thread = threading.Thread(target=self._work, name="traces", daemon=True)
        thread.start()
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            with self._changed:
                self._stopping = True
                self._changed.notify()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(thread.join, _LAST_CHANCE_S)
            self._close()
            if unsent := len(self._queue) + self._sending:
                self._log.warning("traces_dropped", url=self.url, unsent=unsent)

    def _work(self) -> None:
        """Send batches; the only code that the thread runs."""
        while batch := self._next():
            refusal: _Refusal | None = None
            with self.bugs.named("traces") as containment:
                spans = [span for record in batch for span in spans_of(record)]
                refusal = self._send(spans, self.service, self.instance_id())
            if containment.bug:
                # The next try would meet the bug again.
                refusal = _Refusal(f"a bug: {containment.bug}", for_ever=True)
            with self._changed:
                self._settle(batch, refusal)
                if self._stopping and self._retry.failures:
                    return
                self._pause()
            self.bugs.worked("traces")

    def _next(self) -> list[TrackedJob]:
        """Return the next batch, oldest first; nothing once the daemon stops and all is sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            self._sending = min(_BATCH, len(self._queue))
            return [self._queue.popleft() for _ in range(self._sending)]

    def _settle(self, batch: Sequence[TrackedJob], refusal: "_Refusal | None") -> None:
        self._sending = 0
        if refusal is None:
            self._note_recovery()
            return
        self._note_failure(refusal.reason)
        if refusal.for_ever:
            self._drop(len(batch))
        else:
            self._queue.extendleft(reversed(batch))
            self._trim()

    def _pause(self) -> None:
        """Rest: longer after a failure; otherwise long enough that many short jobs share a request."""
        enough, pause_s = _BATCH, _PAUSE_S
        if self._retry.failures:
            enough = _QUEUE + 1
            pause_s += self._retry.wait_s
        self._changed.wait_for(
            lambda: self._stopping or len(self._queue) >= enough, pause_s
        )

    def _trim(self) -> None:
        while len(self._queue) > _QUEUE:
            self._queue.popleft()
            self._drop(1)

    def _drop(self, count: int) -> None:
        self.dropped += count
        if not self._drop_logged:
            self._drop_logged = True
            self._log.warning("traces_dropped", url=self.url, dropped=self.dropped)

    def _note_failure(self, reason: str) -> None:
        self._retry.failed()
        if self._retry.failures == 1:
            self._log.warning("traces_not_exported", url=self.url, reason=reason)

    def _note_recovery(self) -> None:
        if self._retry.failures:
            self._log.info("traces_exported_again", url=self.url, dropped=self.dropped)
        self._retry.worked()
        self._drop_logged = self._drop_logged and bool(self._queue)


@frozen
class _Refusal:
    """Reason why a batch was refused. `for_ever` is true if every later try would be refused too."""

    reason: str
    for_ever: bool = False


_Send = Callable[[Sequence[Span], str, str], _Refusal | None]
"""Sends spans of a program on this machine, by its name and the machine's id; blocks."""


class _FirstMessage(logging.Handler):
    """Stores the first message that the SDK logs about a batch, and keeps all of them from stderr."""

    text = ""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


def read_headers(text: str) -> dict[str, str]:
    """Return the headers in a text of NAME: VALUE lines.

    Raises:
        ValueError: A line has another form; it isn't quoted, because it may be a secret.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, value = (part.strip() for part in line.partition(":"))
        if name and value and line.isascii() and value.isprintable():
            headers[name] = value
        elif line.strip():
            raise ValueError(f"line {number} is none")  # noqa: TRY003
    return headers


def _open(
    url: str, headers: Mapping[str, str], proxy: str
) -> tuple[_Send, Callable[[], None]]:
    """Return functions to send through the SDK's exporter and to close it. The SDK's log messages are captured.

    Raises:
        NotReachable: The extra isn't installed.
    """
    handler, logger = _FirstMessage(), logging.getLogger("opentelemetry")
    logger.propagate, logger.handlers = False, [handler]
    try:
        # These imports take some 20 MiB, which a daemon without traces doesn't need.
        import requests  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415
            Compression,
            trace_exporter,
        )
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed; install the release's wheel with [otel] behind its name"
        raise NotReachable(cannot="export traces", reason=reason) from error
    statuses: list[int] = []

    def note(response: requests.Response, *_: object, **__: object) -> None:
        statuses.append(response.status_code)
        # The status is enough. A body stays compressed, however large its content is.
        response.raw.headers.pop("content-encoding", None)

    # With a session of ours the SDK doesn't load one that the environment names.
    session = requests.Session()
    session.trust_env = False
    if proxy:
        session.proxies = {"http": proxy, "https": proxy}
    session.headers.update(ACCEPT_IDENTITY)
    session.hooks["response"].append(note)
    exporter = trace_exporter.OTLPSpanExporter(
        endpoint=url,
        headers={name: value.strip() for name, value in headers.items()},
        timeout=_REQUEST_S,
        compression=Compression.Gzip,
        session=session,
    )

    def send(spans: Sequence[Span], service: str, instance_id: str) -> _Refusal | None:
        statuses.clear()
        handler.text = ""
        try:
            result = exporter.export(_readable(spans, service, instance_id))
        except requests.RequestException as error:
            return _Refusal(str(error))  # of an older SDK
        if result is SpanExportResult.SUCCESS:
            return None
        if not statuses:
            return _Refusal(handler.text or "no answer")
        reason = f"the collector answered {statuses[-1]}"
        return _Refusal(reason, for_ever=statuses[-1] in _HOPELESS)

    return send, exporter.shutdown


def _readable(spans: Sequence[Span], service: str, instance_id: str) -> list[Any]:
    """Return spans as the SDK's exporters take them: ReadableSpan, a type that is not imported before."""
    from opentelemetry import trace as api  # noqa: PLC0415  # as above
    from opentelemetry.sdk import resources  # noqa: PLC0415
    from opentelemetry.sdk import trace as sdk  # noqa: PLC0415
    from opentelemetry.sdk.util import instrumentation  # noqa: PLC0415

    # Not Resource.create, which reads the identity from the environment.
    resource = resources.Resource(
        {
            "service.name": service,
            "service.version": __version__,
            "service.instance.id": instance_id,
        }
    )
    scope = instrumentation.InstrumentationScope("dispatchd", __version__)

    def context(span: Span, own: str) -> api.SpanContext:
        return api.SpanContext(int(span.trace_id, 16), int(own, 16), is_remote=False)

    return [
        sdk.ReadableSpan(
            name=span.name,
            context=context(span, span.span_id),
            parent=context(span, span.parent_id) if span.parent_id else None,
            resource=resource,
            attributes=span.attributes,
            status=api.Status(api.StatusCode.ERROR, span.error)
            if span.error
            else api.Status(),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=scope,
        )
        for span in spans
    ]
