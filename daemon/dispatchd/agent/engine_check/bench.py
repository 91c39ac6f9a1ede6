"""Bench of a trial: the engine as a daemon has it, scenes on it, and daemons in processes of their own that are killed."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn

import anyio
from anyio import to_thread
from attrs import define, evolve, field, frozen

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.executions.identities import Identity, ProcessIdentity
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.engine_check.scene import Scene
from dispatchd.agent.engines.chosen import Engines
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.slurm.engine import SlurmEngine
from dispatchd.agent.engines.submitted.engine import SubmittedEngine
from dispatchd.errors import DispatchdError
from dispatchd.protocol.outcome import Cleared, Exit, NeverStarted, Unreachable
from dispatchd.protocol.times import duration
from dispatchd.redaction.known_secrets import KnownSecrets

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

_LOOK_S: Final = 0.05
"""Time between two looks at what another process leaves (seconds)."""

_END_S: Final = 30.0
"""Longest time for ending what a rule has left (seconds)."""

_COMMAND_S: Final = 60.0
"""Longest time of a command of the caller (seconds)."""


class Broken(DispatchdError):
    """A rule is broken; the message says how."""


class NotJudged(DispatchdError):
    """A rule can't be judged; the message says why."""


def fail(how: str) -> NoReturn:
    """Say how a rule is broken.

    Raises:
        Broken: Always.
    """
    raise Broken(how)


def skip(why: str) -> NoReturn:
    """Say why a rule can't be judged.

    Raises:
        NotJudged: Always.
    """
    raise NotJudged(why)


@frozen(kw_only=True)
class Commands:
    """Commands of the caller, for a shell; empty for none. `listing` prints what others can see of the engine's runs."""

    down: str = ""
    up: str = ""
    listing: str = ""


def own_config(config: Config, name: str) -> tuple[Config, str]:
    """Return the configuration of a trial, and the engine's name in it.

    Names of starts have the engine's name in them: under another one no daemon takes them for its own.
    """
    if name == LOCAL:
        return config, LOCAL
    own = f"{name}.check"
    return evolve(config, engines={own: config.engines[name]}), own


