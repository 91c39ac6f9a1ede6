"""Route of schedules: the list of those in the configuration, with their next and last runs."""

from collections.abc import Mapping

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.config.schedules import Schedule
from dispatchd.hub.context import Context
from dispatchd.hub.domain.schedules.progress import Progress
from dispatchd.hub.domain.scopes import READ
from dispatchd.hub.queue.schedules import goes_by
from dispatchd.protocol.job import Json


@frozen
class ScheduleList:
    """Route on which people and programs see schedules."""

    context: Context

    def routes(self) -> list[Route]:
        """Return the route, for the application."""
        return [Route("/api/v1/schedules", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Return every schedule, in the order of the configuration."""
        await self.context.require(request, READ)
        return JSONResponse({"schedules": await self.context.use_for_list(self._all)})

    def _all(self) -> list[dict[str, Json]]:
        schedules = self.context.settings.schedules
        texts = self.context.stores.schedules.texts() if schedules else {}
        return [schedule_document(each, texts) for each in schedules]


def schedule_document(schedule: Schedule, texts: Mapping[str, str]) -> dict[str, Json]:
    """Return a schedule with its progress.

    Args:
        schedule: The schedule.
        texts: The stored progress of each schedule, by name.
    """
    text = texts.get(schedule.name)
    progress = None if text is None else Progress.read(text)
    document: dict[str, Json] = {
        "name": schedule.name,
        "workflow": schedule.workflow,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "state": _state(schedule, progress),
        "next_at": 0,
        "due_at": 0,
        "fired_at": 0,
        "job_id": "",
        "missed": 0,
    }
    if progress is None:
        return document
    return {
        **document,
        "next_at": progress.next_at or 0,
        "due_at": progress.due_at,
        "fired_at": progress.fired_at,
        "job_id": progress.job_id,
        "missed": progress.missed,
    }


def _state(schedule: Schedule, progress: Progress | None) -> str:
    if not schedule.enabled:
        return "disabled"
    if progress is None or not goes_by(schedule, progress):
        return "replaced"
    return "active"
