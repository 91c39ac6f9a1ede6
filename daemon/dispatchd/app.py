"""The composition root: builds the objects from the configuration, opens them, and runs the daemon."""

import os
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

import httpx
import structlog

from dispatchd.clock import SteadyClock
from dispatchd.cloud.caller import Caller
from dispatchd.cloud.client import DispatchEndpoint
from dispatchd.config import Config
from dispatchd.control.server import ControlServer
from dispatchd.daemon import Daemon
from dispatchd.engines.local.cgroup import Cgroups
from dispatchd.engines.local.engine import LocalEngine
from dispatchd.engines.local.secrets import SecretReader
from dispatchd.identity import Granted, identity
from dispatchd.known_secrets import KnownSecrets
from dispatchd.log import configure
from dispatchd.loops.board import Board
from dispatchd.loops.conclude import Concluder
from dispatchd.loops.disk import Disk
from dispatchd.loops.follow import Follower
from dispatchd.loops.heartbeat import HeartbeatLoop
from dispatchd.loops.progress import ProgressFeed
from dispatchd.loops.prune import PruneLoop
from dispatchd.loops.pull import PullLimits, PullLoop
from dispatchd.loops.report import ReportLoop
from dispatchd.loops.run import RunLoop
from dispatchd.loops.start import Starter
from dispatchd.loops.tracker import Tracker
from dispatchd.outward import open_caller
from dispatchd.status import StatusFile
from dispatchd.steering import Steering, license_routes
from dispatchd.store.jobs import JobStore, lock
from dispatchd.store.runs import Runs

_CANCEL_SLACK_S: Final = 5.0
"""How much longer than its grace a cancelled run may take to be seen as ended (seconds)."""

_INHERITED: Final = ("PATH", "HOME", "LANG", "TZ", "USER")
"""What a run gets of the daemon's own environment; all else would leak."""

_CONNECTIONS: Final = httpx.Limits(
    max_connections=24, max_keepalive_connections=12, keepalive_expiry=30.0
)


async def serve(config: Config, *, environment: Mapping[str, str]) -> None:
    """Run the daemon until it is told to stop; the runs it has started stay alive.

    Args:
        config: A checked configuration.
        environment: The daemon's own environment.

    Fails with a UserError if the state folder can't be used.
    """
    known = KnownSecrets()
    configure(
        config.log.level,
        config.log.format,
        known=known,
        under_systemd="JOURNAL_STREAM" in environment,
    )
    log = structlog.get_logger()
    if config.secret_is_exposed:
        log.warning(
            "secret_open_to_other_users",
            path=str(config.secret_file),
            to_do="chmod 600",
        )
    async with AsyncExitStack() as stack:
        lock_fd = lock(config.state_folder)
        stack.callback(os.close, lock_fd)
        store, quarantined = JobStore.open(config.state_folder)
        stack.callback(store.close)
        for each in quarantined:
            log.error(
                "record_quarantined",
                path=str(each.path),
                moved_to=str(each.moved_to),
                reason=each.reason,
            )
        clock = SteadyClock.open(config.state_folder)
        caller = await stack.enter_async_context(
            open_caller(config, environment, clock, _CONNECTIONS)
        )
        await build(config, store, caller, clock, known, environment).run()


def build(
    config: Config,
    store: JobStore,
    caller: Caller,
    clock: SteadyClock,
    known: KnownSecrets,
    environment: Mapping[str, str],
) -> Daemon:
    """Wire a daemon for an open store."""
    rng, board, engine = (
        random.Random(),  # noqa: S311  # for jitter, not for secrets
        Board(),
        LocalEngine(SecretReader(environment=environment), known, Cgroups.find()),
    )
    limits = config.limits
    runs = Runs.open(config.state_folder)
    tracker = Tracker(store, clock, Disk(rng))
    who = identity(config, caller, known, clock, environment, tracker.ring)
    source = DispatchEndpoint(
        caller=caller,
        credentials=who.credentials,
        call_timeout_s=config.cloud.call_timeout_s,
    )
    concluder = Concluder(
        tracker=tracker,
        runs=runs,
        known=known,
        clock=clock,
        random=rng,
        retry_wait_s=limits.retry_wait_s,
    )
    starter = Starter(
        engine=engine,
        tracker=tracker,
        runs=runs,
        concluder=concluder,
        known=known,
        base_env={
            name: environment[name] for name in _INHERITED if name in environment
        },
    )
    follower = Follower(
        engine=engine,
        tracker=tracker,
        runs=runs,
        clock=clock,
        concluder=concluder,
    )
    pull_limits = PullLimits(
        room=limits.slots + limits.queue_ahead,
        min_free_bytes=config.min_free_bytes,
        folder=config.state_folder,
        hold_s=config.cloud.hold_s,
        poll_interval_s=config.cloud.poll_interval_s,
    )
    graces = [
        limits.kill_grace_s,
        *(workflow.kill_grace_s for workflow in config.workflows.values()),
    ]
    return Daemon(
        tracker=tracker,
        pull=PullLoop(
            source=source,
            permission=Granted() if who.license is None else who.license,
            tracker=tracker,
            runs=runs,
            workflows=config.workflows,
            limits=pull_limits,
            board=board,
            clock=clock,
            random=rng,
        ),
        run_loop=RunLoop(
            starter=starter,
            follower=follower,
            concluder=concluder,
            tracker=tracker,
            runs=runs,
            workflows=config.workflows,
            slots=limits.slots,
            board=board,
            clock=clock,
        ),
        report=ReportLoop(
            source=source,
            tracker=tracker,
            runs=runs,
            board=board,
            clock=clock,
            random=rng,
        ),
        heartbeat=HeartbeatLoop(
            source=source, tracker=tracker, progress=ProgressFeed(runs)
        ),
        prune=PruneLoop(
            store=store,
            runs=runs,
            concluder=concluder,
            clock=clock,
            history_days=config.history_days,
        ),
        status=StatusFile(
            path=config.state_folder / "status.json", board=board, tracker=tracker
        ),
        control=ControlServer(
            folder=config.state_folder,
            routes={**Steering(tracker).routes(), **license_routes(who.license)},
        ),
        license=who.license,
        cancel_wait_s=max(graces) + _CANCEL_SLACK_S,
    )
