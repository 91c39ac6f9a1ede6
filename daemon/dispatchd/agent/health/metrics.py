"""Metrics in Prometheus' text format: for a scrape, for node_exporter's textfile collector, for the control socket.

Names and labels are public (`docs/metrics.md`). Counters begin at zero with each start of the daemon. State
that the loops hold is read from them at each scrape; only events are counted here.
"""

from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Final

import prometheus_client
from attrs import define, field
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from typing_extensions import override

from dispatchd import __version__
from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.domain.intake import Mode
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.health.status import Status
from dispatchd.protocol.json_path import at, text

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of Prometheus' text exposition format."""

_UNKNOWN: Final = "(unknown)"
"""Label for workflows that aren't configured: an endpoint must not be able to make labels."""

_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
_PUT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)

_STARTED: Final = frozenset({Event.ATTEMPT_STARTED})
_REPORTED: Final = frozenset({Event.FINISH_ACKNOWLEDGED, Event.FINISH_REFUSED})

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for


@define
class Metrics:
    """Counters and histograms."""

    current: CurrentConfig
    registry: CollectorRegistry = field(factory=CollectorRegistry, init=False)
    _jobs: prometheus_client.Counter = field(init=False)
    _start_s: prometheus_client.Histogram = field(init=False)
    _report_s: prometheus_client.Histogram = field(init=False)
    put_s: prometheus_client.Histogram = field(init=False)
    """Time until a record is durable (seconds)."""

    def __attrs_post_init__(self) -> None:
        self._jobs = prometheus_client.Counter(
            "dispatchd_jobs",
            "Jobs that have ended, by workflow and outcome.",
            ["workflow", "outcome"],
            registry=self.registry,
        )
        self._start_s = self._histogram(
            "dispatchd_job_start_seconds",
            "From the arrival of a job to the start of its first process.",
        )
        self._report_s = self._histogram(
            "dispatchd_job_report_seconds",
            "From the end of a job to the endpoint's acknowledgement.",
        )
        self.put_s = prometheus_client.Histogram(
            "dispatchd_store_put_seconds",
            "Until a record is durable.",
            buckets=_PUT_SECONDS,
            registry=self.registry,
        )

    def see(self, record: TrackedJob) -> None:
        """Count a record that has become durable; for the tracker."""
        if not record.steps:
            return
        event = record.steps[-1].event
        if event in _STARTED and len(record.attempts) == 1:
            self._start_s.observe(_between(record.received_at, record.changed_at))
        elif record.phase is Phase.FINISHING and _has_just_ended(record):
            self._count(record)
        elif event in _REPORTED and not _has_been_reported(record):
            self._report_s.observe(_between(_ended_at(record), record.changed_at))

    def text(self) -> str:
        """Return all metrics in the text format."""
        return prometheus_client.generate_latest(self.registry).decode()

    def _count(self, record: TrackedJob) -> None:
        workflow, verdict = record.job.workflow, record.verdict
        known = workflow in self.current.config.workflows
        outcome = verdict.outcome.value if verdict is not None else ""
        self._jobs.labels(workflow if known else _UNKNOWN, outcome).inc()

    def _histogram(self, name: str, about: str) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            name, about, buckets=_SECONDS, registry=self.registry
        )


