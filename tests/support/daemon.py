"""A daemon in the test's own process, with real sockets, files and runs, whose time `advance` moves."""

import asyncio
import json
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, field
from typing_extensions import override

from dispatchd.agent.config.load import Config, Places, load
from dispatchd.agent.endpoint.open import check_outward
from dispatchd.agent.serve import serve
from dispatchd.agent.wiring import Surroundings
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.redaction.known_secrets import KnownSecrets
from support.clock import LoopTime, loop, within
from support.endpoint import SECRET
from support.logs import logging_to
from support.until import until


def write_config(
    folder: Path,
    url: str,
    workflows: Mapping[str, list[str]],
    *,
    cloud: str = "",
    store: str = 'folder = "state"\nmin_free_mib = 0',
    runs: str = "",
    limits: str = "",
    isolation: str = "none",
) -> Path:
    """Write a configuration with its secret; the other arguments are lines of TOML for each table.

    Most tests have commands that reach what the test itself has laid out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    tables = "\n".join(
        f"[workflows.{json.dumps(name)}]\ncommand = {json.dumps(command)}\n{limits}\n"
        for name, command in workflows.items()
    )
    file = folder / "config.toml"
    file.write_text(
        f"""
[cloud]
url = "{url}"
license_id = "lic-test"
server_id = "srv-test"
secret_file = "secret"
{cloud}
[store]
{store}
[runs]
isolation = "{isolation}"
{runs}
[log]
level = "debug"
format = "json"
{tables}
"""
    )
    return file


@define(kw_only=True)
class DaemonLog(ABC):
    """What a daemon has written down; base of one in this process and one in its own."""

    config: Path
    env: Mapping[str, str] = field(factory=dict)
    """What its environment has beside that of the tests."""

    @property
    def state(self) -> Path:
        return self.config.parent / "state"

    @property
    def log_file(self) -> Path:
        return self.config.parent / "daemon.log"

    @property
    @abstractmethod
    def alive(self) -> bool: ...

    def written(self) -> dict[Path, bytes]:
        """Return what is in each of its files; what it removes meanwhile is left out."""
        # `os.walk` goes on where a folder has gone; `rglob` ends there.
        below = [
            Path(folder, name)
            for folder, _, names in os.walk(self.state)
            for name in names
        ]
        written = {}
        for path in (*below, self.log_file):
            with suppress(FileNotFoundError):
                if path.is_file():
                    written[path] = path.read_bytes()
        return written

    def log(self) -> list[dict[str, Any]]:
        """Return what was logged so far, as JSON objects; other lines as `{"text": line}`."""
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_text(errors="replace").splitlines()
        return [
            json.loads(line)
            if line.startswith("{") and line.endswith("}")
            else {"text": line}
            for line in lines
        ]

    async def until_logged(
        self, event: str, within_s: float = 30, **keys: object
    ) -> dict[str, Any]:
        """Return the first log line with an event and keys, waiting for it."""

        def line() -> dict[str, Any] | None:
            for entry in self.log():
                if entry.get("event") == event and keys.items() <= entry.items():
                    return entry
            assert self.alive, self.log()[-20:]
            return None

        logged = await until(line, within_s, f"{event} {keys}")
        assert logged is not None
        return logged


@define(kw_only=True)
class DaemonHere(DaemonLog):
    """A daemon in this process: wired, run and stopped as `dispatchd run` does it."""

    time: LoopTime = field(init=False)
    bugs: BugFence = field(factory=BugFence)
    _tasks: TaskGroup
    _signals: MemoryObjectSendStream[signal.Signals] = field(init=False)
    _ended: anyio.Event = field(factory=anyio.Event, init=False)
    _scope: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)

    def start(self) -> None:
        """Start it; a second start is a restart after a stop."""
        self._signals, received = anyio.create_memory_object_stream[signal.Signals](8)
        self._ended, self._scope = anyio.Event(), anyio.CancelScope()
        self.time = LoopTime(loop())
        self._tasks.start_soon(self._run, received)

    async def _run(self, received: MemoryObjectReceiveStream[signal.Signals]) -> None:
        known = KnownSecrets()
        environment = {**os.environ, **self.env}

        def read() -> Config:
            config = load(
                self.config,
                defaults=Places(state_folder=self.state, control_folder=self.state),
                search_path=environment["PATH"],
                credentials_folder=environment.get("CREDENTIALS_DIRECTORY", ""),
            )
            check_outward(config, environment)
            return config

        try:
            with received, self._scope:
                config = read()
                with logging_to(self.log_file, known, config.log.level):
                    given = Surroundings(
                        environment=environment,
                        signals=received,
                        reread=read,
                        known=known,
                        time=self.time,
                        bugs=self.bugs,
                    )
                    await serve(config, given)
        finally:
            self._signals.close()
            self._ended.set()

    @property
    @override
    def alive(self) -> bool:
        return not self._ended.is_set()

    def send(self, number: signal.Signals) -> None:
        self._signals.send_nowait(number)

    async def stop(
        self, number: signal.Signals = signal.SIGTERM, within_s: float = 20
    ) -> None:
        """Stop it with a signal, and return when it has ended; the same if it has ended before."""
        if self.alive:
            self.send(number)
        await self.until_ended(within_s)

    async def until_ended(self, within_s: float = 20) -> None:
        """Return when it has ended by what it was sent."""
        with within(within_s):
            await self._ended.wait()

    async def crash(self) -> None:
        """End it where it stands, without the order of a stop; what a real kill leaves is for tests/torture."""
        self._scope.cancel()
        await self._ended.wait()


@asynccontextmanager
async def running_daemon(config: Path, **options: Any) -> AsyncIterator[DaemonHere]:
    """Run a daemon for the length of a block, from when it is ready; its log is shown on failure."""
    async with anyio.create_task_group() as tasks:
        daemon = DaemonHere(config=config, tasks=tasks, **options)
        daemon.start()
        try:
            await daemon.until_logged("daemon_ready")
            yield daemon
            await daemon.stop()
        except BaseException:
            for line in daemon.log()[-40:]:
                print(line)
            raise


def tasks_named(name: str) -> list[str]:
    """Return the name of each task of a daemon in this process that has it."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == name]
