"""Hubs under random calls from eight threads, daemons behind a net of troubles: each second the invariants hold.

What holds stands in `support/hub_invariants.py`, what is called in `support/hub_calls.py`, what befalls what travels
in `support/net.py`. The same seed makes the same plan of calls and troubles: `make torture SEED=...`.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup
from attrs import define, field, frozen
from bench.postgres import Postgres
from sqlalchemy import select

from dispatchd.hub.api.machines import invited
from dispatchd.hub.domain.model import ENDED, State
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.checks import CheckStore
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.schema import JOBS
from support.checks import github_table
from support.daemon import DaemonHere, write_config
from support.endpoint import SECRET
from support.github_api import Answer, Request, github_api
from support.github_events import pull
from support.hub_calls import (
    CALLERS,
    FOR_DAEMONS,
    POLLERS,
    RULES,
    Caller,
    Poller,
    Story,
)
from support.hub_invariants import Seen, Watch, keep_history
from support.hub_process import HubProcess, hub
from support.net import NetApart, net_apart
from support.torture import Torture
from support.until import until

SMOKE_S = 2.0
USUAL_S = 60.0
LEAST_S = 60.0
"""For how long everybody calls even if the time is over (seconds)."""
END_S = 40.0
"""How long what has begun then takes to end (seconds)."""
DAEMONS = 20
RUN = 'echo "$DISPATCHD_JOB_ID" >>"$LEDGER"'
"""Appended in one write(2) (O_APPEND), so that the lines of many runs don't mix."""

SHARES = {"machine": 0.06, "database": 0.002, "github": 0.06}
"""How many exchanges are troubled of those with machines, with a database (each statement is one) and with GitHub."""
SILENT_S = 8.0
LATE_S = 2.0
GoesOn = Callable[[float], bool]
"""Whether everybody calls on, by how long they have (seconds)."""
STOP_S = 90.0
"""Within this a daemon or a hub has stopped, on a machine on which other tests run (seconds)."""
DRAIN_S = 900.0
"""Within this all that has begun ends, on a machine that is short of time (seconds)."""


@frozen(kw_only=True)
class Size:
    """How large a world is."""

    hubs: int
    daemons: int = 0
    lease_s: float = 1.0
    patience_s: float = 1.0
    troubled: bool = False


SMALL = {True: Size(hubs=2), False: Size(hubs=1)}
"""By whether the database is shared. Leases are short, so that many end."""


def large(*, is_shared: bool) -> Size:
    """Return the world of the long run: patience lasts longer than any trouble, so that each job runs once."""
    return Size(
        hubs=2 if is_shared else 1,
        daemons=DAEMONS,
        lease_s=30.0,
        patience_s=180.0,
        troubled=True,
    )


@pytest.mark.parametrize(
    "is_shared",
    [
        pytest.param(False, id="sqlite"),
        pytest.param(True, id="postgresql", marks=pytest.mark.host),
    ],
)
@pytest.mark.timeout(300)
async def test_what_holds_of_a_hub_holds_under_random_calls(
    request: pytest.FixtureRequest, tmp_path: Path, *, is_shared: bool
) -> None:
    server = request.getfixturevalue("postgresql") if is_shared else None

    def goes_on(since_s: float) -> bool:
        return since_s < SMOKE_S

    await live(tmp_path, server, "20261128", SMALL[is_shared], goes_on)


@pytest.mark.torture(least_s=LEAST_S + END_S)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("is_shared", [False, True], ids=["sqlite", "postgresql"])
async def test_what_holds_of_a_hub_holds_behind_a_net_of_troubles_too(
    request: pytest.FixtureRequest, tmp_path: Path, torture: Torture, *, is_shared: bool
) -> None:
    server = request.getfixturevalue("postgresql") if is_shared else None

    def goes_on(since_s: float) -> bool:
        # With --duration for as long as that; without it for a usual time.
        if torture.duration_s:
            return since_s < LEAST_S or torture.left_s > END_S
        return since_s < USUAL_S * torture.size

    size = large(is_shared=is_shared)
    await live(tmp_path, server, f"{torture.seed}", size, goes_on)


