"""Wiring of the objects that track and run jobs, from any source."""

import random
from collections.abc import Callable, Sequence
from typing import Self

from attrs import frozen

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.engine.local.engine import LocalEngine
from dispatchd.agent.runs.conclude import Concluder
from dispatchd.agent.runs.follow import Follower, Guard, unguarded
from dispatchd.agent.runs.leftovers import Leftovers
from dispatchd.agent.runs.run import RunLoop
from dispatchd.agent.runs.start import Starter
from dispatchd.agent.runs.workspaces import Workspaces
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.context import Context
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.ports import Source
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.notifier import Notifier
from dispatchd.process.clock import SteadyClock
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class Tracking:
    """Objects that hold the tracked jobs, and the context of the loops that move them."""

    context: Context
    tracker: Tracker
    fence: Fence
    runs: Runs

    @classmethod
    def of(
        cls,
        current: CurrentConfig,
        store: JobStore,
        clock: SteadyClock,
        bugs: BugFence,
        *,
        changed: Notifier,
        watchers: Sequence[Callable[[TrackedJob], None]] = (),
    ) -> Self:
        """Wire those of an open store. `changed` notifies the loops; `watchers` are called with every durable record."""
        rng = random.Random()  # noqa: S311  # for jitter, not for secrets
        tracker = Tracker(store, clock, Disk(rng), watchers, changed)
        return cls(
            context=Context(current=current, clock=clock, random=rng, bugs=bugs),
            tracker=tracker,
            fence=Fence(tracker, clock),
            runs=Runs.open(current.config.state_folder),
        )


@frozen(kw_only=True)
class Execution:
    """The loop that runs tracked jobs, and its parts that others need."""

    run_loop: RunLoop
    concluder: Concluder
    leftovers: Leftovers


def execution(
    shared: Tracking,
    engine: LocalEngine,
    known: KnownSecrets,
    source: Source | None = None,
    guard: Guard = unguarded,
) -> Execution:
    """Wire the objects that run the tracked jobs. `source` gives tokens to runs, `guard` keeps their files usable."""
    context, tracker, runs = shared.context, shared.tracker, shared.runs
    concluder = Concluder(
        tracker=tracker,
        runs=runs,
        workspaces=Workspaces(tracker, runs, context.bugs),
        known=known,
        context=context,
    )
    starter = Starter(
        engine=engine,
        tracker=tracker,
        fence=shared.fence,
        runs=runs,
        concluder=concluder,
        source=source,
        context=context,
    )
    leftovers = Leftovers(engine, context.bugs)
    follower = Follower(
        engine=engine,
        tracker=tracker,
        runs=runs,
        clock=context.clock,
        concluder=concluder,
        leftovers=leftovers,
        guard=guard,
    )
    run_loop = RunLoop(
        starter=starter,
        follower=follower,
        concluder=concluder,
        fence=shared.fence,
        tracker=tracker,
        machine=engine.machine,
        context=context,
    )
    return Execution(
        run_loop=run_loop,
        concluder=concluder,
        leftovers=leftovers,
    )
