"""Wiring of the objects that track and run jobs, from any source."""

import random
from collections.abc import Callable, Sequence

from attrs import frozen

from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.fitness import Machine
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.engine.local.engine import LocalEngine
from dispatchd.agent.runs.conclude import Concluder
from dispatchd.agent.runs.follow import Follower
from dispatchd.agent.runs.leftovers import Leftovers
from dispatchd.agent.runs.run import RunLoop
from dispatchd.agent.runs.start import Starter
from dispatchd.agent.runs.workspaces import Workspaces
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.activity import Board
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.process.clock import SteadyClock
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class Execution:
    """The tracker, and the loop that runs tracked jobs."""

    tracker: Tracker
    fence: Fence
    runs: Runs
    run_loop: RunLoop
    leftovers: Leftovers
    board: Board
    random: random.Random
    machine: Machine
    """Abilities of this machine for runs."""
    containment: str
    """Means that keep the processes of a run together, in words."""


def execution(  # noqa: PLR0913, PLR0917  # wiring has as many parts
    config: Config,
    store: JobStore,
    clock: SteadyClock,
    known: KnownSecrets,
    engine: LocalEngine,
    bugs: BugFence,
    watchers: Sequence[Callable[[TrackedJob], None]] = (),
) -> Execution:
    """Wire the objects that run the jobs of an open store. `watchers` are called with every durable record."""
    rng, board = random.Random(), Board()  # noqa: S311  # for jitter, not for secrets
    runs = Runs.open(config.state_folder)
    tracker = Tracker(store, clock, Disk(rng), watchers)
    fence = Fence(tracker, clock)
    concluder = Concluder(
        tracker=tracker,
        runs=runs,
        workspaces=Workspaces(tracker, runs, bugs),
        known=known,
        clock=clock,
        random=rng,
        retry_wait_s=config.limits.retry_wait_s,
    )
    starter = Starter(
        engine=engine,
        tracker=tracker,
        fence=fence,
        runs=runs,
        concluder=concluder,
        known=known,
        base_env=engine.inherited,
        traced=bool(config.telemetry.otlp_url),
    )
    leftovers = Leftovers(engine, bugs)
    follower = Follower(
        engine=engine,
        tracker=tracker,
        runs=runs,
        clock=clock,
        concluder=concluder,
        leftovers=leftovers,
    )
    run_loop = RunLoop(
        starter=starter,
        follower=follower,
        concluder=concluder,
        fence=fence,
        tracker=tracker,
        runs=runs,
        workflows=config.workflows,
        slots=config.limits.slots,
        board=board,
        bugs=bugs,
        clock=clock,
    )
    return Execution(
        tracker=tracker,
        fence=fence,
        runs=runs,
        run_loop=run_loop,
        leftovers=leftovers,
        board=board,
        random=rng,
        machine=Machine(controllers=engine.controllers, obstacle=engine.obstacle),
        containment=engine.containment,
    )
