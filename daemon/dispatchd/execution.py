"""Wiring of the objects that track and run jobs, from any source."""

import random
from collections.abc import Callable, Sequence

from attrs import frozen

from dispatchd.clock import SteadyClock
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.config import Config
from dispatchd.domain.fitness import Machine
from dispatchd.domain.job import TrackedJob
from dispatchd.engines.local.engine import LocalEngine
from dispatchd.loops.board import Board
from dispatchd.loops.conclude import Concluder
from dispatchd.loops.disk import Disk
from dispatchd.loops.fence import Fence
from dispatchd.loops.follow import Follower
from dispatchd.loops.leftovers import Leftovers
from dispatchd.loops.run import RunLoop
from dispatchd.loops.start import Starter
from dispatchd.loops.tracker import Tracker
from dispatchd.loops.workspaces import Workspaces
from dispatchd.redaction.known_secrets import KnownSecrets
from dispatchd.store.jobs import JobStore
from dispatchd.store.runs import Runs


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
    machine = Machine(controllers=engine.controllers, obstacle=engine.obstacle)
    run_loop = RunLoop(
        starter=starter,
        follower=follower,
        concluder=concluder,
        fence=fence,
        tracker=tracker,
        runs=runs,
        workflows=config.workflows,
        machine=machine,
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
        machine=machine,
        containment=engine.containment,
    )
