"""A start: submit held, under a name of ours; record; release. Comes from `engine.py`.

A submission whose answer is lost is looked up by its name before another one is made, under another name. What turns
up later is held, so it runs nothing, and the janitor removes it.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import to_thread
from attrs import define, field

from dispatchd.agent.config.engines import OWN_KEYS
from dispatchd.agent.domain.executions.identities import BatchJob
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.slurm.script import batch_script, launch_text
from dispatchd.agent.engines.slurm.site import Site
from dispatchd.agent.engines.start_claims import Files, remove
from dispatchd.errors import EngineRefused, EngineSilent, SpawnFailed

_SILENT_S: Final = 10.0
"""Longest pause after a controller's silence (seconds)."""

_AT_ONCE: Final = 4
"""Most starts of which the controller is asked something at a time (count)."""

_UNKNOWN: Final = "Invalid job"
"""Part of what Slurm says of a job that it doesn't know."""

_UNDO_S: Final = 15.0
"""Longest time for taking back a start that isn't wanted any more (seconds); the janitor comes later."""


@define
class Submitter:
    """Prepares jobs, and lets them go."""

    _site: Site
    preparing: set[str] = field(factory=set, init=False)
    """Names of jobs that have no record yet, or have not been released."""
    _at_once: anyio.CapacityLimiter = field(init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_at_once.default
    def _new_limiter(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(_AT_ONCE)

    async def start(
        self,
        launch: Launch,
        env: Mapping[str, str],
        record: Callable[[BatchJob], Awaitable[None]],
    ) -> None:
        """Submit an attempt, held; record it; release it.

        Raises:
            SpawnFailed: It can't be started.
        """
        try:
            text = launch_text(
                launch.command, env, launch.workspace, launch.output_file
            )
        except ValueError as error:
            raise SpawnFailed(
                command=launch.command[0], reason=str(error), refused=True
            ) from error
        while True:
            name = self._site.new_name()
            self.preparing.add(name)
            is_recorded = False
            try:
                await to_thread.run_sync(self._lay_out, name, launch, text)
                job = await self._submitted(name, launch)
                if job is not None:
                    await record(job)
                    is_recorded = True
                    await self._release(job, launch.folder)
                    return
            finally:
                self.preparing.discard(name)
                if not is_recorded:
                    await self._undo(name, launch.folder)

    def _lay_out(self, name: str, launch: Launch, text: str) -> None:
        has_secrets = bool(launch.secrets or launch.given)
        try:
            files = Files.create(launch.folder / name, self._site.link(name))
            files.write_launch(text, has_secrets=has_secrets)
        except OSError as error:
            reason = f"{launch.folder} can't be written: {error.strerror}"
            raise SpawnFailed(command=launch.command[0], reason=reason) from error

    async def _submitted(self, name: str, launch: Launch) -> BatchJob | None:
        """Submit a job. Return None if the controller has not heard of it.

        Raises:
            SpawnFailed: The controller refuses it.
        """
        limit_s = self._site.limit_s(launch.limit_s)
        cluster = ""
        try:
            async with self._at_once:
                said = await self._site.commands.run(
                    *("sbatch", *self._options(name, launch, limit_s)),
                    text=batch_script(self._site.link(name)),
                )
            number, _, cluster = said.strip().partition(";")
            job_id = int(number)
        except EngineRefused as error:
            raise SpawnFailed(command="sbatch", reason=str(error)) from error
        except (EngineSilent, ValueError) as error:
            self._log.warning("slurm_answer_lost", name=name, reason=str(error))
            found = await self._find(name)
            if found is None:
                return None
            job_id = found
        return BatchJob(
            engine=self._site.engine,
            cluster=cluster,
            name=name,
            job_id=job_id,
            submitted_at=self._site.now(),
            limit_s=limit_s,
        )

    def _options(self, name: str, launch: Launch, limit_s: float) -> list[str]:
        settings = self._site.settings
        own = [
            f"--{key}={value}" for key in OWN_KEYS if (value := getattr(settings, key))
        ]
        if not settings.time:
            own.append(f"--time={math.ceil(limit_s / 60)}")
        if launch.resources.memory_bytes:
            own.append(f"--mem={launch.resources.memory_bytes >> 20}M")
        return [
            *("--parsable", "--hold", "--no-requeue", f"--job-name={name}"),
            *("--output=/dev/null", f"--chdir={self._site.folder}"),
            *own,
            *settings.options,
        ]

    async def _find(self, name: str) -> int | None:
        """Return the id of a job by its name; None once the controller says that it knows none."""
        listings = self._site.listings
        pause_s = 1.0
        while True:
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _SILENT_S)
            now = self._site.time.monotonic()
            listings.hurry()
            listing = await listings.news(name, 0, None, now)
            if not listing.silence:
                rows = listing.rows.get(name, ())
                return min((row.job_id for row in rows), default=None)

    async def _release(self, job: BatchJob, folder: Path) -> None:
        """Let a recorded job go. Whoever follows it takes it back if it is still held afterwards.

        Raises:
            SpawnFailed: The controller refuses that, so the job never begins.
        """
        release = ("scontrol", "release", f"jobname={job.name}")
        try:
            async with self._at_once:
                await self._site.commands.run(*release)
        except (EngineSilent, EngineRefused) as error:
            self._log.warning("slurm_release_failed", name=job.name, reason=str(error))
            is_refused = isinstance(error, EngineRefused)
            # A controller that has forgotten the job is another matter: another start is right at once.
            if not is_refused or _UNKNOWN in str(error):
                return
            if await self._site.is_taken_back(job.name, folder):
                await self._undo(job.name, folder)
                raise SpawnFailed(command="scontrol", reason=str(error)) from error

    async def _undo(self, name: str, folder: Path) -> None:
        """Take a start back that has no record: it is held, so nothing has run."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_UNDO_S):
            # Its record may be there all the same; whoever follows that finds the claim.
            try:
                await to_thread.run_sync(self._site.files(name, folder).take)
                await to_thread.run_sync(remove, self._site.link(name))
                await self._site.cancel(name, pending_only=True)
            except (EngineSilent, EngineRefused, OSError) as error:
                self._log.warning(
                    "slurm_job_left_to_janitor", name=name, error=str(error)
                )