@define
class Bench:
    """One engine of a configuration."""

    config: Config
    name: str
    environment: Mapping[str, str]
    folder: Path
    patience_s: float
    commands: Commands
    engines: Engines = field(init=False)
    owned: dict[Identity, Scene] = field(factory=dict, init=False)
    """Identities that a daemon's running records would have."""
    _numbers: "count[int]" = field(factory=count, init=False)

    @engines.default
    def _new_engines(self) -> Engines:
        local = LocalEngine.here(self.environment, KnownSecrets(), [self.folder])
        return Engines(
            local,
            CurrentConfig(self.config),
            lambda: [
                each for each in self.owned if not isinstance(each, ProcessIdentity)
            ],
        )

    @property
    def is_local(self) -> bool:
        """True if the engine is this machine's own processes."""
        return self.name == LOCAL

    @property
    def remote(self) -> SlurmEngine | SubmittedEngine:
        """The engine, if it isn't this machine's own processes.

        Raises:
            NotJudged: It is.
        """
        if self.is_local:
            message = "an attempt of this machine's own processes begins with its start"
            raise NotJudged(message)
        return self.engines.configured(self.name)

    @property
    def submitted(self) -> SubmittedEngine:
        """The engine, if it executes scripts by four calls.

        Raises:
            NotJudged: It doesn't.
        """
        engine = None if self.is_local else self.remote
        if isinstance(engine, SubmittedEngine):
            return engine
        message = "the engine has no calls of the port for third parties"
        raise NotJudged(message)

    @property
    def path(self) -> str:
        """Value of PATH for commands."""
        return self.environment.get("PATH", "/usr/bin:/bin")

    async def scene(
        self,
        script: str,
        env: Mapping[str, str] = _NOTHING,
        secrets: Mapping[str, str] = _NOTHING,
    ) -> Scene:
        """Return a new scene, with its files."""
        scene = Scene(
            folder=self.folder / f"run-{next(self._numbers)}",
            engine=self.name,
            script=script,
            env=env,
            secrets=secrets,
        )
        await to_thread.run_sync(scene.lay_out)
        return scene

    async def start(
        self,
        scene: Scene,
        then: Callable[[Identity], Awaitable[None]] | None = None,
        *,
        by: SubmittedEngine | None = None,
    ) -> Identity:
        """Start an attempt, and return its identity. `then` is awaited with it before the command may begin."""
        recorded: list[Identity] = []

        async def record(identity: Identity) -> None:
            recorded.append(identity)
            self.owned[identity] = scene
            await self.engines.permit(identity, scene.attempt, inf)
            if then is not None:
                await then(identity)

        await (by or self.engines).start(scene.launch(self.path), record)
        if len(recorded) != 1:
            fail(f"its identity was recorded {len(recorded)} times")
        return recorded[0]

    async def started(self, scene: Scene) -> Identity:
        """Start an attempt, and wait until its command has begun."""
        identity = await self.start(scene)
        async with self.observing(identity, scene):
            await self.until(lambda: scene.has_begun, "the command to begin")
        return identity

    @asynccontextmanager
    async def observing(self, identity: Identity, scene: Scene) -> AsyncIterator[None]:
        """Observe an attempt in the background, as a daemon does.

        Raises:
            Broken: The block raised it.
        """
        failed: Broken | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._observe, identity, scene)
            try:
                yield
            except Broken as error:
                # Raised outside of the task group, which would wrap it into an exception group.
                failed = error
            tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _observe(self, identity: Identity, scene: Scene) -> None:
        while isinstance(
            await self.engines.observe(identity, scene.attempt), Unreachable
        ):
            pass

    async def end(self, identity: Identity, scene: Scene) -> Exit | NeverStarted:
        """Return how an attempt ends.

        Raises:
            Broken: It doesn't, in time.
        """
        with anyio.move_on_after(self.patience_s):
            while isinstance(
                end := await self.engines.observe(identity, scene.attempt), Unreachable
            ):
                pass
            return end
        message = f"no end was seen within {duration(self.patience_s)}"
        raise Broken(message)

    async def stopped(
        self, identity: Identity, scene: Scene, grace_s: float, times: int = 1
    ) -> Exit | NeverStarted:
        """End an attempt, so many times at once, and return how it ends.

        Raises:
            Broken: It doesn't, in time.
        """
        ends: list[Exit | NeverStarted] = []

        async def observe() -> None:
            with suppress(Broken):
                ends.append(await self.end(identity, scene))

        with anyio.move_on_after(self.patience_s) as limit:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(observe)
                for _ in range(times):
                    tasks.start_soon(self.engines.stop, identity, grace_s)
        if limit.cancelled_caught or not ends:
            message = f"it was not ended within {duration(self.patience_s)}"
            raise Broken(message)
        return ends[0]

    async def cleared(self, identity: Identity, scene: Scene) -> Cleared:
        """End what an attempt has left, as a daemon does after its end."""
        self.disown(identity)
        cleared = await self.engines.clear(identity, scene.attempt)
        self.engines.forget(scene.attempt)
        return cleared

    def disown(self, identity: Identity) -> None:
        """Have no record of an attempt any more."""
        self.owned.pop(identity, None)

    async def end_all(self) -> None:
        """End every attempt that a rule has left."""
        for identity, scene in list(self.owned.items()):
            await to_thread.run_sync(scene.go)
            with suppress(Broken), anyio.move_on_after(_END_S):
                await self.stopped(identity, scene, 1.0)
                await self.cleared(identity, scene)
            self.disown(identity)

    async def tidy(self) -> None:
        """Take back what a trial has left at the engine, and in the files of starts; for a while at most."""
        if not self.is_local:
            with anyio.move_on_after(_END_S):
                await self.engines.configured(self.name).tidy()

    async def until(self, look: Callable[[], bool], what: str) -> None:
        """Wait for something that another process does.

        Raises:
            Broken: It doesn't, in time.
        """
        with anyio.move_on_after(self.patience_s):
            while not await to_thread.run_sync(look):  # noqa: ASYNC110  # another process announces nothing
                await anyio.sleep(_LOOK_S)
            return
        message = f"waited {duration(self.patience_s)} for {what}"
        raise Broken(message)

    async def command(self, line: str) -> bytes:
        """Return what a command of the caller prints.

        Raises:
            NotJudged: It fails.
        """
        try:
            with anyio.fail_after(_COMMAND_S):
                done = await anyio.run_process(
                    ["/bin/sh", "-c", line], check=False, env=dict(self.environment)
                )
        except TimeoutError as error:
            message = f"the command {line!r:.60} took more than {duration(_COMMAND_S)}"
            raise NotJudged(message) from error
        if done.returncode:
            message = f"the command {line!r:.60} ended with {done.returncode}"
            raise NotJudged(message)
        return done.stdout

    def close(self) -> None:
        """End what only this process needs."""
        self.engines.local.close()
