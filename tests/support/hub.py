"""A hub in the test's own process, over real HTTP, whose time `advance` moves."""

import atexit
import json
import shutil
import signal
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import anyio
import httpx
from anyio.abc import TaskGroup, TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, evolve, field
from typing_extensions import override

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.hub.api.machines import invited
from dispatchd.hub.config.load import FILE, TOKEN_FILE, load
from dispatchd.hub.context import Context
from dispatchd.hub.domain.model import ENDED
from dispatchd.hub.init import init
from dispatchd.hub.main import serve
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.shared_clock import Clock
from dispatchd.hub.storage.sole_server import sole_server
from dispatchd.linux.systemd import ServiceManager
from dispatchd.redaction.known_secrets import KnownSecrets
from support.clock import LoopTime, advance, loop, pass_ticks, within
from support.endpoint import SECRET
from support.logs import logging_to

MACHINES = ("srv-test", "a", "b", *(f"m{number}" for number in range(8)))
"""The machines that a hub under test knows; all have the same secret."""

_SQLITE = "sqlite:///hub.db"


@define(kw_only=True)
class Hub(ABC):
    """A hub of a folder; restarted, it keeps its database and its port. Base of one here and one in its own process."""

    folder: Path
    lease_s: float = 60.0
    patience_s: float = 300.0
    unheard_s: float = 86_400.0
    most_expiries: int = 3
    database_url: str = _SQLITE
    more: str = ""
    """Further tables of the configuration."""
    keys: str = ""
    """Further keys of its top."""
    port: int = 0
    http: httpx.AsyncClient = field(init=False)

    @abstractmethod
    async def start(self) -> None:
        """Start it, and return when it answers."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What proves to the hub that this is its owner."""
        token = (self.folder / TOKEN_FILE).read_text().strip()
        return {"authorization": f"Bearer {token}"}

    @property
    def log_file(self) -> Path:
        return self.folder / "hub.log"

    def configure(self, top: str = "") -> None:
        """Write the configuration; `top` is its first line."""
        self.folder.joinpath(FILE).write_text(
            f"""{top or f'listen = "127.0.0.1:{self.port}"'}
database_url = "{self.database_url}"
license_id = "lic-test"
{self.keys}
[leases]
seconds = {self.lease_s}
patience_s = {self.patience_s}
unheard_s = {self.unheard_s}
most_expiries = {self.most_expiries}
{self.more}
"""
        )

    def make(self) -> None:
        """Make the hub's files and database, unless they are there."""
        if (self.folder / FILE).exists():
            return
        if self.database_url == _SQLITE:
            shutil.copytree(_template(), self.folder, dirs_exist_ok=True)
        else:
            _make(self.folder, self.database_url)
        self.configure()

    def answers_at(self, port: int) -> None:
        """Note the port of the first start: from now on it is the same at each."""
        if port != self.port:
            self.port = port
            self.configure()

    async def submit(
        self, job: dict[str, Any], payload: str = "null", headers: str = "null"
    ) -> str:
        """Queue a job with exact payload and headers texts; return its id."""
        head = json.dumps(job)
        body = f'{head[:-1]}, "payload": {payload}, "headers": {headers}}}'
        reply = await self.http.post("/api/v1/jobs", content=body)
        assert reply.status_code == 201, reply.text
        job_id: str = reply.json()["id"]
        return job_id

    async def result(
        self, job_id: str, within_s: float = 60, until: str = "finished"
    ) -> dict[str, Any]:
        """Return a job once it has reached a state."""
        reply = await self.http.get(
            f"/api/v1/jobs/{job_id}", params={"wait": str(within_s), "until": until}
        )
        job: dict[str, Any] = reply.json()
        assert job.get("ended") or job.get("state") == until, job
        return job


def _make(folder: Path, database_url: str) -> None:
    made = init(
        folder,
        database_url=database_url,
        listen="127.0.0.1:0",
        license_id="lic-test",
    )
    database = Database.open(made.settings.database_url)
    for name in MACHINES:
        machine = invited(name, SECRET, fixed=True, license_id="lic-test", now=1.0)
        MachineStore(database).add(machine)
    database.close()


