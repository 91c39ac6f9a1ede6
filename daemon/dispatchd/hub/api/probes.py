"""Status of the hub: `/healthz` for the process, `/readyz` for the database, `/metrics` for both."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sized
from typing import Final

import anyio
from attrs import define, field
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from dispatchd.hub.api.views import machine_state, silent_s
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.schedules.progress import Progress
from dispatchd.hub.domain.scopes import READ
from dispatchd.hub.extension import Extension

_CALLS: Final = (
    *("pull", "accept", "finish", "heartbeat", "release", "log", "token", "activate"),
    *("jobs", "webhooks"),
)
_CHECKED_EVERY_S: Final = 1.0
"""Time for which a successful check of the database is cached (seconds)."""

_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@define
class Probes:
    """Routes for monitoring."""

    context: Context
    extension: Extension
    connections: Sized
    """Open connections of the hub."""
    webhooks: Mapping[tuple[str, str], int] = field(factory=dict)
    """Deliveries of webhooks beside GitHub's, by hook and result (count)."""
    answers: Counter[tuple[str, int]] = field(factory=Counter, init=False)
    """Answers sent, by call and status (count)."""
    _checked_at: float = field(default=-math.inf, init=False)
    """Time of the last successful check of the database, by the event loop's clock (seconds)."""
    _checks: int = field(default=0, init=False)
    """Checks of the database (count)."""
    _failed: StorageBusy | None = field(default=None, init=False)
    """Error of the last check; None if it was successful."""
    _checking: anyio.Lock = field(factory=anyio.Lock, init=False)

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def health(self, _: Request) -> Response:
        """Answer that the process is alive."""
        return JSONResponse({"message": "ok"})

    async def ready(self, _: Request) -> Response:
        """Answer that jobs can be accepted: the tables are current, and a change can be committed.

        Raises:
            StorageBusy: They can't.
        """
        if self.context.waiting.stopping:
            message = "the hub is stopping"
            raise StorageBusy(message)
        # Anybody may call this, so frequent calls must not keep the disk busy: calls during a check share its result.
        before = self._checks
        async with self._checking:
            is_old = anyio.current_time() - self._checked_at > _CHECKED_EVERY_S
            if self._checks == before and is_old:
                self._failed = await self._check()
                self._checks += 1
                if self._failed is None:
                    self._checked_at = anyio.current_time()
        if self._failed is not None:
            raise StorageBusy(str(self._failed)) from self._failed
        # A bug in a loop must not make the hub unready: it would take all hub processes away from the machines.
        return JSONResponse({"message": "ready", "bugs": self.context.bugs.messages})

    async def _check(self) -> StorageBusy | None:
        try:
            await self.context.use(self.context.stores.database.check)
        except StorageBusy as error:
            return error
        return None

    async def metrics(self, request: Request) -> Response:
        """Return the metrics in the text form of Prometheus."""
        await self.context.require(request, READ)
        metrics = await self.context.use(lambda: list(self._collect()))
        registry = CollectorRegistry()
        registry.register(_Collected(metrics))
        return PlainTextResponse(generate_latest(registry), media_type=_TYPE)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """Return an application whose answers are counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    segments = set(scope["path"].split("/")[-2:])
                    call = next((name for name in _CALLS if name in segments), "other")
                    self.answers[call, message["status"]] += 1
                await send(message)

            await app(scope, receive, note)

        return counted

    def _collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily(
            "dispatchd_hub_jobs", "Jobs by state.", labels=["state"]
        )
        for state, count in self.context.stores.reader.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        oldest = self.context.stores.reader.oldest_queued_at()
        waits_s = 0.0 if oldest is None else max(0.0, self.context.now() - oldest)
        yield GaugeMetricFamily(
            "dispatchd_hub_oldest_queued_seconds",
            "Age of the oldest queued job, in seconds.",
            value=waits_s,
        )
        yield GaugeMetricFamily(
            "dispatchd_hub_held_polls",
            "Machines that wait here for a job.",
            value=len(self.context.waiting.polls),
        )
        yield GaugeMetricFamily(
            "dispatchd_hub_connections",
            "Open connections.",
            value=len(self.connections),
        )
        yield GaugeMetricFamily(
            "dispatchd_hub_paused",
            "1 while dispatch is paused, else 0.",
            value=0 if self.context.stores.pauses.get() is None else 1,
        )
        yield GaugeMetricFamily(
            "dispatchd_hub_schedule_overdue_seconds",
            "For how long the run of a schedule is due that has waited longest to become a job.",
            value=self._overdue_s(),
        )
        yield from self._of_machines()
        yield from self._of_checks()
        yield from self.extension.metrics()
        yield self._of_webhooks()
        yield from self._of_bugs()
        answers = CounterMetricFamily(
            "dispatchd_hub_answers",
            "Answers sent, by call and status.",
            labels=["call", "status"],
        )
        for (call, status), count in sorted(self.answers.items()):
            answers.add_metric([call, str(status)], count)
        yield answers

    def _overdue_s(self) -> float:
        if not self.context.settings.schedules:
            return 0.0
        texts = self.context.stores.schedules.texts().values()
        due = [Progress.read(text).next_at for text in texts]
        now = self.context.now()
        return max((now - at for at in due if at is not None and at < now), default=0.0)

    def _of_webhooks(self) -> Metric:
        deliveries = CounterMetricFamily(
            "dispatchd_hub_webhook_deliveries",
            "Deliveries of [[webhooks]] that were answered, by hook and result.",
            labels=["hook", "result"],
        )
        for (hook, result), count in sorted(self.webhooks.items()):
            deliveries.add_metric([hook, result], count)
        return deliveries

    def _of_bugs(self) -> Iterator[Metric]:
        bugs = self.context.bugs
        met = CounterMetricFamily(
            "dispatchd_hub_bugs", "Bugs that were contained, by loop.", labels=["loop"]
        )
        for loop, count in sorted(bugs.met.items()):
            met.add_metric([loop], count)
        yield met
        yield GaugeMetricFamily(
            "dispatchd_hub_loops_failing",
            "Loops and items that wait for another try after a bug.",
            value=len(bugs.failing),
        )

    def _of_machines(self) -> Iterator[Metric]:
        machines = GaugeMetricFamily(
            "dispatchd_hub_machines", "Machines by state.", labels=["state"]
        )
        silent = GaugeMetricFamily(
            "dispatchd_hub_machine_last_seen_seconds",
            "For how long nothing has been heard of a machine that may pull.",
            labels=["machine"],
        )
        now, states = self.context.now(), Counter[str]()
        lease_s = self.context.settings.leases.seconds
        heard = self.context.stores.reader.heard_at(lease_s=lease_s, now=now)
        for machine in self.context.stores.machines.list():
            heard_at = heard.get(machine.server_id, 0.0)
            state = machine_state(machine, now=now, heard_at=heard_at)
            states[state] += 1
            if state in ("active", "away"):
                age_s = silent_s(machine, now=now, heard_at=heard_at)
                silent.add_metric([machine.name], age_s)
        for word in ("active", "away", "invited", "revoked"):
            machines.add_metric([word], states[word])
        yield machines
        yield silent

    def _of_checks(self) -> Iterator[Metric]:
        pending, failing = self.context.stores.checks.pending_count()
        checks = GaugeMetricFamily(
            "dispatchd_hub_checks_owed",
            "Checks of which GitHub has to be told something, by whether that has failed.",
            labels=["failing"],
        )
        checks.add_metric(["no"], pending - failing)
        checks.add_metric(["yes"], failing)
        yield checks


class _Collected(Collector):
    """Collector of metrics that are collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
