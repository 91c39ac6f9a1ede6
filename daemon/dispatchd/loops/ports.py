"""What the loops need from the outside: a source of jobs, an engine for runs, a clock.

A port's docstring is its contract: an implementation can be written from it alone.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from dispatchd.domain.delivery import Beat, Delivery, NoJob
from dispatchd.domain.isolation import Isolation
from dispatchd.domain.job import ProcessIdentity, TrackedJob
from dispatchd.domain.launch import Launch
from dispatchd.domain.outcome import Cleared, Exit, NeverStarted
from dispatchd.domain.report import Report
from dispatchd.domain.resources import Usage
from dispatchd.domain.run_event import Progress


class Clock(Protocol):
    """Where times come from."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC; it never jumps while the machine is up."""
        ...

    def of_file(self, written_ns: int) -> datetime:
        """Return when a file was written, from its stamp (nanoseconds since the epoch), on the same timeline."""
        ...

    def settle(self) -> None:
        """Catch up with the wall clock; called only while no deadline is written down."""
        ...


class WallClock(Clock, Protocol):
    """A clock that also tells what the wall clock shows, for times that others have written."""

    def wall(self) -> datetime:
        """Return what the wall clock shows, aware, in UTC."""
        ...


class Licensing(Protocol):
    """Who gives this machine its identity. Calls have deadlines, and fail only with leaves of `RemoteError`."""

    async def activate(
        self, key: str, server_id: str, machine_name: str
    ) -> tuple[str, str]:
        """Return a license token and the machine's secret for a key; may be repeated."""
        ...

    async def heartbeat(
        self, license_id: str, server_id: str, secret: str, *, marked: bool
    ) -> str:
        """Return a fresh token; Revoked or Unauthorized if the machine is not wanted any more.

        `marked` says that the license server's own answers have the header of the contract.
        """
        ...


class Permission(Protocol):
    """Whether this machine may take jobs."""

    @property
    def obstacle(self) -> str:
        """Why it may not at the moment, in words; empty if it may. The tracker's bell rings when that changes."""
        ...


class Source(Protocol):
    """Where jobs come from and where outcomes go.

    Every call has its own deadline and fails only with a leaf of `RemoteError`. Every call but `pull`
    may be repeated with the same record, and has the same effect as once. Concurrent calls are fine.
    """

    @property
    def clock_skew(self) -> str:
        """How this machine's clock differs from the source's as of the last call, in words; empty if it doesn't."""
        ...

    async def pull(
        self, hold_s: float, *, cancels_only: bool = False
    ) -> Delivery | NoJob:
        """Ask for one job, letting the endpoint hold the question for `hold_s` seconds (0: not at all).

        With `cancels_only` it is to be a cancel job; only for a source that has shown that it knows such questions.
        """
        ...

    async def accept(self, record: TrackedJob) -> Beat:
        """Return once the source agrees that the job is this machine's; JobClosed if it isn't."""
        ...

    async def finish(self, record: TrackedJob, report: Report) -> None:
        """Return once the source has the verdict; JobClosed if it takes none for this job any more.

        `report` is what the newest attempt has left for it, without secrets; all of it may be empty.
        """
        ...

    async def heartbeat(self, record: TrackedJob, progress: Progress | None) -> Beat:
        """Extend the job's lease and tell how far its run is, if that is news; JobClosed if it is lost."""
        ...

    async def token(self, record: TrackedJob, permissions: Mapping[str, str]) -> str:
        """Return a token for the job's repository with these permissions and no others; a secret.

        `permissions` are GitHub's names with `read` or `write`. Called only for jobs whose `extensions` list
        `token`; each call may give another one.
        """
        ...

    async def release(self, record: TrackedJob, reason: str) -> None:
        """Hand an unstarted job back; JobClosed if it was not ours to hand back."""
        ...


class Engine(Protocol):
    """What executes attempts. It must outlive the daemon: nothing ends because the daemon does."""

    async def start(
        self, launch: Launch, record: Callable[[ProcessIdentity], Awaitable[None]]
    ) -> None:
        """Start an attempt.

        `record` is awaited with the attempt's identity before the command can run. If it raises, is
        cancelled, or the daemon dies in it, the command never runs. Returns when the command may run.
        Fails with a leaf of RunError if that can't be: SpawnFailed, SecretUnavailable, WorkspaceFailed.
        From then on the attempt's secrets are known, so that they can be taken out of its words.
        """
        ...

    def weakness(self, isolation: Isolation) -> str:
        """Return why runs with an isolation aren't kept from what isn't theirs here, in words; empty if they are."""
        ...

    async def recall(self, process: ProcessIdentity, folder: Path) -> bool:
        """Know the secrets of an attempt that another daemon started; False if they are lost."""
        ...

    def forget(self, folder: Path) -> None:
        """Forget the secrets of an attempt that has been concluded; may be repeated."""
        ...

    async def observe(
        self, process: ProcessIdentity, folder: Path
    ) -> Exit | NeverStarted:
        """Wait for the end of an attempt, whichever daemon started it; at once if it has ended."""
        ...

    async def stop(self, process: ProcessIdentity, grace_s: float) -> bool:
        """End a running attempt, politely for `grace_s` seconds; True if force was needed.

        It returns in bounded time, also where the attempt can't be ended; then nobody will observe its end.
        """
        ...

    def usage(self, folder: Path) -> Usage | None:
        """Return what an attempt that has ended has taken of the machine, before it is cleared; None if nobody knows."""
        ...

    async def clear(self, process: ProcessIdentity, folder: Path) -> Cleared:
        """End what an attempt that has ended, or was given up, left behind, wherever it went; may be repeated.

        It returns in bounded time, also where something can't be ended.
        """
        ...
