"""Traces: one for each job that has gone to history, sent to an OpenTelemetry collector (extra `otel`).

What a trace says is in `domain/trace.py`. It is sent as OTLP over HTTP by a thread of its own: a collector that
is slow, silent or gone costs traces, and never a job. Traces are not durable: those that a killed daemon had
not sent are lost. The daemon's own OTEL_* variables of certificates and headers count, as the SDK has it;
the configured ones come first. No proxy and no .netrc is used.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskStatus
from attrs import define, field, frozen
from typing_extensions import override

from dispatchd import __version__
from dispatchd.domain.backoff import full_jitter_s
from dispatchd.domain.job import TrackedJob
from dispatchd.domain.phase import Phase
from dispatchd.domain.trace import Span, spans_of
from dispatchd.errors import NotReachable

_QUEUE: Final = 1000
"""How many jobs' traces wait for a collector (count): a few MiB at most."""

_BATCH: Final = 64
"""How many jobs' traces go in one request (count): some 400 spans, 100 KiB before compression."""

_PAUSE_S: Final = 1.0
"""Shortest time between two requests (seconds), unless a whole batch waits."""

_REQUEST_S: Final = 5.0
"""The deadline of a batch with the tries that the SDK makes by itself (seconds)."""

_LAST_CHANCE_S: Final = 2.0
"""How long a stop waits for what is queued (seconds)."""

_LONGEST_REASON: Final = 300
"""What is logged of an error's text (characters)."""

_HOPELESS: Final = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
)
"""Answers to what was sent, which will be the same next time. All others can be mended on the other side."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@define(kw_only=True, eq=False)
class TraceExporter:
    """Sends the traces of past jobs to `url`, the full address of a collector's trace receiver.

    `headers` go with each request; `instance_id` gives the id that this machine is known by. Made where the
    extra is missing, it fails with NotReachable.
    """

    url: str
    instance_id: Callable[[], str]
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    random: random.Random
    dropped: int = field(default=0, init=False)
    """How many jobs' traces were given up so far (count)."""
    _collector: "_Collector" = field(init=False, repr=False)
    _queue: deque[TrackedJob] = field(factory=deque, init=False, repr=False)
    _changed: threading.Condition = field(factory=threading.Condition, init=False)
    """Guards the queue, `dropped` and what follows; rings when the thread has something to do."""
    _stopping: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)
    _drop_told: bool = field(default=False, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False, repr=False
    )

    def __attrs_post_init__(self) -> None:
        self._collector = _open_collector(self.url, self.headers)

    def see(self, record: TrackedJob) -> None:
        """Take note of a record that has become durable; for the tracker."""
        phases = [step.phase for step in record.steps[-2:]]
        # A record that has been in history before has its trace, and was only handed out again.
        if phases[-1:] == [Phase.HISTORY] and phases[:-1] != [Phase.HISTORY]:
            self.export(record)

    def export(self, record: TrackedJob) -> None:
        """Queue the trace of a job that has gone to history; never waits, and gives up the oldest if full."""
        with self._changed:
            self._queue.append(record)
            self._trim()
            self._changed.notify()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Send until cancelled; then what is queued gets a last, short chance."""
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
            self._collector.close()
            if self._queue:
                self._log.warning("traces_dropped", at="stop", jobs=len(self._queue))

    def _work(self) -> None:
        """Send batches; the only code in the thread."""
        while batch := self._next():
            spans = [span for record in batch for span in spans_of(record)]
            answer = self._collector.send(spans, self.instance_id())
            with self._changed:
                self._settle(batch, answer)
                if self._stopping and self._failures:
                    return
                self._pause()

    def _next(self) -> list[TrackedJob]:
        """Return what to send next, oldest first; nothing once the daemon stops and all is sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            count = min(_BATCH, len(self._queue))
            return [self._queue.popleft() for _ in range(count)]

    def _settle(self, batch: Sequence[TrackedJob], answer: "_Answer") -> None:
        match answer.fate:
            case _Fate.TAKEN:
                self._tell_recovery()
            case _Fate.LATER:
                self._tell_failure(answer.reason)
                self._queue.extendleft(reversed(batch))
                self._trim()
            case _Fate.NEVER:
                self._tell_failure(answer.reason)
                self._drop(len(batch))

    def _pause(self) -> None:
        if self._failures:
            pause_s = _PAUSE_S + full_jitter_s(self._failures, self.random.random())
            self._changed.wait_for(lambda: self._stopping, pause_s)
        else:
            self._changed.wait_for(
                lambda: self._stopping or len(self._queue) >= _BATCH, _PAUSE_S
            )

    def _trim(self) -> None:
        excess = len(self._queue) - _QUEUE
        for _ in range(excess):
            self._queue.popleft()
        if excess > 0:
            self._drop(excess)

    def _drop(self, count: int) -> None:
        self.dropped += count
        if not self._drop_told:
            self._drop_told = True
            self._log.warning("traces_dropped", url=self.url, queue=_QUEUE)

    def _tell_failure(self, reason: str) -> None:
        self._failures += 1
        if self._failures == 1:
            self._log.warning("traces_not_exported", url=self.url, reason=reason)

    def _tell_recovery(self) -> None:
        if self._failures:
            self._log.info(
                "traces_exported_again", url=self.url, dropped_so_far=self.dropped
            )
        self._failures = 0
        if not self._queue:
            self._drop_told = False


