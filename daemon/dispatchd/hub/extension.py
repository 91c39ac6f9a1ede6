"""Extension: a source of jobs beside the hub's own API, with routes, loops and metrics. GitHub is the first.

`hub/main.py` opens it, and gives it to the routes and loops that need it. Nothing else in the hub imports GitHub. The
checks of jobs aren't its part: `write_job` of `hub/storage/jobs/rows.py` marks them in the transaction of the job.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client.core import Metric
from starlette.routing import Route

from dispatchd.hub.domain.model import HubJob
from dispatchd.protocol.job import Json

Loop = Callable[[], Coroutine[Any, Any, None]]
"""Loop of a hub's process; it runs until it is cancelled."""


class Extension(Protocol):
    """Source of jobs."""

    def routes(self) -> Sequence[Route]:
        """Return its routes, for the application."""
        ...

    def loops(self) -> Sequence[Loop]:
        """Return its loops; each process of the hub runs them."""
        ...

    def metrics(self) -> Iterable[Metric]:
        """Return its metrics. Blocks."""
        ...

    def status(self) -> Mapping[str, Json] | None:
        """Return how the hub gets on with it, as its API shows that; None for a hub that doesn't have it. Blocks."""
        ...

    def limited(self) -> Mapping[int, float]:
        """Return the installations that this process may not call now, each with its wait (seconds)."""
        ...

    def job_extensions(self, job: HubJob) -> Sequence[str]:
        """Return the protocol extensions that it offers to the machine of a job (contracts/README.md, extensions)."""
        ...

    def link_of(self, job: HubJob) -> str:
        """Return the address of a job's subject; empty for a job that isn't of this source."""
        ...

    def links_of(self, job: HubJob) -> Mapping[str, str]:
        """Return the addresses of what a job is of, by name; and of its `check` run. Blocks."""
        ...

    def handled_until(self, now: float) -> float:
        """Return the time up to which its events are handled, at most the hub's time (seconds since the epoch). Blocks.

        The source's own clock counts: the hub's may be wrong by any time.
        """
        ...

    @property
    def repeated_for_s(self) -> float:
        """Time for which a handled event may come again (seconds): so long its delivery must be stored."""
        ...
