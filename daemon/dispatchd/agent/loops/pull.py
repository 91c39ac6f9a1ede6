"""Pull: room, then a job, then its folder, then its record.

Only work that this machine can start soon is taken; the rest stays with the endpoint for others. Cancel jobs
are always taken. A job that has arrived is made durable before anything else happens, even while the daemon is
stopping.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskStatus
from attrs import define, field, frozen

from dispatchd.agent.config.keys import Cloud
from dispatchd.agent.domain.delivery import Delivery, NoJob, record_lost, rejection
from dispatchd.agent.domain.long_poll import Hold
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.runnable_workflows import Machine, unfit
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.tracking.liveness import SLACK_S, STEP_S
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.ports import Permission, Source
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.concurrency.retry import Retry
from dispatchd.errors import RemoteError, StoreUnavailable
from dispatchd.protocol.backoff import full_jitter_s
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

_TOO_OFTEN: Final = 5
"""Deliveries of one job in a row, beside the first two, that are worth a warning (count)."""

_BUSY: Final = (Phase.PENDING_ACCEPT, Phase.ACCEPTED, Phase.RUNNING, Phase.RETRY_WAIT)


@define
class _Polls:
    """Polls of one kind: the hold to ask for, and the failures in a row."""

    hold: Hold
    retry: Retry
    was_known: bool = False
    """True if this machine knew the newest job before it came."""
    again: Counter[str] = field(factory=Counter)
    """Number of times in a row that a poll brought this job, which this machine already had, by job id (count)."""


def _nothing() -> None:
    """Do nothing, where nobody listens."""


@frozen(kw_only=True)
class Listeners:
    """Called with news for others that an answer to a pull brings."""

    revoked: Callable[[], None] = _nothing
    """The endpoint has revoked this machine."""
    early_end: Callable[[], None] = _nothing
    """The endpoint has ended a held poll early and empty: it has news of a job that this machine has."""


@define(kw_only=True)
class PullLoop:
    """Takes jobs from the source while there is room for them."""

    source: Source
    permissions: Sequence[Permission]
    """Permissions to take jobs; all of them have to agree."""
    tracker: Tracker
    runs: Runs
    machine: Machine
    """Abilities of this machine for runs."""
    context: Context
    listeners: Listeners = field(factory=Listeners)
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
            polls = self._polls()
            await self.context.bugs.rounds(
                _JOBS,
                partial(self._pull_job, polls),
                on_pause=partial(self._pause, _JOBS),
            )

    @property
    def _cloud(self) -> Cloud:
        return self.context.config.cloud

    def _polls(self) -> _Polls:
        return _Polls(Hold.of(self._cloud.hold_s), Retry(self.context.random))

    async def _pull_cancels(self) -> None:
        polls = self._polls()
        await self.context.bugs.rounds(
            _CANCELS,
            partial(self._pull_cancel, polls),
            on_pause=partial(self._pause, _CANCELS),
        )

    def _pause(self, who: str, seconds: float) -> None:
        self.context.activity.say(who, "waiting after a bug")
        self.context.liveness.expect(who, seconds + SLACK_S)

    async def _pull_job(self, polls: _Polls) -> None:
        """Ask for a job once there is room for one."""
        await self._wait_for_room()
        polls.hold = hold = polls.hold.up_to(self._cloud.hold_s)
        failures = polls.retry.failures
        again = f"asking again after {failures} failures"
        self.context.activity.say(_JOBS, again if failures else "asking for a job")
        # The first poll, also after an outage, is answered at once: that shows early whether all is well.
        asked_s = hold.now_s if self.context.activity.is_well else 0.0
        try:
            self.context.liveness.expect(
                _JOBS, asked_s + self._cloud.call_timeout_s + SLACK_S
            )
            answer = await self._poll(asked_s, polls)
        except RemoteError as error:
            await self._back_off(_JOBS, error, polls.retry)
            return
        polls.retry.worked()
        self._note_success(answer, asked_s)
        await self._pause_if_known(_JOBS, answer, polls)
        if isinstance(answer, NoJob) and (asked_s or not hold.now_s):
            polls.hold = await self._until_next(_JOBS, answer, hold)

    async def _pull_cancel(self, polls: _Polls) -> None:
        """Ask for cancel jobs alone while no others are taken, where the endpoint supports that.

        A poll that is under way when there is room again is left to end by itself: its job must not be lost.
        """
        self.context.liveness.rest(_CANCELS)
        self.context.bugs.worked(_CANCELS)
        if not self._no_room.is_set():
            self.context.activity.say(_CANCELS, "cancel jobs come with the others")
            await self._no_room.wait()
        bell = self.tracker.changed.next
        if not self._may_ask_for_cancels():
            self.context.activity.say(
                _CANCELS, "the endpoint has shown no capabilities"
            )
            await bell.wait()
            return
        polls.hold = hold = polls.hold.up_to(self._cloud.hold_s)
        self.context.activity.say(_CANCELS, "asking for cancel jobs alone")
        asked_s = 0.0 if polls.retry.failures else hold.now_s
        self.context.liveness.expect(
            _CANCELS, asked_s + self._cloud.call_timeout_s + SLACK_S
        )
        try:
            answer = await self.source.pull(asked_s, cancels_only=True)
        except RemoteError as error:
            await self._back_off(_CANCELS, error, polls.retry)
            return
        polls.retry.worked()
        self._note_success(answer, asked_s)
        if isinstance(answer, NoJob):
            polls.hold = await self._until_next(_CANCELS, answer, hold)
            return
        if not answer.job.is_cancel:
            self._log.warning("cancel_only_pull_ignored", job_id=answer.job.id)
            self._ignores_lists = True
        with self.context.activity.poll():
            await self._deliver(_CANCELS, answer, polls)
        await self._pause_if_known(_CANCELS, answer, polls)

    async def _pause_if_known(
        self, who: str, answer: Delivery | NoJob, polls: _Polls
    ) -> None:
        """Wait before the next poll where an endpoint hands out the same jobs again and again."""
        if isinstance(answer, NoJob) or not polls.was_known:
            polls.again.clear()
            return
        polls.again[answer.job.id] += 1
        times = polls.again[answer.job.id] - 1
        if not times:
            # A lost answer, or a hub that was restored.
            return
        pause_s = full_jitter_s(times, self.context.random.random())
        if times == _TOO_OFTEN:
            self._log.warning(
                "job_handed_out_too_often",
                job_id=answer.job.id,
                times=times,
                hint="this machine has it already; the endpoint has to wait for its accept or finish",
            )
        self.context.activity.say(who, f"waiting: job {answer.job.id} has come again")
        self.context.liveness.expect(who, pause_s + SLACK_S)
        await anyio.sleep(pause_s)

    def _may_ask_for_cancels(self) -> bool:
        """Return whether the endpoint has shown, now or before a restart, that it supports lists of workflows."""
        shown = self._has_capabilities or any(
            CAPABILITIES in record.job.extensions
            for record in self.tracker.in_phase(*Phase)
        )
        return shown and not self._ignores_lists

    async def _until_next(self, who: str, answer: NoJob, hold: Hold) -> Hold:
        """Wait until the next pull is due, and return the hold to ask for then."""
        if answer.cut_after_s is not None:
            hold = hold.after_cut(answer.cut_after_s)
            self._log.debug(
                "poll_cut_on_the_way",
                after_s=round(answer.cut_after_s, 1),
                next_hold_s=round(hold.now_s),
            )
        elif answer.held:
            hold = hold.after_full()
        else:
            self.context.activity.say(who, "waiting for the next poll")
            pause_s = max(
                _SHORTEST_PAUSE_S,
                self._cloud.poll_interval_s * self.context.random.random(),
            )
            self.context.liveness.expect(who, pause_s + SLACK_S)
            await anyio.sleep(pause_s)
        return hold

    async def _poll(self, asked_s: float, polls: _Polls) -> Delivery | NoJob:
        """Ask once, and make the answer durable. For a drain the poll counts as under way until then."""
        with self.context.activity.poll():
            answer = await self.source.pull(asked_s)
            if isinstance(answer, Delivery):
                await self._deliver(_JOBS, answer, polls)
        return answer

    async def _wait_for_room(self) -> None:
        while True:
            bell = self.tracker.changed.next
            self.context.liveness.expect(_JOBS, STEP_S)
            blocked_reason = self._blocked_reason()
            if not blocked_reason:
                if self._no_room.is_set():
                    self._no_room = anyio.Event()
                self.context.activity.ask_since(self.context.clock.since_boot())
                return
            self._no_room.set()
            self.context.activity.stop_asking()
            if self.context.activity.doing.get(_JOBS) != blocked_reason:
                self._log.info("pull_paused", reason=blocked_reason)
            self.context.activity.say(_JOBS, blocked_reason)
            with anyio.move_on_after(_DISK_LOOK_S):
                await bell.wait()

    def _blocked_reason(self) -> str:
        for permission in self.permissions:
            if permission.blocked_reason:
                return permission.blocked_reason
        busy = sum(not record.job.is_cancel for record in self.tracker.in_phase(*_BUSY))
        config = self.context.config
        if busy >= config.room:
            return "waiting for room: as many jobs as slots and queue allow"
        if self.tracker.disk.error:
            return f"waiting for the disk: {self.tracker.disk.error}"
        least, folder = config.min_free_bytes, config.state_folder
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < least:
            return f"waiting for the disk: less than {least >> 20} MiB free in {folder}"
        return ""

    async def _deliver(self, who: str, delivery: Delivery, polls: _Polls) -> None:
        delivered = False
        while not delivered:
            # A stop must not lose a job that the endpoint has handed out, nor wait forever for a full disk.
            self.context.liveness.expect(who, STEP_S)
            with anyio.move_on_after(_STOPPING_S, shield=True):
                polls.was_known = await self._track(delivery)
                delivered = True
            await anyio.lowlevel.checkpoint()

    async def _track(self, delivery: Delivery) -> bool:
        """Make a job durable; return whether this machine knew it before."""
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

        was_known = await self.tracker.find(job_id) is not None
        if not was_known and await self._may_run(job_id):
            refusal: Verdict | None = record_lost()
        else:
            workflows = self.context.config.workflows
            refusal = rejection(delivery, workflows, unfit(workflows, self.machine))
        await self.tracker.receive(
            delivery.job, store_texts=store_texts, rejection=refusal
        )
        return was_known

    async def _may_run(self, job_id: str) -> bool:
        """Return whether a process of an unknown job may run, its record being unreadable."""
        return self.tracker.is_quarantined(job_id) and await to_thread.run_sync(
            self.runs.has_attempts, job_id
        )

    def _note_success(self, answer: Delivery | NoJob, asked_s: float) -> None:
        self._note_skew()
        if isinstance(answer, NoJob) and answer.cut_after_s is not None:
            # A proxy without an endpoint behind it cuts polls too, so a cut proves no endpoint.
            self.context.activity.pulls["cut"] += 1
            return
        if not self.context.activity.is_well:
            self._log.info("endpoint_answers", before=self.context.activity.endpoint)
        result = "job" if isinstance(answer, Delivery) else "none"
        self.context.activity.pulled(result, self.context.clock.since_boot())
        if isinstance(answer, Delivery):
            self._has_capabilities = CAPABILITIES in answer.job.extensions
            self.context.activity.offer(answer.job.extensions)
            if answer.holds:
                self.context.activity.show_long_poll(holds=True)
        elif asked_s:
            self.context.activity.show_long_poll(
                holds=answer.held or answer.ended_early
            )
            if answer.ended_early:
                self.listeners.early_end()
        self.context.activity.changed.notify()

    def _note_skew(self) -> None:
        skew = self.source.clock_skew
        if bool(skew) != bool(self.context.activity.skew):
            if skew:
                self._log.warning("clock_skew", difference=skew)
            else:
                self._log.info("clock_skew_over")
        self.context.activity.measure_skew(skew)

    async def _back_off(self, who: str, error: RemoteError, retry: Retry) -> None:
        self._note_skew()
        delay_s, failures = retry.failed(error.retry_after_s), retry.failures
        self._log.warning(
            "pull_failed",
            who=who,
            error=str(error),
            kind=type(error).__name__,
            failures=failures,
            retry_in_s=round(delay_s, 2),
        )
        self.context.activity.pull_failed(error, failures)
        if self.context.activity.is_revoked:
            self.listeners.revoked()
        self.context.activity.say(
            who, f"waiting after {failures} failures: {error.reason}"
        )
        self.context.liveness.expect(who, delay_s + SLACK_S)
        await anyio.sleep(delay_s)
