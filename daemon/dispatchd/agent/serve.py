"""Serve: opens the folders, the store and the way to the endpoint, and runs the daemon that `wiring.py` builds."""

from collections.abc import Mapping
from contextlib import AsyncExitStack, closing
from typing import Final

import httpx
import structlog

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.load import Config
from dispatchd.agent.control.socket_folder import claim
from dispatchd.agent.endpoint.open import needs_of, open_caller
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.local.git_way import GitWay
from dispatchd.agent.health.metrics import Metrics
from dispatchd.agent.store.held_folders import HeldFolders, restore_state
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.lock import lock
from dispatchd.agent.store.runs import Runs
from dispatchd.agent.wiring import Opened, StateFolder, Surroundings, build
from dispatchd.errors import MachineUnfit
from dispatchd.linux.clock import SteadyClock
from dispatchd.linux.prerequisites import prerequisites
from dispatchd.protocol.contracts import load_all
from dispatchd.protocol.finding import Level

_CONNECTIONS: Final = httpx.Limits(
    max_connections=24, max_keepalive_connections=12, keepalive_expiry=30.0
)


async def serve(config: Config, given: Surroundings) -> None:
    """Run the daemon until a signal stops it; `runs.on_shutdown` decides what its runs do.

    Raises:
        UserError: The state folder or an address can't be used.
    """
    environment = given.environment
    log = structlog.get_logger()
    load_all()
    if config.secret_is_exposed:
        log.warning(
            "secret_open_to_other_users",
            path=str(config.secret_file),
            to_do="chmod 600",
        )
    for warning in config.warnings:
        log.warning("key_renamed", what=warning)
    restored = restore_state(config.state_folder)
    if restored:
        log.warning("folder_modes_restored", count=restored)
    async with AsyncExitStack() as stack:
        stack.enter_context(lock(config.state_folder))
        warnings = _machine_warnings(config, environment)
        stack.enter_context(claim(config.control_folder, config.state_folder))
        current = CurrentConfig(config)
        metrics = Metrics(current)
        store, quarantined = JobStore.open(config.state_folder, metrics.put_s.observe)
        stack.callback(store.close)
        for record in quarantined:
            log.error(
                "record_quarantined",
                path=str(record.path),
                moved_to=str(record.moved_to),
                reason=record.reason,
            )
        clock = SteadyClock.open(config.state_folder, given.time)
        caller = await stack.enter_async_context(
            open_caller(config, environment, clock, _CONNECTIONS)
        )
        Runs.open(config.state_folder)
        held = stack.enter_context(closing(HeldFolders.open(config.state_folder)))
        folders = (config.state_folder, config.control_folder)
        way = GitWay.of(config, environment)
        engine = LocalEngine.here(environment, given.known, folders, way)
        engine.log_isolation()
        stack.callback(engine.close)
        opened = Opened(
            given=given,
            current=current,
            metrics=metrics,
            folder=StateFolder(store=store, held=held, clock=clock),
            engine=engine,
            caller=caller,
            warnings=warnings,
        )
        await build(opened).run(given.signals)


def _machine_warnings(config: Config, environment: Mapping[str, str]) -> list[str]:
    """Check the machine, and return the problems with which the daemon can run.

    Raises:
        MachineUnfit: Something is missing without which no job can be run well.
    """
    findings = list(prerequisites(needs_of(config, environment)))
    failed = [finding.message for finding in findings if finding.level is Level.FAILED]
    if failed:
        raise MachineUnfit(failed)
    warnings = [
        finding.message for finding in findings if finding.level is Level.WARNING
    ]
    for warning in warnings:
        structlog.get_logger().warning("machine_lacks", what=warning)
    return warnings
