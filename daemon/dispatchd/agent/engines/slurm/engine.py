"""The Slurm engine: attempts as batch jobs, each prepared under a name of ours, recorded, then let go.

Comes from `chosen.py`; a start continues in `submit.py`. What the controller says of a job decides; what it doesn't
know is decided by the claim (`start_claims.py`); while it is silent nothing is decided.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Self

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.domain.executions.identities import BatchJob
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.slurm.listing import Listing
from dispatchd.agent.engines.slurm.site import Site
from dispatchd.agent.engines.slurm.states import WAITING, Row, ended
from dispatchd.agent.engines.slurm.submit import Submitter
from dispatchd.agent.engines.start_claims import Claim, Files, remove
from dispatchd.agent.engines.starts import Supplier, installation_of
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.linux.clock import TimeSource
from dispatchd.protocol.outcome import (
    Cleared,
    Exit,
    FailureCause,
    NeverStarted,
    Unreachable,
)

_STOP_AGAIN_S: Final = 10.0
"""Time between two orders to end a job (seconds): scancel says nothing about what came of one."""


@define
class _Followed:
    """Job that somebody waits for."""

    seen_at: float
    """Time of the listing that was looked at last, or of the first question about the job (seconds)."""
    row: Row | None = None
    """The last news of it."""
    begun: anyio.Event = field(factory=anyio.Event)
    ended: anyio.Event = field(factory=anyio.Event)
    escalated: bool = False
    folder: Path | None = None


@define
class SlurmEngine:
    """Runs attempts as batch jobs of one cluster."""

    settings: EngineEntry
    _site: Site
    _supplier: Supplier
    _owned: Callable[[], set[str]]
    """Returns the names of all jobs that running records own."""
    _submitter: Submitter = field(init=False)
    _followed: dict[str, _Followed] = field(factory=dict, init=False)
    _queued: dict[str, float] = field(factory=dict, init=False)
    """Jobs in the cluster's queue that nobody observes, by name: the time from which a listing tells of each (seconds)."""
    _queued_at: float = field(default=float("-inf"), init=False)
    """The latest of these times."""
    _told: Listing = field(factory=lambda: Listing(asked_at=float("-inf")), init=False)
    """The last listing of which `until_told` has told."""
    _silence: Unreachable | None = field(default=None, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_submitter.default
    def _new_submitter(self) -> Submitter:
        return Submitter(self._site)

    @classmethod
    def of(
        cls,
        name: str,
        settings: EngineEntry,
        state_folder: Path,
        supplier: Supplier,
        owned: Callable[[], set[str]],
        time: TimeSource,
    ) -> Self:
        """Return the engine of a daemon, by its name in the configuration."""
        site = Site.of(
            *(name, settings, state_folder, supplier.environment, time),
            installation=installation_of(state_folder),
        )
        return cls(settings, site, supplier, owned)

    async def start(
        self, launch: Launch, record: Callable[[BatchJob], Awaitable[None]]
    ) -> None:
        """Start an attempt: `record` is awaited with its identity before the job is released."""
        env = await self._supplier.supply(launch)
        await self._submitter.start(launch, env, record)
        self._site.listings.note_start()

    async def recall(self, process: BatchJob, folder: Path) -> bool:
        """Return whether the secrets of an attempt are known, or it has none."""
        if self._supplier.knows(folder):
            return True
        return not await self._site.had_secrets(process.name, folder)

    async def permit(self, process: BatchJob, folder: Path, left_s: float) -> None:
        """Let a job that has not begun begin within a time (seconds), and not later: its script looks at the clock.

        Raises:
            SpawnFailed: The disk refuses it; the permission before it expires.
        """
        await self._site.permit(process.name, folder, left_s, by="sbatch")

    async def withdraw(self, process: BatchJob, folder: Path) -> bool:
        """Take a job back if it has not begun; return whether it never will."""
        if not await self._site.is_taken_back(process.name, folder):
            return False
        await self._cancel(process.name)
        self._site.listings.hurry()
        return True

    async def has_begun(self, process: BatchJob, folder: Path) -> bool:
        """Return whether a job's script has its claim, or nobody can read that now."""
        begun = self._of(process).begun
        return await self._site.has_begun(process.name, folder, begun)

    def waits(self, process: BatchJob) -> bool:
        """Return whether a job is in the cluster's queue, as far as is known, and nobody observes or releases it."""
        if process.name in self._followed or process.name in self._submitter.preparing:
            return False
        listings = self._site.listings
        since = self._queued.get(process.name)
        if since is None:
            self._queued_at = since = self._site.time.monotonic()
            self._queued[process.name] = since
        listing = listings.last
        if listing.silence or listing.asked_at <= since:
            return True
        row = listing.row(process.name, process.job_id)
        return row is not None and row.is_queued

    async def until_told(self) -> None:
        """Wait until a listing says something else of the jobs in the queue, or the first thing of one of them."""
        before = heard = self._told
        while heard is before or self._is_old(heard):
            heard = await self._site.listings.after(heard.asked_at)
            if heard.silence and self._silence is None:
                self._log.warning("engine_unreachable", reason=heard.silence)
            if heard.silence:
                self._unreachable(heard.silence)
            else:
                self._silence = None
        self._told = heard

    def _is_old(self, listing: Listing) -> bool:
        """Return whether a listing says nothing that `until_told` has not told."""
        told = self._told
        is_first = told.asked_at <= self._queued_at < listing.asked_at
        return bool(listing.silence) or (listing.rows is told.rows and not is_first)

    async def until_begun(self, process: BatchJob, folder: Path) -> int | None:
        """Wait until a job's script has begun, or the job has ended. Return the stamp of its claim.

        A job that runs for the controller may still be in its node's prolog.
        """
        followed = self._of(process)
        await followed.begun.wait()
        return await self._site.until_claimed(process.name, folder, followed.ended)

    async def observe(
        self, process: BatchJob, folder: Path
    ) -> Exit | NeverStarted | Unreachable:
        """Wait for the end of a job, or for another silence of the controller."""
        followed = self._of(process)
        followed.folder = folder
        while True:
            listing = await self._site.listings.news(
                process.name, process.job_id, followed.row, followed.seen_at
            )
            followed.seen_at = listing.asked_at
            if not listing.silence:
                self._silence = None
                end = await self._end(process, folder, listing)
            elif await self._never_begins(process, folder):
                # What turns up at the controller finds the claim.
                end = NeverStarted()
            else:
                return self._unreachable(listing.silence)
            if isinstance(end, NeverStarted):
                # Nothing will be cleared.
                await to_thread.run_sync(remove, self._site.link(process.name))
            if end is not None:
                followed.escalated = isinstance(end, Exit) and end.escalated
                followed.begun.set()
                followed.ended.set()
                return end

    def _unreachable(self, reason: str) -> Unreachable:
        since = self._site.now() if self._silence is None else self._silence.since
        self._silence = Unreachable(reason, since)
        return self._silence

    async def _never_begins(self, process: BatchJob, folder: Path) -> bool:
        """Return whether the daemon has taken a job back, whatever the controller says of it."""
        files = self._site.files(process.name, folder)
        try:
            return await to_thread.run_sync(lambda: files.claim) is Claim.DAEMON
        except OSError as error:
            self._log.error("attempt_unreadable", name=process.name, error=str(error))
            return False

    async def _end(
        self, process: BatchJob, folder: Path, listing: Listing
    ) -> Exit | NeverStarted | None:
        """Return how a job has ended, by a listing; None if it continues, or nobody knows."""
        followed, files = self._of(process), self._site.files(process.name, folder)
        row = followed.row = listing.row(process.name, process.job_id)
        try:
            if row is None or row.is_held:
                # One that is held was not released, or the controller has forgotten that it was.
                return await self._forgotten(process, files)
            if row.is_final:
                return await self._final(process, row, files)
            if row.state not in WAITING:
                followed.begun.set()
        except OSError as error:
            self._log.error("attempt_unreadable", name=process.name, error=str(error))
        return None

    async def _final(
        self, process: BatchJob, row: Row, files: Files
    ) -> Exit | NeverStarted | None:
        """Return how a job has ended that the controller calls over."""
        match await to_thread.run_sync(files.last_claim):
            case Claim.JOB:
                code = await to_thread.run_sync(lambda: files.exit_code)
                if row.is_given_up or (row.found_claimed and code is None):
                    # The controller knows nothing, or has started it twice: the first script may still run.
                    return await self._forgotten(process, files)
                return ended(row, code)
            case Claim.DAEMON:
                return NeverStarted()
            case Claim.NOBODY:
                # A node that the controller has given up may still come to it, while the next attempt runs.
                if await to_thread.run_sync(files.take) is Claim.JOB:
                    return None
                return self._never_began(row)

    def _never_began(self, row: Row) -> Exit | NeverStarted:
        """Return how a job has ended that the controller calls over, and whose script has claimed nothing."""
        if row.came_late:
            return NeverStarted()
        if row.is_cancelled:
            note = f"Slurm job {row.job_id} was cancelled before it began."
            return Exit(code=None, cause=FailureCause.CANCELLED, note=note)
        note = f"{row.described()}; its script never began: does the node see {self._site.folder}?"
        return Exit(code=None, note=note)

    async def _forgotten(
        self, process: BatchJob, files: Files
    ) -> Exit | NeverStarted | None:
        """Return how a job has ended of which the controller doesn't know that it was let go: it may run all the same.

        Whoever has the claim has decided whether it ever begins.
        """
        code = await to_thread.run_sync(lambda: files.exit_code)
        said = f"Slurm has forgotten job {process.job_id}"
        if code is not None:
            await self._cancel(process.name)
            note = f"{said}; the exit code is the one that its script left."
            return Exit(code=code, note=note)
        if await to_thread.run_sync(files.take) is Claim.DAEMON:
            self._log.warning("slurm_job_taken_back", name=process.name)
            # It may turn up later, and finds the claim then.
            await self._cancel(process.name)
            return NeverStarted()
        self._of(process).begun.set()
        stamp = await to_thread.run_sync(lambda: files.begun_ns)
        if self._site.may_run(stamp, process.limit_s):
            return None
        await self._cancel(process.name)
        return Exit(code=None, note=f"{said}, and it left no exit code in its time.")

    async def _cancel(self, name: str) -> None:
        try:
            await self._site.cancel(name)
        except (EngineSilent, EngineRefused) as error:
            self._log.warning("slurm_cancel_failed", name=name, reason=str(error))

    def has_ended(self, process: BatchJob) -> bool:
        """Return whether a job's end is known."""
        return self._of(process).ended.is_set()

    async def stop(self, process: BatchJob) -> bool:
        """End a job, and return when its end is known: whether Slurm needed SIGKILL."""
        followed = self._of(process)
        while not followed.ended.is_set():
            if followed.folder is not None:
                # A controller that is away, or forgets the order, could still let it begin.
                await self._site.is_taken_back(process.name, followed.folder)
            await self._cancel(process.name)
            self._site.listings.hurry()
            with anyio.move_on_after(_STOP_AGAIN_S):
                await followed.ended.wait()
        return followed.escalated

    async def clear(self, process: BatchJob, folder: Path) -> Cleared:
        """Remove what the engine has left in its files; Slurm has ended the processes."""
        await self._site.clear(process.name, folder)
        return Cleared()

    def forget(self, folder: Path) -> None:
        """Forget the jobs of an attempt that has been concluded."""
        for name, followed in list(self._followed.items()):
            if followed.folder == folder:
                del self._followed[name]

    def describe(self, process: BatchJob) -> str:
        """Return where a job is and what it waits for, in words."""
        followed = self._followed.get(process.name)
        listed = self._site.listings.last.row(process.name, process.job_id)
        row = listed if followed is None else followed.row
        words = (
            f"Slurm job {process.job_id}, of which there is no news yet"
            if row is None
            else row.described()
        )
        if self._silence is None:
            return words
        return f"{words}; the controller doesn't answer: {self._silence.reason}"

    async def tidy(self) -> None:
        """Cancel held jobs of ours that nobody owns: submissions whose daemon died, or whose answer was lost.

        The files of such starts, and of ended ones, are removed with their secrets.
        """
        names = await to_thread.run_sync(self._site.names)
        stale = names - self._submitter.preparing - self._owned()
        for name in stale:
            await to_thread.run_sync(self._site.remove_launch, name)
        try:
            for name in await self.orphans():
                self._log.warning("slurm_job_without_owner", name=name)
                await self._site.cancel(name, pending_only=True)
        except (EngineSilent, EngineRefused) as error:
            # The short ways stay: they say that these starts are this machine's.
            self._log.info("engine_not_tidied", reason=str(error))
            return
        for name in stale:
            await to_thread.run_sync(self._site.remove_start, name)

    async def orphans(self) -> frozenset[str]:
        """Return the names of held jobs of ours that no record owns.

        Raises:
            EngineSilent: Nobody knows.
        """
        listing = await self._site.listings.ask()
        if listing.silence:
            raise EngineSilent(listing.silence)
        held = {
            name
            for name, rows in listing.rows.items()
            if any(row.is_held for row in rows)
        }
        # After the listing: what is prepared now isn't in it yet.
        unowned = held - self._submitter.preparing - self._owned()
        here = self._site.is_here
        return frozenset(
            [name for name in unowned if await to_thread.run_sync(here, name)]
        )

    def _of(self, process: BatchJob) -> _Followed:
        """Return what is known of a job that somebody observes from now on: also what has been listed of it before."""
        followed = self._followed.get(process.name)
        if followed is None:
            seen_at = self._queued.pop(process.name, self._site.time.monotonic())
            followed = self._followed[process.name] = _Followed(seen_at)
        return followed
