"""The tracked jobs of a daemon: their records, their folders, and the context of the loops that move them."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Self

from attrs import field, frozen

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.disk_retry import Disk
from dispatchd.agent.tracking.fence import Fence
from dispatchd.agent.tracking.log_watch import LogWatch
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.notifier import Notifier
from dispatchd.linux.clock import SteadyClock


@frozen(kw_only=True)
class Tracking:
    """Objects that hold the tracked jobs, and the context of the loops that move them."""

    context: Context
    tracker: Tracker
    fence: Fence
    runs: Runs
    logs: LogWatch = field(factory=LogWatch)

    @classmethod
    def of(  # noqa: PLR0913  # wiring has as many parts
        cls,
        current: CurrentConfig,
        store: JobStore,
        clock: SteadyClock,
        bugs: BugFence,
        *,
        random: Random,
        changed: Notifier,
        watchers: Sequence[Callable[[TrackedJob], None]] = (),
    ) -> Self:
        """Wire those of an open store. `changed` notifies the loops; `watchers` are called with every durable record."""
        tracker = Tracker(store, clock, Disk(random), watchers, changed)
        return cls(
            context=Context(current=current, clock=clock, random=random, bugs=bugs),
            tracker=tracker,
            fence=Fence(tracker, clock),
            runs=Runs.open(current.config.state_folder),
            logs=LogWatch(changed),
        )
