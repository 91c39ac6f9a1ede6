"""Ports of the loops to the outside: a source of jobs, an engine for runs, a clock.

A port's docstring is its contract: an implementation can be written from it alone.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from dispatchd.agent.domain.delivery import Beat, Delivery, LogAnswer, NoJob, Stored
from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.domain.run.events import Progress
from dispatchd.protocol.outcome import Cleared, Exit, NeverStarted, Unreachable, Usage
from dispatchd.protocol.report import LogChunk, Report
from dispatchd.protocol.uploads.artifacts import ArtifactChunk, ArtifactList


class Clock(Protocol):
    """Source of times."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC. It never jumps while a job is tracked."""
        ...

    def since_boot(self) -> float:
        """Return the seconds since boot, suspension included. They never jump, and mean nothing to another boot."""
        ...

    def of_file(self, written_ns: int) -> datetime:
        """Return the time, on the same timeline, of a file's stamp (nanoseconds since the epoch)."""
        ...

    def settle(self) -> None:
        """Catch up with the wall clock. Called only while no deadline is recorded."""
        ...


class WallClock(Clock, Protocol):
    """A clock that also shows wall-clock time, for times that others have written."""

    def wall(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        ...


class Licensing(Protocol):
    """Issuer of this machine's identity. Calls have deadlines, and fail only with leaves of `RemoteError`."""

    async def activate(
        self, key: str, server_id: str, machine_name: str
    ) -> tuple[str, str]:
        """Return a license token and the machine's secret for a key. May be repeated."""
        ...

    async def heartbeat(
        self, license_id: str, server_id: str, secret: str, *, marked: bool
    ) -> str:
        """Return a fresh token; Revoked or Unauthorized if the machine is not accepted any more.

        `marked` is true if the license server's own answers have the header of the contract.
        """
        ...


class Permission(Protocol):
    """Permission for this machine to take jobs."""

    @property
    def blocked_reason(self) -> str:
        """Reason why it may not now, in words; empty if it may. The tracker's bell rings when that changes."""
        ...


class Source(Protocol):
    """Source of jobs and receiver of outcomes.

    Every call has its own deadline and fails only with a leaf of `RemoteError`. Every call but `pull`
    may be repeated with the same record, and has the same effect as once. Concurrent calls are fine.
    """

    @property
    def clock_skew(self) -> str:
        """Difference between this machine's clock and the source's at the last call, in words; empty for none."""
        ...

    async def pull(
        self, hold_s: float, *, cancels_only: bool = False
    ) -> Delivery | NoJob:
        """Ask for one job. The endpoint may hold the request for `hold_s` seconds (0: not at all).

        With `cancels_only` it has to be a cancel job; only for a source that has shown that it supports that.
        """
        ...

    async def accept(self, record: TrackedJob) -> Beat:
        """Return once the source agrees that this machine holds the job; JobClosed if it doesn't agree."""
        ...

    async def finish(self, record: TrackedJob, report: Report) -> None:
        """Return once the source has the verdict; JobClosed if it takes none for this job any more.

        `report` is the report of the newest attempt, without secrets; all of it may be empty.
        """
        ...

    async def heartbeat(self, record: TrackedJob, progress: Progress | None) -> Beat:
        """Extend the job's lease, and send new progress of its run, if any; JobClosed if the lease is lost."""
        ...

    async def token(self, record: TrackedJob, permissions: Mapping[str, str]) -> str:
        """Return a token for the job's repository with these permissions and no others; a secret.

        `permissions` are GitHub's names with `read` or `write`. Called only for jobs whose `extensions` list
        `token`. Each call may return another one.
        """
        ...

    async def log(self, record: TrackedJob, chunk: LogChunk) -> LogAnswer:
        """Send a chunk of an attempt's log, without secrets; JobClosed if the source takes none of this job.

        Called only for jobs whose `extensions` list `log`. TooLarge means that it takes nothing further.
        """
        ...

    async def artifacts(
        self, record: TrackedJob, listed: ArtifactList
    ) -> Sequence[Stored]:
        """Announce all artifacts of an attempt; return of each, in their order, what the source has or why it takes none.

        Called only for jobs whose `extensions` list `artifacts`. JobClosed if the source takes none of this job.
        """
        ...

    async def artifact(self, record: TrackedJob, chunk: ArtifactChunk) -> Stored:
        """Send a part of an artifact that was announced; JobClosed if the source no longer takes it.

        An answer that is not `whole` at the end of the file means that all of it has to be sent again.
        """
        ...

    async def release(self, record: TrackedJob, reason: str) -> None:
        """Hand an unstarted job back; JobClosed if this machine didn't hold it."""
        ...


class Engine(Protocol):
    """Executor of attempts. It must outlive the daemon: nothing ends because the daemon does."""

    @property
    def inherited(self) -> Mapping[str, str]:
        """Variables of the daemon's own environment that every run gets."""
        ...

    async def start(
        self, launch: Launch, record: Callable[[Identity], Awaitable[None]]
    ) -> None:
        """Start an attempt.

        `record` is awaited with the attempt's identity before the command can run. If it raises, is cancelled, or the
        daemon dies in it, the command never runs. Returns when the command may run. From then on the attempt's
        secrets are known, so that its texts can be redacted.

        Raises:
            RunError: It can't run: SpawnFailed, SecretUnavailable, WorkspaceFailed.
        """
        ...

    def weakness(self, isolation: Isolation) -> str:
        """Return the reason why an isolation doesn't protect the rest of this machine, in words; empty if it does."""
        ...

    async def recall(self, process: Identity, folder: Path) -> bool:
        """Load the secrets of an attempt that another daemon started. Return False if they are lost."""
        ...

    def forget(self, folder: Path) -> None:
        """Forget the secrets of an attempt that has been concluded. May be repeated."""
        ...

    def queue_timeout_s(self, process: Identity) -> float:
        """Return the longest time from an attempt's start to its command's beginning (seconds); 0 for no limit."""
        ...

    async def permit(self, process: Identity, folder: Path, left_s: float) -> None:
        """Let an attempt that has not begun begin within a time (seconds; inf for any), and not later.

        A new call replaces the one before. Nothing for an engine whose attempts begin with their start.

        Raises:
            RunError: It can't be stored; the permission before it expires.
        """
        ...

    async def withdraw(self, process: Identity, folder: Path) -> bool:
        """Take an attempt back if it has not begun; return whether it never will."""
        ...

    async def has_begun(self, process: Identity, folder: Path) -> bool:
        """Return whether an attempt has begun, whatever its engine has told so far; True if nobody can tell now."""
        ...

    def waits(self, process: Identity) -> bool:
        """Return whether an attempt waits in its engine's queue, as far as is known: then nobody has to observe it.

        False also for an engine that doesn't tell of many at once. It stays True until `until_told` returns.
        """
        ...

    async def until_told(self, engine: str) -> None:
        """Wait until an engine by its name has said something new about attempts that wait in its queue.

        One caller at a time for each engine that an attempt waits in. It is that caller who makes the engine ask.
        """
        ...

    async def until_begun(self, process: Identity, folder: Path) -> int | None:
        """Wait until an attempt's command has begun, or the attempt has ended.

        Returns the stamp of its beginning (nanoseconds since the epoch), or None where it begins with its start. The
        limits of an attempt count from there. Until then only `queue_timeout_s` counts.
        """
        ...

    async def observe(
        self, process: Identity, folder: Path
    ) -> Exit | NeverStarted | Unreachable:
        """Wait for the end of an attempt, whichever daemon started it. Return at once if it has ended.

        `Unreachable` says that the engine has asked once more, and got no answer. It is no end: whoever asked asks again.
        """
        ...

    def describe(self, process: Identity) -> str:
        """Return where an attempt is and what it waits for, in words; empty for a process of this machine."""
        ...

    def has_ended(self, process: Identity) -> bool:
        """Return whether an attempt has ended, so that `observe` returns soon."""
        ...

    async def stop(self, process: Identity, grace_s: float) -> bool:
        """End a running attempt, gracefully for `grace_s` seconds. Return True if force was needed.

        It returns in bounded time, even if the attempt can't be ended; then its end is never observed. An engine
        that ends its attempts itself, such as a batch system, returns when their end is known.
        """
        ...

    def usage(self, folder: Path) -> Usage | None:
        """Return the resources that an ended attempt used, before it is cleared; None if they are unknown."""
        ...

    async def clear(self, process: Identity, folder: Path) -> Cleared:
        """End everything that an attempt left behind, wherever it is. May be repeated.

        The attempt has ended, or was given up. It returns in bounded time, even if something can't be ended.
        """
        ...