class _Fate(Enum):
    """What becomes of a batch."""

    TAKEN = auto()
    LATER = auto()
    NEVER = auto()


@frozen
class _Answer:
    fate: _Fate
    reason: str = ""


@frozen(kw_only=True)
class _Collector:
    """A collector, as far as the SDK has it: `send` takes spans and the machine's id, and blocks."""

    send: Callable[[Sequence[Span], str], _Answer]
    close: Callable[[], None]


class _FirstWords(logging.Handler):
    """Keeps the first thing that the SDK logs about a batch, and everything of it from stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()[:_LONGEST_REASON]


def _open_collector(url: str, headers: Mapping[str, str]) -> _Collector:
    """Return the SDK's exporter, made to keep its words to itself.

    Raises:
        NotReachable: The extra isn't installed.
    """
    try:
        # Some 25 MiB, which a daemon without traces does not pay.
        import requests  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415
            Compression,
            trace_exporter,
        )
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed; run: pip install 'dispatchd[otel]'"
        raise NotReachable(cannot="export traces", reason=reason) from error
    words = _muted("opentelemetry")
    statuses: list[int] = []

    def note(response: requests.Response, *_: object, **__: object) -> None:
        statuses.append(response.status_code)

    # With a session of ours the SDK loads none that the environment names.
    session = requests.Session()
    session.trust_env = False
    session.hooks["response"].append(note)
    exporter = trace_exporter.OTLPSpanExporter(
        endpoint=url,
        headers={name: value.strip() for name, value in headers.items()},
        timeout=_REQUEST_S,
        compression=Compression.Gzip,
        session=session,
    )

    def send(spans: Sequence[Span], instance_id: str) -> _Answer:
        statuses.clear()
        words.text = ""
        result = exporter.export(_readable(spans, instance_id))
        if result is SpanExportResult.SUCCESS:
            return _Answer(_Fate.TAKEN)
        if not statuses:
            return _Answer(_Fate.LATER, words.text)
        fate = _Fate.NEVER if statuses[-1] in _HOPELESS else _Fate.LATER
        return _Answer(fate, f"the collector answered {statuses[-1]}")

    return _Collector(send=send, close=exporter.shutdown)


def _muted(name: str) -> _FirstWords:
    """Return what hears a logger of the standard library instead of stderr."""
    logger, words = logging.getLogger(name), _FirstWords()
    logger.propagate = False
    logger.handlers = [words]
    return words


def _readable(spans: Sequence[Span], instance_id: str) -> list[Any]:
    """Return spans as the SDK's exporters take them: ReadableSpan, a type that is not imported before."""
    from opentelemetry import trace as api  # noqa: PLC0415  # as above
    from opentelemetry.sdk import resources  # noqa: PLC0415
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.util import instrumentation  # noqa: PLC0415

    # Not Resource.create, which asks the environment who we are.
    resource = resources.Resource(
        {
            "service.name": "dispatchd",
            "service.version": __version__,
            "service.instance.id": instance_id,
        }
    )
    scope = instrumentation.InstrumentationScope("dispatchd", __version__)

    def context(span: Span, span_id: str) -> api.SpanContext:
        return api.SpanContext(
            trace_id=int(span.trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=False,
            trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED),
        )

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
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(span.end),
            instrumentation_scope=scope,
        )
        for span in spans
    ]


def _nanoseconds(at: datetime) -> int:
    """Return nanoseconds since the epoch, exactly; none before it, which the format can't say."""
    return max(0, (at - _EPOCH) // timedelta(microseconds=1) * 1000)
