"""A start: an id of ours, record, enqueue. Comes from `engine.py`.

The id is known before anything is asked, and a server takes each once, so an answer that is lost is settled by another
question. What comes to be there after it was given up finds its attempt claimed.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.domain.job import DagRun
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.claims import remove
from dispatchd.agent.engines.dagu.script import launch_text
from dispatchd.agent.engines.dagu.site import Site
from dispatchd.errors import EngineRefused, EngineSilent, SpawnFailed

_LIMIT_MORE_S: Final = 120.0
"""Time that a run has beyond the daemon's own limit (seconds)."""

_SILENT_S: Final = 10.0
"""Longest pause after a server's silence (seconds)."""

_TRIES: Final = 4
"""Most calls to enqueue a run (count); then whoever follows it takes it back."""

_COMMAND: Final = "dagu"


@define
class Starter:
    """Records runs, and enqueues them."""

    _site: Site
    preparing: set[str] = field(factory=set, init=False)
    """Ids of runs that have no record yet."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def start(
        self,
        launch: Launch,
        env: Mapping[str, str],
        record: Callable[[DagRun], Awaitable[None]],
    ) -> None:
        """Record an attempt, and enqueue it.

        Raises:
            SpawnFailed: It can't be started.
        """
        settings = self._site.settings
        run = DagRun(
            engine=self._site.engine,
            url=settings.url,
            dag=settings.dag,
            name=self._site.new_name(),
            limit_s=launch.limit_s + _LIMIT_MORE_S,
        )
        self.preparing.add(run.name)
        is_started = False
        try:
            await to_thread.run_sync(self._lay_out, run.name, launch, env)
            await self._until_answered(run)
            await record(run)
            await self._enqueue(run, launch)
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

    async def _until_answered(self, run: DagRun) -> None:
        """Wait until the server answers this machine.

        Raises:
            SpawnFailed: It refuses.
        """
        pause_s = 1.0
        while True:
            try:
                await self._site.client.find(run.dag, run.name)
            except EngineRefused as error:
                raise SpawnFailed(command=_COMMAND, reason=str(error)) from error
            except EngineSilent as error:
                if pause_s == 1.0:
                    self._log.warning("dagu_silent", name=run.name, reason=str(error))
            else:
                return
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _SILENT_S)

    async def _enqueue(self, run: DagRun, launch: Launch) -> None:
        """Enqueue a recorded run, once.

        Raises:
            SpawnFailed: The server refuses it, and it will never begin.
        """
        is_taken = False
        for pause_s in range(_TRIES):
            await anyio.sleep(pause_s)
            try:
                await self._site.client.enqueue(run.dag, run.name)
                is_taken = True
            except EngineRefused as error:
                await self._give_up(run, launch, str(error))
                return
            except EngineSilent as error:
                self._log.warning("dagu_answer_lost", name=run.name, reason=str(error))
            try:
                if await self._site.client.find(run.dag, run.name) is not None:
                    return
            except (EngineSilent, EngineRefused) as error:
                self._log.warning("dagu_silent", name=run.name, reason=str(error))
        self._log.warning("dagu_run_not_found", name=run.name, dag=run.dag)
        if is_taken:
            reason = f"its server takes runs of {run.dag}, and doesn't find them under that name: does the DAG set another one?"
            await self._give_up(run, launch, reason)

    async def _give_up(self, run: DagRun, launch: Launch, reason: str) -> None:
        if await self._site.is_taken_back(run.name, launch.folder):
            raise SpawnFailed(command=_COMMAND, reason=reason)

    def _undo(self, name: str, folder: Path) -> None:
        """Take a start back that is not wanted: what comes to be in the queue finds its attempt claimed. Blocks."""
        try:
            self._site.files(name, folder).take()
            remove(self._site.link(name))
        except OSError as error:
            self._log.warning("dagu_start_left", name=name, error=str(error))