async def live(
    folder: Path,
    server: Postgres | None,
    seed: str,
    size: Size,
    goes_on: GoesOn,
) -> None:
    """Let everybody call for as long as it goes on; what holds has held at each second, and holds at the end."""
    print(f"seed {seed}, {size}")
    async with AsyncExitStack() as stack:
        world = await _begin(stack, folder, server, seed, size)
        try:
            await world.run(goes_on)
            await world.stop()
        finally:
            world.show()
    assert not world.seen.violations


@define(kw_only=True)
class Way:
    """A GitHub by way of a net."""

    url: str
    key: str


@define(kw_only=True)
class World:
    """Hubs, daemons, a GitHub, the net between them, and those who call and look."""

    size: Size
    hubs: list[HubProcess]
    daemons: list[DaemonHere]
    tasks: TaskGroup
    ledger: Path
    nets: dict[str, NetApart]
    database: Database
    story: Story
    watch: Watch
    took_s: dict[str, float] = field(factory=dict)
    """How long the longest stop of each kind took, and the drain (seconds)."""

    @property
    def seen(self) -> Seen:
        return self.story.seen

    async def run(self, goes_on: GoesOn) -> None:
        """Let everybody call, and look each second; then let what has begun end."""
        callers: list[Caller] = [
            *(Caller(story=self.story, number=number) for number in range(CALLERS)),
            *(
                Poller(story=self.story, number=CALLERS + number, name=name)
                for number, name in enumerate(POLLERS)
            ),
        ]
        threads = CapacityLimiter(len(callers))
        await self._trouble(on=True)
        async with anyio.create_task_group() as calls:
            for caller in callers:
                calls.start_soon(
                    partial(to_thread.run_sync, caller.run, limiter=threads)
                )
            began = time.monotonic()
            try:
                while goes_on(time.monotonic() - began) and not self.seen.violations:
                    await to_thread.run_sync(self.watch.look)
                    # The time between two looks.
                    await anyio.sleep(1)
            finally:
                self.story.is_over.set()
                await self._trouble(on=False)
                await self._end_polls()
        began = time.monotonic()
        await until(self._is_done, DRAIN_S, "jobs of daemons and GitHub's checks")
        self.took_s["drain"] = time.monotonic() - began
        await to_thread.run_sync(self.watch.look_at_the_end)
        await to_thread.run_sync(self._look_at_runs)

    async def _end_polls(self) -> None:
        """Give each poll a job, so that it ends."""
        for workflow in ("c", "d"):
            for _ in POLLERS:
                await self.hubs[0].submit({"dag_name": workflow})

    async def _is_done(self) -> bool:
        return await to_thread.run_sync(self._is_done_now)

    def _is_done_now(self) -> bool:
        with self.database.snapshot() as db:
            left = db.execute(
                select(JOBS.c.id).where(
                    JOBS.c.workflow == FOR_DAEMONS, JOBS.c.state.not_in(ENDED)
                )
            ).first()
        return left is None and CheckStore(self.database).pending_count()[0] == 0

    def _look_at_runs(self) -> None:
        """Note which job ran twice or without an accept, and which has succeeded without having run."""
        ran = Counter(self.ledger.read_text().split())
        with self.database.snapshot() as db:
            jobs = db.execute(
                select(JOBS.c.id, JOBS.c.state, JOBS.c.accepts).where(
                    JOBS.c.workflow == FOR_DAEMONS
                )
            ).all()
        for job_id, state, accepts in jobs:
            if ran[job_id] and not accepts:
                self.seen.violates(f"{job_id} ran and nobody had accepted it")
            # One that is aborted or failed may have run before its end was wanted.
            if ran[job_id] > 1 or (state == State.SUCCEEDED and not ran[job_id]):
                self.seen.violates(f"{job_id} is {state} and ran {ran[job_id]} times")
        self.story.counts["jobs of daemons"] = len(jobs)

    async def stop(self) -> None:
        """Stop daemons and hubs, in the midst of troubles; each stops in time."""
        await self._trouble(on=True)

        async def stop(daemon: DaemonHere) -> None:
            began = time.monotonic()
            await daemon.stop(within_s=STOP_S)
            self._note_stop("daemon", began)

        async with anyio.create_task_group() as stops:
            for daemon in self.daemons:
                stops.start_soon(stop, daemon)
        for server in self.hubs:
            began = time.monotonic()
            assert await to_thread.run_sync(server.stop, STOP_S) == 0
            self._note_stop("hub", began)

    async def _trouble(self, *, on: bool) -> None:
        for each in self.nets.values():
            await to_thread.run_sync(each.turn, on)

    def _note_stop(self, kind: str, began: float) -> None:
        took_s = time.monotonic() - began
        self.took_s[kind] = max(took_s, self.took_s.get(kind, 0))

    def show(self) -> None:
        """Print what there was."""
        print(f"{self.watch.looks} looks, {self.watch.moves} changes of jobs")
        print({name: round(took_s, 1) for name, took_s in self.took_s.items()})
        print({name: each.counts for name, each in self.nets.items()})
        print(dict(sorted(self.story.counts.items())))
        for each in dict.fromkeys(self.seen.violations):
            print(f"VIOLATION: {each}")


