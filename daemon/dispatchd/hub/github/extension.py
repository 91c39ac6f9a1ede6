"""GitHub as the hub's extension. It has a back end if `hub.toml` has a table `github`, and its status in any case."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from attrs import frozen
from prometheus_client.core import Metric
from starlette.routing import Route

from dispatchd.hub.context import Context
from dispatchd.hub.domain.links import web_url
from dispatchd.hub.domain.model import HubJob
from dispatchd.hub.extension import Loop
from dispatchd.hub.github.status_route import GithubStatus, progress_of
from dispatchd.protocol.extensions import TOKEN
from dispatchd.protocol.github_event import link_of, links_of
from dispatchd.protocol.job import Json

if TYPE_CHECKING:
    from dispatchd.hub.github.backend import Backend

_DAY_S: Final = 86_400.0


@frozen
class GithubExtension:
    """GitHub; implements `hub.extension.Extension`."""

    context: Context
    backend: "Backend | None" = None
    """Parts that receive from GitHub or call it; None for a hub without GitHub."""

    def routes(self) -> Sequence[Route]:
        """Return the routes, for the application."""
        backend = [] if self.backend is None else self.backend.routes()
        return [*GithubStatus(self.context).routes(), *backend]

    def loops(self) -> Sequence[Loop]:
        """Return the loop of the back end."""
        return [] if self.backend is None else [self.backend.run]

    def metrics(self) -> Iterable[Metric]:
        """Return the metrics of the deliveries. Blocks."""
        return GithubStatus(self.context).metrics()

    def status(self) -> Mapping[str, Json] | None:
        """Return how the hub gets on with GitHub; None for a hub without it. Blocks."""
        if self.context.settings.github is None:
            return None
        return GithubStatus(self.context).document()

    def limited(self) -> Mapping[int, float]:
        """Return the installations that this process may not call now, each with its wait (seconds)."""
        return {} if self.backend is None else self.backend.publisher.gates.closed()

    def job_extensions(self, job: HubJob) -> Sequence[str]:
        """Return the extension for tokens, if the rule of an App's job permits a token."""
        github = self.context.settings.github
        if github is None or not (job.by_event and job.document.installation_id):
            return ()
        has_token = bool(github.permissions_of_run(job.document.rule))
        return (TOKEN,) if has_token else ()

    def link_of(self, job: HubJob) -> str:
        """Return the address of a job's subject at GitHub; empty for a job that no event made."""
        github = self.context.settings.github
        if github is None or not job.by_event:
            return ""
        return link_of(job.document, web_url(github.api_url))

    def links_of(self, job: HubJob) -> Mapping[str, str]:
        """Return the addresses of what a job is of at GitHub, by name; and of its `check` run. Blocks."""
        github = self.context.settings.github
        if github is None or not job.by_event:
            return {}
        web = web_url(github.api_url)
        links = links_of(job.document, web)
        shown = self.context.stores.checks.get(job.id)
        if links and shown is not None and shown.check.check_run_id:
            links["check"] = f"{links['repository']}/runs/{shown.check.check_run_id}"
        return links

    def handled_until(self, now: float) -> float:
        """Return the time by GitHub's clock up to which the App's deliveries are handled; `now` before the first look. Blocks."""
        progress = progress_of(self.context)
        return min(now, (progress.complete_until if progress else 0) or now)

    @property
    def repeated_for_s(self) -> float:
        """Time for which a delivery may come again (seconds).

        GitHub keeps it for the retention, may be asked until then to send it again, and lists the repeat for as long
        again. One day more is for clocks and late entries.
        """
        github = self.context.settings.github
        return 0.0 if github is None else (2 * github.retention_days + 1) * _DAY_S


@asynccontextmanager
async def github_extension(context: Context) -> AsyncIterator[GithubExtension]:
    """Yield GitHub's extension.

    Raises:
        ConfigError: The key, the token, certificates or proxy can't be used.
    """
    settings = context.settings.github
    if settings is None:
        yield GithubExtension(context)
        return
    # It imports the client of GitHub, which a hub without GitHub doesn't need.
    from dispatchd.hub.github.backend import backend  # noqa: PLC0415

    async with backend(context, settings) as parts:
        yield GithubExtension(context, parts)
