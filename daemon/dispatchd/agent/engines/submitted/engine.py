"""Attempts on an engine that executes scripts: each recorded under an id of ours, then submitted.

Comes from `chosen.py`; a start continues in `start.py`. What the engine says of a start decides, once its script has
ended; what it doesn't know is decided by the claim (`start_claims.py`); while it is silent nothing is decided.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, evolve, field

from dispatchd.agent.domain.executions.identities import Submitted
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.port import Executor, Found, State
from dispatchd.agent.engines.start_claims import Claim, Files, remove
from dispatchd.agent.engines.starts import Supplier
from dispatchd.agent.engines.submitted.ends import (
    KILLED,
    came_late,
    ended,
    is_second,
    lost,
    unheard,
)
from dispatchd.agent.engines.submitted.script import GRACE_S
from dispatchd.agent.engines.submitted.site import Site, order_stop
from dispatchd.agent.engines.submitted.start import Starter
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.protocol.outcome import (
    Cleared,
    Exit,
    FailureCause,
    NeverStarted,
    Unreachable,
)

_STOP_AGAIN_S: Final = 10.0
"""Time between two orders to end a run (seconds): an answer doesn't say what came of one."""

_SOON_S: Final = 1.0
"""Shortest time between two questions about a start (seconds); each further one takes half as long again."""

_MISSES: Final = 2
"""Answers in a row that a start isn't there before that counts (count): Dagu says it of a file too that it can't read."""

_LEAVES_WITHIN_S: Final = 60.0
"""Longest time from the end of a start at its engine to the exit code of its script (seconds), which is ended meanwhile."""


@define
class _Followed:
    """Start that somebody waits for."""

    found: Found | None = field(default=None, init=False)
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

    def see(self, found: Found | None, longest_s: float) -> None:
        """Note what a question was answered with, and when to ask again."""
        is_news = found is None or found != self.found
        self.misses = self.misses + 1 if found is None else 0
        self.found = found or self.found
        is_soon = is_news or self.is_stopping or self.over_at is not None
        self.pause_s = _SOON_S if is_soon else min(1.5 * self.pause_s, longest_s)

    async def until_due(self) -> None:
        """Wait until the next question is due, or somebody is in a hurry."""
        with anyio.move_on_after(self.pause_s):
            await self.hurry.wait()
        self.hurry = anyio.Event()