@define(eq=False)
class StatusCollector(Collector):
    """Turns the status into gauges, and the loops' counts into counters, at each scrape."""

    _status: Status
    _calls: Callable[[], Collection[tuple[str, str, int]]]
    """HTTP calls so far: name of the call, class of its end, count."""

    @override
    def collect(self) -> Iterator[Metric]:
        document = self._status.document()
        yield _labelled(
            "dispatchd_build_info", "Always 1.", "version", {__version__: 1.0}
        )
        for name, about, value in _gauges(self._status):
            if value is not None:
                yield GaugeMetricFamily(name, about, value)
        mode = text(document, "intake", "mode")
        yield _labelled(
            "dispatchd_intake_mode",
            "1 for what the operator wants about new jobs.",
            "mode",
            {member.value: float(member.value == mode) for member in Mode},
        )
        pulls = CounterMetricFamily(
            "dispatchd_pulls", "Polls, by how they ended.", labels=["result"]
        )
        for result, count in sorted(self._status.context.activity.pulls.items()):
            pulls.add_metric([result], count)
        yield pulls
        bugs = self._status.context.bugs
        met = CounterMetricFamily(
            "dispatchd_bugs", "Bugs that were contained, by loop.", labels=["loop"]
        )
        for loop, count in sorted(bugs.met.items()):
            met.add_metric([loop], count)
        yield met
        yield GaugeMetricFamily(
            "dispatchd_loops_failing",
            "Loops and items that wait for another try after a bug.",
            len(bugs.failing),
        )
        calls = CounterMetricFamily(
            "dispatchd_http_requests",
            "Calls of the endpoint, by name and by the class of their end.",
            labels=["call", "class"],
        )
        for call, class_, count in self._calls():
            calls.add_metric([call, class_], count)
        yield calls


def _gauges(status: Status) -> Iterator[tuple[str, str, float | None]]:
    """Yield name, help and value (None: unknown) of every gauge without labels."""
    document = status.document()

    def value(*path: str) -> float | None:
        number = at(document, *path)
        return float(number) if isinstance(number, int | float) else None

    jobs = {phase: value("jobs", phase.value) or 0.0 for phase in Phase}
    waiting = jobs[Phase.PENDING_ACCEPT] + jobs[Phase.ACCEPTED] + jobs[Phase.RETRY_WAIT]
    yield "dispatchd_ready", "1 if jobs are pulled and reported.", value("ready")
    yield "dispatchd_running", "Runs that have a process.", jobs[Phase.RUNNING]
    yield "dispatchd_waiting", "Jobs that wait for their run.", waiting
    yield (
        "dispatchd_parked",
        "Jobs that wait for a person.",
        jobs[Phase.NEEDS_ATTENTION],
    )
    yield "dispatchd_slots", "Runs at a time.", value("slots", "total")
    yield (
        "dispatchd_outbox_depth",
        "Accepts, releases and finishes that the endpoint doesn't have yet.",
        value("outbox", "depth"),
    )
    yield (
        "dispatchd_oldest_unreported_age_seconds",
        "For how long the first of them has waited.",
        value("outbox", "oldest_age_s"),
    )
    yield (
        "dispatchd_last_pull_age_seconds",
        "Since a pull succeeded.",
        value("endpoint", "last_pull_age_s"),
    )
    yield (
        "dispatchd_clock_skew_seconds",
        "By how much this clock is ahead of the endpoint's.",
        value("endpoint", "clock_skew_s"),
    )
    yield (
        "dispatchd_credential_expires_in_seconds",
        "Until the license expires.",
        value("license", "expires_in_s"),
    )
    yield (
        "dispatchd_free_bytes",
        "Free space of the state folder's file system.",
        value("disk", "free_bytes"),
    )
    yield (
        "dispatchd_free_inodes",
        "Free inodes there.",
        value("disk", "free_inodes"),
    )


def _labelled(
    name: str, about: str, label: str, values: dict[str, float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for labelled, value in values.items():
        family.add_metric([labelled], value)
    return family


def _has_just_ended(record: TrackedJob) -> bool:
    before = [step.phase for step in record.steps[-2:-1]]
    return before not in ([Phase.FINISHING], [Phase.HISTORY])


def _has_been_reported(record: TrackedJob) -> bool:
    """Return whether a job was handed out again after its end, and its finish is a repeat."""
    return any(step.phase is Phase.HISTORY for step in record.steps[:-1])


def _ended_at(record: TrackedJob) -> datetime:
    return next(
        (step.at for step in record.steps if step.phase is Phase.FINISHING),
        record.changed_at,
    )


def _between(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
