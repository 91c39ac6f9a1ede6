"""Pull: room, then a job, then its folder, then its record.

Only work that this machine can start soon is taken; the rest stays with the endpoint for others. A job
that has arrived is made durable before anything else happens, also while the daemon is stopping.
"""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field, frozen

from dispatchd.domain.backoff import next_try_s
from dispatchd.domain.delivery import Delivery, NoJob
from dispatchd.domain.hold import Hold
from dispatchd.domain.outcome import FailureCause, Outcome, Verdict
from dispatchd.domain.phase import Phase
from dispatchd.domain.workflow import Workflow
from dispatchd.errors import RemoteError
from dispatchd.loops.board import Board
from dispatchd.loops.ports import Clock, Permission, Source
from dispatchd.loops.tracker import Tracker
from dispatchd.store.runs import Runs

_DISK_LOOK_S: Final = 2.0
"""How often free space is looked at while there is too little (seconds): nothing announces it."""

_SHORTEST_PAUSE_S: Final = 0.5
"""Shortest pause between two polls that the endpoint doesn't hold (seconds)."""

_STOPPING_S: Final = 10.0
"""How long a job that has arrived may hold up a stop until it is on disk (seconds)."""

_BUSY: Final = (Phase.PENDING_ACCEPT, Phase.ACCEPTED, Phase.RUNNING, Phase.RETRY_WAIT)


@frozen(kw_only=True)
class PullLimits:
    """How much is pulled, and how often.

    `room` counts unfinished jobs, `min_free_bytes` is the free space below which nothing is pulled;
    `hold_s` (seconds) is the hold asked of the endpoint, `poll_interval_s` (seconds) the longest pause
    between two polls that it doesn't hold.
    """

    room: int
    min_free_bytes: int
    folder: Path
    hold_s: float
    poll_interval_s: float


@define(kw_only=True)
class PullLoop:
    """Takes jobs from the source while there is room for them."""

    source: Source
    permission: Permission
    tracker: Tracker
    runs: Runs
    workflows: Mapping[str, Workflow]
    limits: PullLimits
    board: Board
    clock: Clock
    random: random.Random
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Pull until cancelled."""
        hold = Hold.of(self.limits.hold_s)
        failures = 0
        task_status.started()
        while True:
            await self._wait_for_room()
            self.board.say(
                "pull",
                "asking for a job"
                if failures == 0
                else f"asking again after {failures} failures",
            )
            try:
                found = await self.source.pull(hold.now_s)
            except RemoteError as error:
                failures += 1
                self._note_skew()
                await self._back_off(error, failures)
                continue
            failures = 0
            self._note_skew()
            self._note_success(found)
            if isinstance(found, Delivery):
                await self._deliver(found)
            elif found.cut_after_s is not None:
                hold = hold.after_cut(found.cut_after_s)
                self._log.debug(
                    "poll_cut_on_the_way",
                    after_s=round(found.cut_after_s, 1),
                    next_hold_s=round(hold.now_s),
                )
            elif found.held:
                hold = hold.after_full()
            else:
                self.board.say("pull", "waiting for the next poll")
                await anyio.sleep(
                    max(
                        _SHORTEST_PAUSE_S,
                        self.limits.poll_interval_s * self.random.random(),
                    )
                )

    async def _wait_for_room(self) -> None:
        while True:
            bell = self.tracker.bell
            obstacle = self._obstacle()
            if not obstacle:
                return
            if self.board.doing.get("pull") != obstacle:
                self._log.info("pull_paused", reason=obstacle)
            self.board.say("pull", obstacle)
            with anyio.move_on_after(_DISK_LOOK_S):
                await bell.wait()

    def _obstacle(self) -> str:
        if self.permission.obstacle:
            return f"not allowed: {self.permission.obstacle}"
        busy = sum(not record.job.is_cancel for record in self.tracker.in_phase(*_BUSY))
        if busy >= self.limits.room:
            return "waiting for room: as many jobs as slots and queue allow"
        if self.tracker.disk.trouble:
            return f"waiting for the disk: {self.tracker.disk.trouble}"
        disk = os.statvfs(self.limits.folder)
        if disk.f_bavail * disk.f_frsize < self.limits.min_free_bytes:
            return f"waiting for the disk: less than {self.limits.min_free_bytes >> 20} MiB free in {self.limits.folder}"
        return ""

    async def _deliver(self, delivery: Delivery) -> None:
        delivered = False
        while not delivered:
            # A stop must not lose what the endpoint has handed out, nor wait for ever for a full disk.
            with anyio.move_on_after(_STOPPING_S, shield=True):
                await self._track(delivery)
                delivered = True
            await anyio.lowlevel.checkpoint()

    async def _track(self, delivery: Delivery) -> None:
        job_id = delivery.job.id

        def store_texts() -> None:
            self.runs.create(job_id, payload=delivery.payload, headers=delivery.headers)

        await self.tracker.receive(
            delivery.job, store_texts=store_texts, rejection=self._rejection(delivery)
        )

    def _rejection(self, delivery: Delivery) -> Verdict | None:
        if delivery.flaw:
            summary = f"The job breaks the dispatch contract and was not run: {delivery.flaw}."
            return Verdict(
                outcome=Outcome.REJECTED,
                cause=FailureCause.INVALID_JOB,
                summary=summary,
            )
        if delivery.job.is_cancel or delivery.job.workflow in self.workflows:
            return None
        return unknown_workflow(delivery.job.workflow)

    def _note_success(self, found: Delivery | NoJob) -> None:
        if isinstance(found, NoJob) and found.cut_after_s is not None:
            # It may come from a proxy in front of nothing, so it proves no endpoint.
            return
        if self.board.endpoint != "ok":
            self._log.info("endpoint_answers", before=self.board.endpoint)
        self.board.endpoint = "ok"
        self.board.last_pull_at = self.clock.now()
        if isinstance(found, Delivery):
            self.board.extensions = tuple(sorted(found.job.extensions))
            self.board.long_poll = found.holds or self.board.long_poll
        else:
            self.board.long_poll = found.held
        self.board.ring()

    def _note_skew(self) -> None:
        skew = self.source.clock_skew
        if bool(skew) != bool(self.board.skew):
            if skew:
                self._log.warning("clock_skew", difference=skew)
            else:
                self._log.info("clock_skew_over")
        self.board.skew = skew

    async def _back_off(self, error: RemoteError, failures: int) -> None:
        delay_s = next_try_s(failures, error.retry_after_s, self.random.random())
        self._log.warning(
            "pull_failed",
            error=str(error),
            kind=type(error).__name__,
            failures=failures,
            retry_in_s=round(delay_s, 2),
        )
        self.board.endpoint = f"{type(error).__name__}: {error.reason}"
        self.board.say("pull", f"waiting after {failures} failures: {error.reason}")
        await anyio.sleep(delay_s)


def unknown_workflow(name: str) -> Verdict:
    """Return the verdict of a job whose workflow is not configured on this machine."""
    summary = f"This machine has no workflow called {name!r}, so nothing was run; its owner can add it to the configuration."
    return Verdict(
        outcome=Outcome.REJECTED, cause=FailureCause.UNKNOWN_WORKFLOW, summary=summary
    )