@cache
def _template() -> Path:
    """Return a new hub's folder, from which others are copied: to make one takes a while."""
    folder = Path(mkdtemp(prefix="dispatchd-hub-"))
    atexit.register(shutil.rmtree, folder)
    _make(folder, _SQLITE)
    return folder


@define(kw_only=True)
class HubHere(Hub):
    """A hub in this process: its routes, socket, loops and stop are those of `dispatchd hub serve`."""

    time: LoopTime = field(init=False)
    context: Context = field(init=False)
    stopped_s: float = 0.0
    """For how long it has not run, while its machine did (seconds)."""
    ahead_s: float = 0.0
    """How far its wall clock is set forward when it starts (seconds)."""
    has_shared_clock: bool = False
    """Whether it has its database's clock, as outside of tests, and not the test's."""
    env: Mapping[str, str] = field(factory=dict)
    bugs: BugFence = field(factory=BugFence)
    _tasks: TaskGroup
    _signals: MemoryObjectSendStream[signal.Signals] = field(init=False)
    _ended: anyio.Event = field(factory=anyio.Event, init=False)

    @override
    async def start(self) -> None:
        self.make()
        self._ended = anyio.Event()
        self._signals, received = anyio.create_memory_object_stream[signal.Signals](8)
        self.time = LoopTime(loop())
        self.time.wall_set_by_s = self.ahead_s
        self.answers_at(await self._tasks.start(self._run, received))

    async def _run(
        self,
        received: MemoryObjectReceiveStream[signal.Signals],
        *,
        task_status: TaskStatus[int],
    ) -> None:
        known = KnownSecrets()
        try:
            with received, logging_to(self.log_file, known, "info"):
                settings = load(self.folder / FILE)
                database = Database.open(settings.database_url)
                try:
                    clock = Clock(now=self.time.wall)
                    if self.has_shared_clock:
                        clock = Clock.of(database)
                    # A busy machine of the tests must not look like one that was stopped.
                    clock = evolve(clock, since_boot=lambda: self.stopped_s)
                    self.context = Context.at(
                        settings, database, known, clock, bugs=self.bugs
                    )
                    manager = ServiceManager.of(self.env)
                    announce = task_status.started
                    with sole_server(database.file) as lock:
                        await serve(self.context, announce, manager, received, lock)
                finally:
                    database.close()
        finally:
            self._signals.close()
            self._ended.set()

    def has_ended(self, *job_ids: str) -> bool:
        """Return whether jobs have ended, by its database: to ask by HTTP at each look takes as long as a short job."""
        jobs = [self.context.stores.reader.get(job_id) for job_id in job_ids]
        return all(job is not None and job.state in ENDED for job in jobs)

    async def stand_still(self, seconds: float) -> None:
        """Let it not run for a while, as SIGSTOP, a snapshot or a lid does; all it waits for is due then."""
        self.stopped_s += seconds
        await advance(seconds)

    async def stop(self, within_s: float = 20) -> None:
        """Stop it, and return when it has ended."""
        if not self._ended.is_set():
            self._signals.send_nowait(signal.SIGTERM)
            await pass_ticks()
        with within(within_s):
            await self._ended.wait()


@asynccontextmanager
async def hub(folder: Path, **options: Any) -> AsyncIterator[HubHere]:
    """Run a hub for the length of a block."""
    async with anyio.create_task_group() as tasks:
        server = HubHere(folder=folder, tasks=tasks, **options)
        await server.start()
        async with client(server) as server.http:
            yield server
        await server.stop()


ANY_PORT = ("--listen", "127.0.0.1:0")
"""Options of `hub init` for a hub that is to run: other tests may have its usual port."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain HTTP: to load the certificates of the machine takes longer than a test of logic."""


def client(of: Hub) -> httpx.AsyncClient:
    """Return the owner's client of a hub; how long a call may take is for the test to say."""
    return httpx.AsyncClient(
        base_url=of.url, timeout=None, headers=of.headers, verify=NO_TLS
    )
