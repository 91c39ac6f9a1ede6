"""Pull: room, then a job, then its folder, then its record.

Only work that this machine can start soon is taken; the rest stays with the endpoint for others. Cancel jobs
are always taken. A job that has arrived is made durable before anything else happens, even while the daemon is
stopping.
"""

import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.file import Cloud
from dispatchd.agent.domain.delivery import Delivery, NoJob, record_lost, rejection
from dispatchd.agent.domain.fitness import Machine, unfit
from dispatchd.agent.domain.long_poll import Hold
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.activity import Activity
from dispatchd.agent.tracking.liveness import SLACK_S, STEP_S, Liveness
from dispatchd.agent.tracking.ports import Clock, Permission, Source
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import RemoteError, Revoked, StoreUnavailable
from dispatchd.protocol.backoff import next_try_s
from dispatchd.protocol.extensions import CAPABILITIES
from dispatchd.protocol.outcome import Verdict

_DISK_LOOK_S: Final = 2.0
"""Time between two looks at the free space while there is too little (seconds): nothing announces it."""

_SHORTEST_PAUSE_S: Final = 0.5
"""Shortest pause between two polls that the endpoint doesn't hold (seconds)."""

_STOPPING_S: Final = 10.0
"""Longest time for which a job that has arrived delays a stop until it is on disk (seconds)."""

_JOBS: Final = "pull"
"""Name, in the activity and the liveness, of the loop that asks for jobs."""

_CANCELS: Final = "cancels"
"""Name of the loop that asks for cancel jobs alone."""

_WELL: Final = "ok"
"""Text in the activity for an endpoint that answered the last pull."""

_BUSY: Final = (Phase.PENDING_ACCEPT, Phase.ACCEPTED, Phase.RUNNING, Phase.RETRY_WAIT)


@define
class _Polls:
    """Polls of one kind: the hold to ask for, and the number of failures in a row."""

    hold: Hold
    failures: int = 0