@define
class SubmittedEngine:
    """Runs attempts by an `Executor`. `identity` returns that of a start from its id and its limit (seconds)."""

    queue_timeout_s: float
    _site: Site
    _supplier: Supplier
    _owned: Callable[[], set[str]]
    """Returns the ids of all starts that running records own."""
    _identity: Callable[[str, float], Submitted]
    _starter: Starter = field(init=False)
    _followed: dict[str, _Followed] = field(factory=dict, init=False)
    _silence: Unreachable | None = field(default=None, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_starter.default
    def _new_starter(self) -> Starter:
        return Starter(self._site, self._identity)

    @property
    def executor(self) -> Executor:
        """The engine's own calls."""
        return self._site.executor

    def through(self, executor: Executor) -> "SubmittedEngine":
        """Return an engine that does all the same by other calls."""
        return evolve(self, site=evolve(self._site, executor=executor))

    async def start(
        self, launch: Launch, record: Callable[[Submitted], Awaitable[None]]
    ) -> None:
        """Start an attempt: `record` is awaited with its identity before it is submitted."""
        env = await self._supplier.supply(launch)
        await self._starter.start(launch, env, record)

    async def recall(self, process: Submitted, folder: Path) -> bool:
        """Return whether the secrets of an attempt are known, or it has none."""
        if self._supplier.knows(folder):
            return True
        return not await self._site.had_secrets(process.name, folder)

    async def permit(self, process: Submitted, folder: Path, left_s: float) -> None:
        """Let a start that has not begun begin within a time (seconds), and not later: its script looks at the clock.

        Raises:
            SpawnFailed: The disk refuses it; the permission before it expires.
        """
        await self._site.permit(
            process.name, folder, left_s, by=self._site.words.engine
        )

    async def withdraw(self, process: Submitted, folder: Path) -> bool:
        """Take a start back if it has not begun; return whether it never will."""
        if not await self._site.is_taken_back(process.name, folder):
            return False
        await self._cancel(process)
        self._of(process).hurry.set()
        return True

    async def has_begun(self, process: Submitted, folder: Path) -> bool:
        """Return whether a script has its claim, or nobody can read that now."""
        begun = self._of(process).begun
        return await self._site.has_begun(process.name, folder, begun)

    async def until_begun(self, process: Submitted, folder: Path) -> int | None:
        """Wait until a script has begun, or has ended. Return the stamp of its claim."""
        followed = self._of(process)
        await followed.begun.wait()
        return await self._site.until_claimed(process.name, folder, followed.ended)

    async def observe(
        self, process: Submitted, folder: Path
    ) -> Exit | NeverStarted | Unreachable:
        """Wait for the end of a start, or for another silence of its engine."""
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
                followed.pause_s = self._site.poll_s
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
        self, process: Submitted, files: Files, followed: _Followed
    ) -> Exit | NeverStarted | Unreachable | None:
        """Return how a start has ended; None if it continues, or nobody knows.

        Raises:
            OSError: Its files can't be used now.
        """
        claim = await to_thread.run_sync(lambda: files.claim)
        if claim is Claim.DAEMON:
            await self._cancel(process)
            return NeverStarted()
        if claim is Claim.JOB:
            followed.begun.set()
        try:
            found = await self._site.executor.find(process.name)
        except (EngineSilent, EngineRefused) as error:
            return await self._unheard(process, files, followed, error)
        self._silence = None
        followed.see(found, self._site.poll_s)
        if found is None:
            if followed.misses < _MISSES:
                return None
            said = f"{self._site.words.engine} doesn't know run {process.name}"
            return await self._forgotten(process, files, followed, said)
        if found.state is not State.ENDED:
            return None
        return await self._final(process, found, files, followed)

    async def _unheard(
        self,
        process: Submitted,
        files: Files,
        followed: _Followed,
        error: EngineSilent | EngineRefused,
    ) -> Exit | Unreachable:
        """Return that nothing is decided, unless its script has left its exit code, and nobody should or will say more."""
        followed.pause_s = min(max(_SOON_S, 1.5 * followed.pause_s), self._site.poll_s)
        is_refused = isinstance(error, EngineRefused)
        if followed.is_stopping or is_refused:
            followed.pause_s = _SOON_S
            code = await to_thread.run_sync(lambda: files.exit_code)
            if code is not None or await self._site.is_lost(
                files, process.limit_s, in_time=not is_refused
            ):
                return unheard(self._site.words, process.name, code, refused=is_refused)
        since = self._site.now() if self._silence is None else self._silence.since
        self._silence = Unreachable(str(error), since)
        return self._silence

    async def _final(
        self, process: Submitted, found: Found, files: Files, followed: _Followed
    ) -> Exit | NeverStarted | None:
        """Return how a start has ended that is over for its engine; None while its script may still run."""
        words, name = self._site.words, process.name
        begun = await to_thread.run_sync(lambda: files.claim) is Claim.JOB
        claim = Claim.JOB if begun else await to_thread.run_sync(files.take)
        if claim is Claim.DAEMON:
            if came_late(found):
                return NeverStarted()
            cause = FailureCause.CANCELLED if found.is_stopped else None
            asked = "" if found.is_stopped else words.unbegun
            note = f"{words.explained(name, found)}; its script never began.{asked}"
            return Exit(code=None, cause=cause, note=note)
        legacy = await to_thread.run_sync(lambda: files.legacy)
        if claim is Claim.JOB and legacy.code is None and is_second(found):
            # The engine started it twice: the first script may still run.
            said = f"{words.engine} has started run {name} twice"
            return await self._forgotten(process, files, followed, said)
        end = (
            ended(words, name, found, legacy, is_stopping=followed.is_stopping)
            if claim is Claim.JOB
            else None
        )
        if end is not None and (legacy.code is not None or legacy.has_left):
            return end
        # Whatever the engine says of it, a script leaves its code: until then it may run, and it ends its command alone.
        now = self._site.time.monotonic()
        if followed.over_at is None:
            followed.over_at, followed.pause_s = now, _SOON_S
            await to_thread.run_sync(order_stop, files, GRACE_S)
        is_late = now - followed.over_at > _LEAVES_WITHIN_S
        return end or lost(words, name, found) if is_late or legacy.has_left else None

    async def _forgotten(
        self, process: Submitted, files: Files, followed: _Followed, said: str
    ) -> Exit | NeverStarted | None:
        """Return how a start has ended of which its engine says nothing: it may run all the same, or come to be there.

        Whoever has the claim has decided whether it ever begins.
        """
        code = await to_thread.run_sync(lambda: files.exit_code)
        if code is not None:
            note = f"{said}; the exit code is the one that its script left."
            return Exit(code=code, note=note)
        if await to_thread.run_sync(files.take) is Claim.DAEMON:
            self._log.warning("engine_start_taken_back", name=process.name)
            return NeverStarted()
        followed.begun.set()
        followed.pause_s = self._site.poll_s
        if await to_thread.run_sync(lambda: files.has_left):
            return Exit(code=None, note=f"{said}, and its script was killed.")
        stamp = await to_thread.run_sync(lambda: files.begun_ns)
        if self._site.may_run(stamp, process.limit_s):
            return None
        return Exit(code=None, note=f"{said}, and it left no exit code in its time.")

    async def _cancel(self, process: Submitted) -> None:
        """Order the end of a start, wherever it is."""
        try:
            await self._site.executor.stop(process.name)
        except EngineRefused:
            # It is over, or not there: whoever observes it learns that.
            pass
        except EngineSilent as error:
            self._log.warning(
                "engine_stop_failed", name=process.name, reason=str(error)
            )

    def has_ended(self, process: Submitted) -> bool:
        """Return whether a start's end is known."""
        return self._of(process).ended.is_set()

    async def stop(self, process: Submitted, grace_s: float) -> bool:
        """End a start, and return when its end is known: whether SIGKILL was needed."""
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

    async def _order_stop(
        self, process: Submitted, folder: Path, grace_s: float
    ) -> None:
        """See to it that a script doesn't begin, or else that its script ends it."""
        files = self._site.files(process.name, folder)
        try:
            if await to_thread.run_sync(files.take) is not Claim.DAEMON:
                await to_thread.run_sync(order_stop, files, grace_s)
        except OSError as error:
            self._log.error("attempt_unreadable", name=process.name, error=str(error))

    async def clear(self, process: Submitted, folder: Path) -> Cleared:
        """Remove what the engine has left in its files; its script has ended the processes."""
        await self._site.clear(process.name, folder)
        return Cleared()

    def forget(self, folder: Path) -> None:
        """Forget the starts of an attempt that has been concluded."""
        for name, followed in list(self._followed.items()):
            if followed.folder == folder:
                del self._followed[name]

    def describe(self, process: Submitted) -> str:
        """Return where a start is, in words."""
        followed = self._followed.get(process.name)
        found, words = None if followed is None else followed.found, self._site.words
        said = f"{words.execution} {process.name}, of which there is no news yet"
        if found is not None:
            said = words.described(process.name, found)
        if self._silence is None:
            return said
        return f"{said}; {words.controller} doesn't answer: {self._silence.reason}"

    async def orphans(self) -> frozenset[str]:
        """Return the ids of starts that wait or run at the engine, and that no record owns.

        Raises:
            EngineSilent: Nobody knows.
            EngineRefused: The engine doesn't say it to this machine.
        """
        # Before the owners: what is prepared now isn't listed yet.
        listed = frozenset(await self._site.executor.names(self._site.prefix))
        return listed - self._starter.preparing - self._owned()

    async def tidy(self) -> None:
        """Remove the files of starts that nobody owns, and of ended ones, with their secrets; end what still runs of them.

        A start whose files aren't here may be another machine's, with the same names of host and folder, and is left alone.
        """
        names = await to_thread.run_sync(self._site.names)
        stale = names - self._starter.preparing - self._owned()
        if not stale:
            return
        try:
            orphans = await self.orphans()
        except (EngineSilent, EngineRefused) as error:
            self._log.info("engine_not_tidied", reason=str(error))
            orphans = frozenset(stale)
        for name in stale:
            if name not in orphans:
                await to_thread.run_sync(self._site.remove_start, name)
                continue
            self._log.warning("engine_start_without_owner", name=name)
            await to_thread.run_sync(self._give_up, name)
            with suppress(EngineSilent, EngineRefused):
                await self._site.executor.stop(name)

    def _give_up(self, name: str) -> None:
        """Take a start back that nobody owns, or order its script to end. Blocks."""
        files = Files(self._site.link(name))
        with suppress(OSError):
            files.remove_launch()
            if files.take() is not Claim.DAEMON:
                order_stop(files, GRACE_S)

    def _of(self, process: Submitted) -> _Followed:
        return self._followed.setdefault(process.name, _Followed())
