"""The Dagu engine: attempts as runs of a DAG, each recorded under an id of ours, then enqueued.

Comes from `chosen.py`; a start continues in `start.py`. What the server says of a run decides, once its script has
ended; what it doesn't know is decided by the claim (`claims.py`); while it is silent nothing is decided.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Self

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.config.keys import EngineEntry
from dispatchd.agent.domain.job import DagRun
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.claims import Claim, Files, remove
from dispatchd.agent.engines.dagu.script import GRACE_S
from dispatchd.agent.engines.dagu.site import Home, Site, order_stop
from dispatchd.agent.engines.dagu.start import Starter
from dispatchd.agent.engines.dagu.states import KILLED, Run, ended, lost
from dispatchd.agent.engines.starts import Supplier
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
"""Time between two orders to end a run (seconds): Dagu's answer doesn't say what came of one."""

_SOON_S: Final = 1.0
"""Shortest time between two questions about a run (seconds); each further one takes half as long again."""

_MISSES: Final = 2
"""Answers in a row that a run isn't there before that counts (count): Dagu says it of a file too that it can't read."""

_LEAVES_WITHIN_S: Final = 60.0
"""Longest time from the end of a run at Dagu to the exit code of its script (seconds), which is ended meanwhile."""

_MARGIN_S: Final = 900.0
"""Time after its limit at which a run is lost that has begun and that Dagu has forgotten (seconds)."""


@define
class _Followed:
    """Run that somebody waits for."""

    run: Run | None = field(default=None, init=False)
    """The last news of it."""
    pause_s: float = field(default=0.0, init=False)
    misses: int = field(default=0, init=False)
    over_at: float | None = field(default=None, init=False)
    """Time since which its script should have left (seconds)."""
    is_stopping: bool = field(default=False, init=False)
    hurry: anyio.Event = field(factory=anyio.Event, init=False)
    begun: anyio.Event = field(factory=anyio.Event, init=False)
    ended: anyio.Event = field(factory=anyio.Event, init=False)
    escalated: bool = field(default=False, init=False)
    folder: Path | None = field(default=None, init=False)

    def see(self, run: Run | None, longest_s: float) -> None:
        """Note what a question was answered with, and when to ask again."""
        is_news = run is None or self.run is None or run.status != self.run.status
        self.misses = self.misses + 1 if run is None else 0
        self.run = run or self.run
        is_soon = is_news or self.is_stopping or self.over_at is not None
        self.pause_s = _SOON_S if is_soon else min(1.5 * self.pause_s, longest_s)

    async def until_due(self) -> None:
        """Wait until the next question is due, or somebody is in a hurry."""
        with anyio.move_on_after(self.pause_s):
            await self.hurry.wait()
        self.hurry = anyio.Event()


@define
class DaguEngine:
    """Runs attempts as runs of one DAG."""

    settings: EngineEntry
    _site: Site
    _supplier: Supplier
    _owned: Callable[[], set[str]]
    """Returns the ids of all runs that running records own."""
    _starter: Starter = field(init=False)
    _followed: dict[str, _Followed] = field(factory=dict, init=False)
    _silence: Unreachable | None = field(default=None, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_starter.default
    def _new_starter(self) -> Starter:
        return Starter(self._site)

    @classmethod
    def of(
        cls,
        name: str,
        settings: EngineEntry,
        home: Home,
        supplier: Supplier,
        owned: Callable[[], set[str]],
        time: TimeSource,
    ) -> Self:
        """Return the engine of a daemon, by its name in the configuration."""
        site = Site.of(name, settings, home, supplier.environment, time)
        return cls(settings, site, supplier, owned)

    async def start(
        self, launch: Launch, record: Callable[[DagRun], Awaitable[None]]
    ) -> None:
        """Start an attempt: `record` is awaited with its identity before the run is enqueued."""
        env = await self._supplier.supply(launch)
        await self._starter.start(launch, env, record)

    async def recall(self, process: DagRun, folder: Path) -> bool:
        """Return whether the secrets of an attempt are known, or it has none."""
        if self._supplier.knows(folder):
            return True
        return not await self._site.had_secrets(process.name, folder)

    async def permit(self, process: DagRun, folder: Path, left_s: float) -> None:
        """Let a run that has not begun begin within a time (seconds), and not later: its script looks at the clock.

        Raises:
            SpawnFailed: The disk refuses it; the permission before it expires.
        """
        await self._site.permit(process.name, folder, left_s, by="dagu")

    async def withdraw(self, process: DagRun, folder: Path) -> None:
        """Take a run back if it has not begun."""
        if await self._site.is_taken_back(process.name, folder):
            await self._cancel(process)
            self._of(process).hurry.set()

    async def until_begun(self, process: DagRun, folder: Path) -> int | None:
        """Wait until a run's script has begun, or the run has ended. Return the stamp of its claim."""
        await self._of(process).begun.wait()
        return await self._site.begun_ns(process.name, folder)

    async def observe(
        self, process: DagRun, folder: Path
    ) -> Exit | NeverStarted | Unreachable:
        """Wait for the end of a run, or for another silence of its server."""
        followed, files = self._of(process), self._site.files(process.name, folder)
        followed.folder = folder
        while True:
            await followed.until_due()
            try:
                end = await self._look(process, files, followed)
            except OSError as error:
                self._log.error(
                    "attempt_unreadable", name=process.name, error=str(error)
                )
                followed.pause_s = self._poll_s
                continue
            if end is not None and not isinstance(end, Unreachable):
                followed.escalated = isinstance(end, Exit) and (
                    end.escalated or (followed.is_stopping and end.code == KILLED)
                )
                followed.begun.set()
                followed.ended.set()
            if isinstance(end, NeverStarted):
                # Nothing will be cleared.
                await to_thread.run_sync(remove, self._site.link(process.name))
            if end is not None:
                return end

    async def _look(
        self, process: DagRun, files: Files, followed: _Followed
    ) -> Exit | NeverStarted | Unreachable | None:
        """Return how a run has ended; None if it continues, or nobody knows.

        Raises:
            OSError: Its files can't be used now.
        """
        match await to_thread.run_sync(lambda: files.claim):
            case Claim.DAEMON:
                await self._cancel(process)
                return NeverStarted()
            case Claim.JOB:
                followed.begun.set()
            case Claim.NOBODY:
                pass
        try:
            run = await self._site.client.find(process.dag, process.name)
        except (EngineSilent, EngineRefused) as error:
            return await self._unheard(process, files, followed, error)
        self._silence = None
        followed.see(run, self._poll_s)
        if run is None:
            if followed.misses < _MISSES:
                return None
            return await self._forgotten(process, files, followed)
        if not run.is_final:
            return None
        return await self._final(run, files, followed)

    async def _unheard(
        self,
        process: DagRun,
        files: Files,
        followed: _Followed,
        error: EngineSilent | EngineRefused,
    ) -> Exit | Unreachable:
        """Return that nothing is decided, unless its script has left its exit code, and nobody should or will say more."""
        followed.pause_s = min(max(_SOON_S, 1.5 * followed.pause_s), self._poll_s)
        is_refused = isinstance(error, EngineRefused)
        if followed.is_stopping or is_refused:
            followed.pause_s = _SOON_S
            code = await to_thread.run_sync(lambda: files.exit_code)
            if code is not None:
                why = "refuses this machine" if is_refused else "doesn't answer"
                note = f"Dagu run {process.name}: its server {why}; the exit code is the one that its script left."
                return Exit(code=code, note=note)
        since = self._site.now() if self._silence is None else self._silence.since
        self._silence = Unreachable(str(error), since)
        return self._silence

    @property
    def _poll_s(self) -> float:
        return self.settings.poll_s

    async def _final(
        self, run: Run, files: Files, followed: _Followed
    ) -> Exit | NeverStarted | None:
        """Return how a run has ended that is over for Dagu; None while its script may still run."""
        begun = await to_thread.run_sync(lambda: files.claim) is Claim.JOB
        claim = Claim.JOB if begun else await to_thread.run_sync(files.take)
        if claim is Claim.DAEMON:
            if run.came_late:
                return NeverStarted()
            cause = FailureCause.CANCELLED if run.is_stopped else None
            asked = "" if run.is_stopped else " Does its DAG run it?"
            note = f"{run.explained()}; its script never began.{asked}"
            return Exit(code=None, cause=cause, note=note)
        code = await to_thread.run_sync(lambda: files.exit_code)
        end = ended(run, code) if claim is Claim.JOB else None
        if end is not None:
            return end
        # A run that Dagu has given up may still run; its script ends it without Dagu.
        now = self._site.time.monotonic()
        if followed.over_at is None:
            followed.over_at, followed.pause_s = now, _SOON_S
            await to_thread.run_sync(order_stop, files, GRACE_S)
        return lost(run) if now - followed.over_at > _LEAVES_WITHIN_S else None

    async def _forgotten(
        self, process: DagRun, files: Files, followed: _Followed
    ) -> Exit | NeverStarted | None:
        """Return how a run has ended that its server doesn't know: it may run all the same, or come to be there.

        Whoever has the claim has decided whether it ever begins.
        """
        said = f"Dagu doesn't know run {process.name}"
        code = await to_thread.run_sync(lambda: files.exit_code)
        if code is not None:
            note = f"{said}; the exit code is the one that its script left."
            return Exit(code=code, note=note)
        if await to_thread.run_sync(files.take) is Claim.DAEMON:
            self._log.warning("dagu_run_taken_back", name=process.name)
            return NeverStarted()
        followed.begun.set()
        followed.pause_s = self._poll_s
        stamp = await to_thread.run_sync(lambda: files.begun_ns)
        left_s = 0.0
        if stamp is not None:
            left_s = stamp / 1e9 + process.limit_s + _MARGIN_S - self._site.time.wall()
        if left_s > 0:
            return None
        return Exit(code=None, note=f"{said}, and it left no exit code in its time.")

    async def _cancel(self, process: DagRun) -> None:
        """Order the end of a run, wherever it is."""
        client = self._site.client
        try:
            try:
                await client.stop(process.dag, process.name)
            except EngineRefused:
                await client.dequeue(process.dag, process.name)
        except EngineRefused:
            # It is over, or not there: whoever observes it learns that.
            pass
        except EngineSilent as error:
            self._log.warning("dagu_stop_failed", name=process.name, reason=str(error))

    def has_ended(self, process: DagRun) -> bool:
        """Return whether a run's end is known."""
        return self._of(process).ended.is_set()

    async def stop(self, process: DagRun, grace_s: float) -> bool:
        """End a run, and return when its end is known: whether SIGKILL was needed."""
        followed = self._of(process)
        followed.is_stopping = True
        while not followed.ended.is_set():
            if followed.folder is not None:
                await self._order_stop(process, followed.folder, grace_s)
            followed.hurry.set()
            await self._cancel(process)
            followed.hurry.set()
            with anyio.move_on_after(_STOP_AGAIN_S):
                await followed.ended.wait()
        return followed.escalated

    async def _order_stop(self, process: DagRun, folder: Path, grace_s: float) -> None:
        """See to it that a run doesn't begin, or else that its script ends it."""
        files = self._site.files(process.name, folder)
        try:
            if await to_thread.run_sync(files.take) is not Claim.DAEMON:
                await to_thread.run_sync(order_stop, files, grace_s)
        except OSError as error:
            self._log.error("attempt_unreadable", name=process.name, error=str(error))

    async def clear(self, process: DagRun, folder: Path) -> Cleared:
        """Remove what the engine has left in its files; its script has ended the processes."""
        files = self._site.files(process.name, folder)
        await to_thread.run_sync(files.remove_launch)
        await to_thread.run_sync(remove, self._site.link(process.name))
        return Cleared()

    def forget(self, folder: Path) -> None:
        """Forget the runs of an attempt that has been concluded."""
        for name, followed in list(self._followed.items()):
            if followed.folder == folder:
                del self._followed[name]

    def describe(self, process: DagRun) -> str:
        """Return where a run is, in words."""
        followed = self._followed.get(process.name)
        run = None if followed is None else followed.run
        words = f"Dagu run {process.name}, of which there is no news yet"
        if run is not None:
            words = run.described()
        if self._silence is None:
            return words
        return f"{words}; the server doesn't answer: {self._silence.reason}"

    async def tidy(self) -> None:
        """Remove the files of starts that nobody owns, and of ended ones, with their secrets."""
        names = await to_thread.run_sync(self._site.names)
        for name in names - self._starter.preparing - self._owned():
            await to_thread.run_sync(self._site.remove_start, name)

    def _of(self, process: DagRun) -> _Followed:
        return self._followed.setdefault(process.name, _Followed())