@define(kw_only=True)
class PullLoop:
    """Takes jobs from the source while there is room for them."""

    source: Source
    permissions: Sequence[Permission]
    """Permissions to take jobs; all of them have to agree."""
    tracker: Tracker
    runs: Runs
    current: CurrentConfig
    machine: Machine
    """Abilities of this machine for runs."""
    activity: Activity
    liveness: Liveness
    bugs: BugFence
    clock: Clock
    random: random.Random
    on_revoked: Callable[[], None]
    """Called when the endpoint says that it has revoked this machine."""
    on_early_end: Callable[[], None]
    """Called when the endpoint ends a held poll early and empty: it has news of a job that this machine has."""
    _no_room: anyio.Event = field(factory=anyio.Event, init=False)
    """Set while only cancel jobs may be taken."""
    _has_capabilities: bool = field(default=False, init=False)
    """True if the newest job of this daemon has shown that the endpoint supports lists of workflows."""
    _ignores_lists: bool = field(default=False, init=False)
    """True if the endpoint has handed out another job where it was asked for cancel jobs alone."""
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Pull until cancelled."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            tasks.start_soon(self._pull_cancels, name="pull of cancel jobs")
            polls = _Polls(Hold.of(self._cloud.hold_s))
            await self.bugs.rounds(
                _JOBS,
                partial(self._pull_job, polls),
                on_pause=partial(self._pause, _JOBS),
            )

    @property
    def _cloud(self) -> Cloud:
        return self.current.config.cloud

    async def _pull_cancels(self) -> None:
        polls = _Polls(Hold.of(self._cloud.hold_s))
        await self.bugs.rounds(
            _CANCELS,
            partial(self._pull_cancel, polls),
            on_pause=partial(self._pause, _CANCELS),
        )

    def _pause(self, who: str, seconds: float) -> None:
        self.activity.say(who, "waiting after a bug")
        self.liveness.expect(who, seconds + SLACK_S)

    async def _pull_job(self, polls: _Polls) -> None:
        """Ask for a job once there is room for one."""
        await self._wait_for_room()
        polls.hold = hold = polls.hold.up_to(self._cloud.hold_s)
        again = f"asking again after {polls.failures} failures"
        self.activity.say(_JOBS, again if polls.failures else "asking for a job")
        # The first poll, also after an outage, is answered at once: that shows early whether all is well.
        asked_s = hold.now_s if self.activity.endpoint == _WELL else 0.0
        try:
            self.liveness.expect(_JOBS, asked_s + self._cloud.call_timeout_s + SLACK_S)
            found = await self._poll(asked_s)
        except RemoteError as error:
            polls.failures += 1
            await self._back_off(_JOBS, error, polls.failures)
            return
        polls.failures = 0
        self._note_success(found, asked_s)
        if isinstance(found, NoJob) and (asked_s or not hold.now_s):
            polls.hold = await self._until_next(_JOBS, found, hold)

    async def _pull_cancel(self, polls: _Polls) -> None:
        """Ask for cancel jobs alone while no others are taken, where the endpoint supports that.

        A poll that is under way when there is room again is left to end by itself: its job must not be lost.
        """
        self.liveness.rest(_CANCELS)
        self.bugs.worked(_CANCELS)
        if not self._no_room.is_set():
            self.activity.say(_CANCELS, "cancel jobs come with the others")
            await self._no_room.wait()
        bell = self.tracker.changed.next
        if not self._may_ask_for_cancels():
            self.activity.say(_CANCELS, "the endpoint has shown no capabilities")
            await bell.wait()
            return
        polls.hold = hold = polls.hold.up_to(self._cloud.hold_s)
        self.activity.say(_CANCELS, "asking for cancel jobs alone")
        asked_s = 0.0 if polls.failures else hold.now_s
        self.liveness.expect(_CANCELS, asked_s + self._cloud.call_timeout_s + SLACK_S)
        try:
            found = await self.source.pull(asked_s, cancels_only=True)
        except RemoteError as error:
            polls.failures += 1
            await self._back_off(_CANCELS, error, polls.failures)
            return
        polls.failures = 0
        self._note_success(found, asked_s)
        if isinstance(found, NoJob):
            polls.hold = await self._until_next(_CANCELS, found, hold)
            return
        if not found.job.is_cancel:
            self._log.warning("cancel_only_pull_ignored", job_id=found.job.id)
            self._ignores_lists = True
        await self._deliver(_CANCELS, found)

    def _may_ask_for_cancels(self) -> bool:
        """Return whether the endpoint has shown, now or before a restart, that it supports lists of workflows."""
        shown = self._has_capabilities or any(
            CAPABILITIES in record.job.extensions
            for record in self.tracker.in_phase(*Phase)
        )
        return shown and not self._ignores_lists

    async def _until_next(self, who: str, found: NoJob, hold: Hold) -> Hold:
        """Wait until the next pull is due, and return the hold to ask for then."""
        if found.cut_after_s is not None:
            hold = hold.after_cut(found.cut_after_s)
            self._log.debug(
                "poll_cut_on_the_way",
                after_s=round(found.cut_after_s, 1),
                next_hold_s=round(hold.now_s),
            )
        elif found.held:
            hold = hold.after_full()
        else:
            self.activity.say(who, "waiting for the next poll")
            pause_s = max(
                _SHORTEST_PAUSE_S, self._cloud.poll_interval_s * self.random.random()
            )
            self.liveness.expect(who, pause_s + SLACK_S)
            await anyio.sleep(pause_s)
        return hold

    async def _poll(self, asked_s: float) -> Delivery | NoJob:
        """Ask once, and make the answer durable. For a drain the poll counts as under way until then."""
        self.activity.polling = True
        try:
            found = await self.source.pull(asked_s)
            if isinstance(found, Delivery):
                await self._deliver(_JOBS, found)
        finally:
            self.activity.polling = False
            self.activity.changed.notify()
        return found

    async def _wait_for_room(self) -> None:
        while True:
            bell = self.tracker.changed.next
            self.liveness.expect(_JOBS, STEP_S)
            obstacle = self._obstacle()
            if not obstacle:
                if self._no_room.is_set():
                    self._no_room = anyio.Event()
                self.activity.asking_since = (
                    self.activity.asking_since or self.clock.now()
                )
                return
            self._no_room.set()
            self.activity.asking_since = None
            if self.activity.doing.get(_JOBS) != obstacle:
                self._log.info("pull_paused", reason=obstacle)
            self.activity.say(_JOBS, obstacle)
            with anyio.move_on_after(_DISK_LOOK_S):
                await bell.wait()

    def _obstacle(self) -> str:
        for permission in self.permissions:
            if permission.obstacle:
                return permission.obstacle
        busy = sum(not record.job.is_cancel for record in self.tracker.in_phase(*_BUSY))
        config = self.current.config
        if busy >= config.room:
            return "waiting for room: as many jobs as slots and queue allow"
        if self.tracker.disk.trouble:
            return f"waiting for the disk: {self.tracker.disk.trouble}"
        least, folder = config.min_free_bytes, config.state_folder
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < least:
            return f"waiting for the disk: less than {least >> 20} MiB free in {folder}"
        return ""

    async def _deliver(self, who: str, delivery: Delivery) -> None:
        delivered = False
        while not delivered:
            # A stop must not lose a job that the endpoint has handed out, nor wait forever for a full disk.
            self.liveness.expect(who, STEP_S)
            with anyio.move_on_after(_STOPPING_S, shield=True):
                await self._track(delivery)
                delivered = True
            await anyio.lowlevel.checkpoint()

    async def _track(self, delivery: Delivery) -> None:
        job_id = delivery.job.id

        def store_texts() -> None:
            try:
                self.runs.create(
                    job_id, payload=delivery.payload, headers=delivery.headers
                )
            except StoreUnavailable:
                # A cancel job runs nothing, and must get through to the run that has filled the disk.
                if not delivery.job.is_cancel:
                    raise

        await self.tracker.receive(
            delivery.job,
            store_texts=store_texts,
            rejection=await self._rejection(delivery),
        )

    async def _rejection(self, delivery: Delivery) -> Verdict | None:
        """Return why a job is not run, or None."""
        job_id = delivery.job.id
        if await self.tracker.is_unreadable(job_id) and self.runs.has_attempts(job_id):
            # A process of it may still run.
            return record_lost()
        workflows = self.current.config.workflows
        return rejection(delivery, workflows, unfit(workflows, self.machine))

    def _note_success(self, found: Delivery | NoJob, asked_s: float) -> None:
        self._note_skew()
        if isinstance(found, NoJob) and found.cut_after_s is not None:
            # A proxy without an endpoint behind it cuts polls too, so a cut proves no endpoint.
            self.activity.pulls["cut"] += 1
            return
        self.activity.pulls["job" if isinstance(found, Delivery) else "none"] += 1
        if self.activity.endpoint != _WELL:
            self._log.info("endpoint_answers", before=self.activity.endpoint)
        self.activity.endpoint = _WELL
        self.activity.failures, self.activity.is_revoked = 0, False
        self.activity.last_pull_at = self.clock.now()
        if isinstance(found, Delivery):
            self._has_capabilities = CAPABILITIES in found.job.extensions
            self.activity.extensions = tuple(sorted(found.job.extensions))
            self.activity.long_poll = found.holds or self.activity.long_poll
        elif asked_s:
            self.activity.long_poll = found.held or found.ended_early
            if found.ended_early:
                self.on_early_end()
        self.activity.changed.notify()

    def _note_skew(self) -> None:
        skew = self.source.clock_skew
        if bool(skew) != bool(self.activity.skew):
            if skew:
                self._log.warning("clock_skew", difference=skew)
            else:
                self._log.info("clock_skew_over")
        self.activity.skew = skew

    async def _back_off(self, who: str, error: RemoteError, failures: int) -> None:
        self._note_skew()
        delay_s = next_try_s(failures, error.retry_after_s, self.random.random())
        self._log.warning(
            "pull_failed",
            who=who,
            error=str(error),
            kind=type(error).__name__,
            failures=failures,
            retry_in_s=round(delay_s, 2),
        )
        self.activity.pulls[type(error).__name__] += 1
        self.activity.endpoint = f"{type(error).__name__}: {error.reason}"
        self.activity.failures, self.activity.is_revoked = (
            failures,
            isinstance(error, Revoked),
        )
        if self.activity.is_revoked:
            self.on_revoked()
        self.activity.say(who, f"waiting after {failures} failures: {error.reason}")
        self.liveness.expect(who, delay_s + SLACK_S)
        await anyio.sleep(delay_s)
