"""Replay: a job's payload again, as a new local run of which nothing is reported.

It has a state folder of its own below the daemon's, so that neither can touch the other's jobs. No endpoint
knows of it: accept and finish count as answered.
"""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

import anyio
from anyio.abc import TaskStatus
from attrs import evolve, frozen

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.local.git_way import GitWay
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.lock import lock
from dispatchd.agent.store.names import file_name
from dispatchd.agent.store.runs import RunFolder, Runs
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.agent.wiring_of_runs import Execution, execution
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.notifier import Notifier
from dispatchd.errors import (
    FolderDamaged,
    FolderUnusable,
    InvalidTransition,
    UsageError,
)
from dispatchd.linux.clock import SteadyClock
from dispatchd.linux.folder_tree import remove_tree
from dispatchd.protocol.job import Job
from dispatchd.redaction.known_secrets import KnownSecrets

_KEPT: Final = 10
"""Most replays that are kept (count): the newest."""

_ENDED: Final = (Phase.FINISHING, Phase.NEEDS_ATTENTION)


@frozen(kw_only=True)
class Replay:
    """Replay before its start: the job as it will be run, and its folder."""

    job: Job
    state_folder: Path
    payload: str
    headers: str

    @property
    def run_folder(self) -> RunFolder:
        """Files of its run."""
        return Runs.at(self.state_folder).folder(self.job.id)


def lay_out(config: Config, past: TrackedJob, workflow: str) -> Replay:
    """Return a replay of a job in a new folder, and remove the oldest ones.

    Args:
        config: The daemon's configuration.
        past: The job.
        workflow: The workflow to run; empty for the one that the job asked for.

    Raises:
        UsageError: There is nothing that could be run, or this isn't the daemon's user.
        FolderUnusable: The folder can't be made.
    """
    cannot = f"replay job {past.job.id}"
    name = workflow or past.job.workflow
    if past.job.is_cancel:
        raise UsageError(cannot=cannot, reason="it is a cancel job, which runs nothing")
    if name not in config.workflows:
        known = ", ".join(sorted(config.workflows)) or "none"
        reason = f"there is no workflow {name!r}; --workflow takes one of: {known}"
        raise UsageError(cannot=cannot, reason=reason)
    owner = config.state_folder.stat().st_uid
    if os.geteuid() != owner:
        # The job comes from elsewhere: its processes must not get more power than in the daemon.
        reason = f"runs belong to the daemon's user; use: sudo -u '#{owner}' dispatchd replay ..."
        raise UsageError(cannot=cannot, reason=reason)
    runs = Runs.at(config.state_folder)
    try:
        payload, headers = runs.read_texts(runs.folder(past.run_id))
    except FolderDamaged as error:
        reason = f"its payload is not kept any more ({error.path}: {error.reason}; store.history_days)"
        raise UsageError(cannot=cannot, reason=reason) from error
    job = evolve(past.job, workflow=name, claim_token="", lease_s=None, extensions=())
    folder = _new_folder(config.state_folder / "replays", file_name(job.id))
    return Replay(job=job, state_folder=folder, payload=payload, headers=headers)


async def play(
    replay: Replay, config: Config, environment: Mapping[str, str], known: KnownSecrets
) -> TrackedJob:
    """Run a replay, and return its record, which is then `finishing` or `needs_attention`.

    SIGINT and SIGTERM cancel it.

    Raises:
        UserError: Its folder can't be used.
    """
    held = lock(replay.state_folder)
    store, _ = JobStore.open(replay.state_folder)
    folders = (config.state_folder, config.control_folder)
    way = GitWay.of(config, environment)
    engine = LocalEngine.here(environment, known, folders, way)
    try:
        own = evolve(config, state_folder=replay.state_folder)
        clock = SteadyClock.open(replay.state_folder)
        shared = Tracking.of(
            CurrentConfig(own),
            store,
            clock,
            BugFence(),
            random=Random(),  # noqa: S311  # for jitter, not for secrets
            changed=Notifier(),
        )
        core = execution(shared, engine, known)
        try:
            return await _run(replay, shared, core)
        finally:
            # No later round removes it here.
            with anyio.CancelScope(shield=True):
                await core.concluder.workspaces.remove(shared.runs.trash.contents())
    finally:
        engine.close()
        store.close()
        held.close()


async def _run(replay: Replay, shared: Tracking, core: Execution) -> TrackedJob:
    job_id, tracker = replay.job.id, shared.tracker

    def store_texts() -> None:
        shared.runs.create(job_id, payload=replay.payload, headers=replay.headers)

    async with anyio.create_task_group() as tasks:
        received = await tracker.receive(replay.job, store_texts=store_texts)
        await tracker.answered(received, Event.ACCEPT_CONFIRMED)
        await tasks.start(_cancel_at_signals, job_id, tracker)
        await tasks.start(core.run_loop.run)
        record = await _until_ended(job_id, tracker)
        tasks.cancel_scope.cancel()
    return record


async def _until_ended(job_id: str, tracker: Tracker) -> TrackedJob:
    while True:
        bell = tracker.changed.next
        for record in tracker.in_phase(*_ENDED):
            if record.job.id == job_id:
                return record
        await bell.wait()


async def _cancel_at_signals(
    job_id: str, tracker: Tracker, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            try:
                await tracker.cancel(job_id, f"Cancelled by {number.name}.")
            except InvalidTransition:
                # The run has ended meanwhile.
                return


def _new_folder(parent: Path, name: str) -> Path:
    try:
        parent.mkdir(mode=0o700, exist_ok=True)
        numbers = {
            int(digits): path
            for path in parent.iterdir()
            if (digits := path.name.partition("-")[0]).isdecimal()
        }
        for number in sorted(numbers)[: 1 - _KEPT or None]:
            # A folder that can't be removed is tried again by the next replay.
            remove_tree(numbers[number])
        folder = parent / f"{max(numbers, default=0) + 1}-{name}"
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise FolderUnusable(folder=parent, error=error) from error
    return folder
