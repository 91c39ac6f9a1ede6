"""A start: an id of ours, record, submit. Comes from `engine.py`.

The id is known before anything is asked, and an engine takes each once, so an answer that is lost is settled by another
question. What comes to be there after it was given up finds its attempt claimed.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.domain.executions.identities import Submitted
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.start_claims import remove
from dispatchd.agent.engines.submitted.script import launch_text
from dispatchd.agent.engines.submitted.site import Site
from dispatchd.errors import EngineRefused, EngineSilent, SpawnFailed

_LIMIT_MORE_S: Final = 120.0
"""Time that a start has beyond the daemon's own limit (seconds)."""

_SILENT_S: Final = 10.0
"""Longest pause after an engine's silence (seconds)."""

_TRIES: Final = 4
"""Most calls to submit a start (count); then whoever follows it takes it back."""


@define
class Starter:
    """Records starts, and submits them. `identity` returns that of a start from its id and its limit (seconds)."""

    _site: Site
    _identity: Callable[[str, float], Submitted]
    preparing: set[str] = field(factory=set, init=False)
    """Ids of starts that have no record yet."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def start(
        self,
        launch: Launch,
        env: Mapping[str, str],
        record: Callable[[Submitted], Awaitable[None]],
    ) -> None:
        """Record an attempt, and submit it.

        Raises:
            SpawnFailed: It can't be started.
        """
        run = self._identity(self._site.new_name(), launch.limit_s + _LIMIT_MORE_S)
        self.preparing.add(run.name)
        is_started = False
        try:
            await to_thread.run_sync(self._lay_out, run.name, launch, env)
            await self._until_answered(run)
            await record(run)
            await self._submit(run, launch)
            is_started = True
        finally:
            self.preparing.discard(run.name)
            if not is_started:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._undo, run.name, launch.folder)

    def _lay_out(self, name: str, launch: Launch, env: Mapping[str, str]) -> None:
        program = launch.command[0]
        try:
            text = launch_text(
                launch.command, env, launch.workspace, launch.output_file
            )
            has_secrets = bool(launch.secrets or launch.given)
            self._site.lay_out(name, launch.folder, text, has_secrets=has_secrets)
        except ValueError as error:
            raise SpawnFailed(
                command=program, reason=str(error), refused=True
            ) from error
        except OSError as error:
            reason = f"{launch.folder} can't be written: {error.strerror}"
            raise SpawnFailed(command=program, reason=reason) from error

    async def _until_answered(self, run: Submitted) -> None:
        """Wait until the engine answers this machine.

        Raises:
            SpawnFailed: It refuses.
        """
        pause_s = 1.0
        while True:
            try:
                await self._site.executor.find(run.name)
            except EngineRefused as error:
                raise SpawnFailed(
                    command=self._site.words.engine, reason=str(error)
                ) from error
            except EngineSilent as error:
                if pause_s == 1.0:
                    self._log.warning("engine_silent", name=run.name, reason=str(error))
            else:
                return
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _SILENT_S)

    async def _submit(self, run: Submitted, launch: Launch) -> None:
        """Submit a recorded start, once.

        Raises:
            SpawnFailed: The engine refuses it, and it will never begin.
        """
        is_taken = False
        for pause_s in range(_TRIES):
            await anyio.sleep(pause_s)
            refused: EngineRefused | None = None
            try:
                await self._site.executor.submit(run.name, self._site.script(run.name))
                is_taken = True
            except EngineRefused as error:
                refused = error
            except EngineSilent as error:
                self._log.warning(
                    "engine_answer_lost", name=run.name, reason=str(error)
                )
            # A repeated call may be refused because the first one has arrived.
            if (not refused or pause_s) and await self._is_found(run):
                return
            if refused:
                await self._give_up(run, launch, str(refused))
                return
        self._log.warning("engine_start_not_found", name=run.name)
        if is_taken:
            words = self._site.words
            reason = f"{words.controller} takes runs, and doesn't find them under their names"
            if words.unfound:
                reason += f": {words.unfound}"
            await self._give_up(run, launch, reason)

    async def _is_found(self, run: Submitted) -> bool:
        try:
            return await self._site.executor.find(run.name) is not None
        except (EngineSilent, EngineRefused) as error:
            self._log.warning("engine_silent", name=run.name, reason=str(error))
            return False

    async def _give_up(self, run: Submitted, launch: Launch, reason: str) -> None:
        if await self._site.is_taken_back(run.name, launch.folder):
            raise SpawnFailed(command=self._site.words.engine, reason=reason)

    def _undo(self, name: str, folder: Path) -> None:
        """Take a start back that is not wanted: what comes to be in the queue finds its attempt claimed. Blocks."""
        try:
            self._site.files(name, folder).take()
            remove(self._site.link(name))
        except OSError as error:
            self._log.warning("engine_start_left", name=name, error=str(error))
