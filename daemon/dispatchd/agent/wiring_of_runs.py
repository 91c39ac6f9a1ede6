"""Wiring of the objects that track and run jobs, from any source."""

from attrs import frozen

from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.engines.chosen import Engines
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.orphaned_starts import Janitor
from dispatchd.agent.run_loop.attempt import AttemptRunner, Guard, unguarded
from dispatchd.agent.run_loop.conclude import Concluder
from dispatchd.agent.run_loop.loop import RunLoop
from dispatchd.agent.run_loop.unkillable import Survivors
from dispatchd.agent.run_loop.workspaces import Workspaces
from dispatchd.agent.tracking.ports import Source
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class Execution:
    """The loop that runs tracked jobs, and its parts that others need."""

    run_loop: RunLoop
    concluder: Concluder
    survivors: Survivors
    engines: Engines
    janitor: Janitor | None
    """Tidies engines; None where none is configured."""


def execution(
    shared: Tracking,
    engine: LocalEngine,
    known: KnownSecrets,
    source: Source | None = None,
    guard: Guard = unguarded,
) -> Execution:
    """Wire the objects that run the tracked jobs. `source` gives tokens to runs, `guard` keeps their files usable.

    Raises:
        ConfigError: An engine of a third party can't be used.
    """
    context, tracker, runs = shared.context, shared.tracker, shared.runs
    concluder = Concluder(
        tracker=tracker,
        runs=runs,
        workspaces=Workspaces(tracker, runs, context.bugs),
        known=known,
        context=context,
        logs=shared.logs,
    )
    engines = Engines(
        engine,
        context.current,
        lambda: [
            record.attempt.remote
            for record in tracker.in_phase(Phase.RUNNING)
            if record.attempt is not None and record.attempt.remote is not None
        ],
    )
    engines.open()
    survivors = Survivors(engines, context.bugs)
    runner = AttemptRunner(
        tracking=shared,
        engine=engines,
        concluder=concluder,
        survivors=survivors,
        source=source,
        guard=guard,
    )
    run_loop = RunLoop(
        runner=runner,
        concluder=concluder,
        fence=shared.fence,
        tracker=tracker,
        machine=engine.machine,
        context=context,
    )
    return Execution(
        run_loop=run_loop,
        concluder=concluder,
        survivors=survivors,
        engines=engines,
        janitor=Janitor(engines, context.bugs) if context.config.engines else None,
    )
