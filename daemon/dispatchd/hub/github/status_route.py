"""Route `GET /api/v1/github`: status of the hub's work with GitHub, answered by any of its processes.

The process with the lock stores its state in a mark (`storage/delivery_cursor.py`); the rest is in the tables.
"""

from collections.abc import Iterator

from attrs import asdict, frozen
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.context import Context
from dispatchd.hub.domain.model import State
from dispatchd.hub.domain.scopes import READ
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.delivery_cursor import Progress, mark_of
from dispatchd.protocol.job import Json


@frozen
class GithubStatus:
    """Route and metrics of the status."""

    context: Context

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [Route("/api/v1/github", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Return the status."""
        await self.context.require(request, READ)
        return JSONResponse(await self.context.use(self.document))

    def metrics(self) -> Iterator[Metric]:
        """Return the metrics of the deliveries. Blocks."""
        progress = progress_of(self.context)
        if progress is not None and progress.complete_until:
            age_s = max(0.0, self.context.now() - progress.complete_until)
            yield GaugeMetricFamily(
                "dispatchd_hub_github_watermark_age_seconds",
                "For how long GitHub's deliveries have not all been looked through.",
                value=age_s,
            )

    def document(self) -> dict[str, Json]:
        """Return the status. Blocks."""
        github = self.context.settings.github
        progress = progress_of(self.context) or Progress()
        pending, failing = self.context.stores.checks.pending_count()
        return {
            "ingest": "none" if github is None else github.ingest.value,
            "app_id": 0 if github is None else github.app_id,
            "watermark": progress.complete_until,
            "swept_at": progress.swept_at,
            "trouble": progress.trouble,
            "trouble_at": progress.trouble_at,
            "losses": [{**asdict(loss)} for loss in progress.losses],
            "checks_owed": pending,
            "checks_failing": failing,
            "jobs_received": self.context.stores.reader.counts()[State.RECEIVED],
        }


def progress_of(context: Context) -> Progress | None:
    """Return the progress with the App's deliveries; None where the hub isn't an App. Blocks."""
    github = context.settings.github
    if github is None or not github.is_app:
        return None
    return Progress.read(MarkStore(context.stores.database).get(mark_of(github.target)))