async def _begin(
    stack: AsyncExitStack,
    folder: Path,
    server: Postgres | None,
    seed: str,
    size: Size,
) -> World:
    nets: dict[str, NetApart] = {}

    def behind(name: str, port: int) -> int:
        """Return the port by which another one is reached."""
        if not size.troubled:
            return port
        kind = name.partition(" ")[0]
        times = {"silent_s": SILENT_S, "late_s": LATE_S}
        between = net_apart(port, f"{seed} {name}", SHARES[kind], **times)
        nets[name] = stack.enter_context(between)
        return nets[name].port

    github = await stack.enter_async_context(github_api(more=_answer))
    way = Way(url=f"http://127.0.0.1:{behind('github', github.port)}", key=github.key)
    table = github_table(folder, way, RULES)

    url = "sqlite:///hub.db"
    direct = f"sqlite:///{folder / 'hub0' / 'hub.db'}"
    if server is not None:
        direct = server.new_database()
        stack.callback(server.drop, direct)
        url = direct.replace(f":{server.port}/", f":{behind('database', server.port)}/")
    hubs = [
        await stack.enter_async_context(
            hub(
                folder / f"hub{number}",
                database_url=url,
                lease_s=size.lease_s,
                patience_s=size.patience_s,
                unheard_s=size.patience_s,
                more=table,
            )
        )
        for number in range(size.hubs)
    ]
    database = Database.open(direct)
    stack.callback(database.close)
    keep_history(database)
    names = [*POLLERS, *(f"f{number}" for number in range(size.daemons))]
    for name in names:
        machine = invited(name, SECRET, fixed=True, license_id="lic-test", now=1.0)
        MachineStore(database).add(machine)

    tasks = await stack.enter_async_context(anyio.create_task_group())
    story = Story(
        seed=seed,
        urls=[each.url for each in hubs],
        owner=hubs[0].headers,
        database_url=direct,
        folder=folder,
        seen=Seen(time.monotonic),
        for_daemons=bool(size.daemons),
    )
    found = World(
        size=size,
        hubs=hubs,
        daemons=[],
        tasks=tasks,
        ledger=folder / "ledger",
        nets=nets,
        database=database,
        story=story,
        watch=Watch(database, story.seen, lambda: list(github.runs.values())),
    )
    found.ledger.touch()
    ways = [
        f"http://127.0.0.1:{behind(f'machine {number}', each.port)}"
        for number, each in enumerate(hubs)
    ]
    for number in range(size.daemons):
        config = _config(folder / f"f{number}", ways[number % len(hubs)], found.ledger)
        daemon = DaemonHere(config=config, tasks=tasks)
        daemon.start()
        found.daemons.append(daemon)
    for daemon in found.daemons:
        await daemon.until_logged("daemon_ready", within_s=120)
    return found


def _config(folder: Path, url: str, ledger: Path) -> Path:
    config = write_config(
        folder,
        url,
        {FOR_DAEMONS: ["/bin/sh", "-c", RUN]},
        cloud="hold_s = 10\npoll_interval_s = 0.5",
        runs="slots = 2\nqueue_ahead = 1",
        limits=f'env = {{ LEDGER = "{ledger}" }}',
    )
    text = config.read_text().replace("srv-test", folder.name)
    config.write_text(text.replace('level = "debug"', 'level = "info"'))
    return config


def _answer(request: Request) -> Answer | None:
    """Answer what the hub wants to know of a pull request."""
    match request.method, request.parts[3:]:
        case "GET", ("pulls", _):
            return 200, pull(), {}
        case _:
            return None
