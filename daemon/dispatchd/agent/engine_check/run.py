"""A whole trial of an engine: every rule, one after the other, in a folder that is removed afterwards."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Final

import anyio
from anyio import CancelScope, to_thread
from anyio.abc import TaskStatus
from attrs import field, frozen

from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.launch import LOCAL
from dispatchd.agent.engine_check.bench import (
    Bench,
    Broken,
    Commands,
    NotJudged,
    own_config,
)
from dispatchd.agent.engine_check.place import make_place
from dispatchd.agent.engine_check.rules import RULES, Rule
from dispatchd.agent.engines.checked import checked
from dispatchd.errors import (
    EngineRefused,
    EngineSilent,
    NotReachable,
    RunError,
    UsageError,
    UserError,
)
from dispatchd.judging.judgement import Judgement, Verdict
from dispatchd.linux.folder_tree import remove_tree


@frozen(kw_only=True)
class Settings:
    """Engine of a trial, by its name in a configuration, and the terms of the trial."""

    config: Config
    name: str
    environment: Mapping[str, str]
    patience_s: float = 90.0
    """Longest time for a command to begin, or to end (seconds)."""
    commands: Commands = field(factory=Commands)
    rules: tuple[Rule, ...] = RULES


async def run_check(
    settings: Settings, heard: Callable[[Judgement], None] = lambda _: None
) -> list[Judgement]:
    """Return the judgement of every rule; `heard` is called with each as soon as it is there.

    Raises:
        UsageError: There is no such engine, or this isn't the daemon's user.
        NotReachable: It doesn't answer.
        UserError: It can't be used.
        FolderUnusable: The state folder can't be written.
    """
    await _answers(settings)
    config, name = own_config(settings.config, settings.name)
    with ExitStack() as held:
        folder = await to_thread.run_sync(make_place, config.state_folder, held)
        bench = Bench(
            config,
            name,
            settings.environment,
            folder,
            settings.patience_s,
            settings.commands,
        )
        judgements: list[Judgement] = []
        try:
            # Of a trial that was killed.
            await bench.tidy()
            for rule in settings.rules:
                judgements.append(await _judgement(rule, bench))
                heard(judgements[-1])
        finally:
            with CancelScope(shield=True):
                await bench.tidy()
                bench.close()
                await to_thread.run_sync(remove_tree, folder)
    return judgements


_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_until_signal(
    settings: Settings, heard: Callable[[Judgement], None]
) -> int:
    """Run a trial. Return the number of the signal that has ended it early, and all that it had started; else 0.

    Raises:
        UserError: It can't be run.
    """
    failed: UserError | None = None
    number = 0

    async def end_at_signals(*, task_status: TaskStatus[None]) -> None:
        nonlocal number
        # One that is ignored stays so, as SIGHUP under nohup(1). Python takes signals in its main thread alone.
        is_main = threading.current_thread() is threading.main_thread()
        wanted = [
            each
            for each in (_SIGNALS if is_main else ())
            if signal.getsignal(each) is not signal.SIG_IGN
        ]
        if not wanted:
            task_status.started()
            return
        with anyio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            async for number in signals:  # noqa: B007  # it is the answer
                tasks.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as tasks:
        await tasks.start(end_at_signals)
        try:
            await run_check(settings, heard)
        except UserError as error:
            # Raised outside of the task group, which would wrap it into an exception group.
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return number


async def _answers(settings: Settings) -> None:
    """Check that there is an engine, and that it answers.

    Raises:
        UsageError: There is none of this name, or this isn't the daemon's user.
        NotReachable: It doesn't answer.
    """
    name, engines = settings.name, settings.config.engines
    with suppress(FileNotFoundError):
        owner = settings.config.state_folder.stat().st_uid
        if os.geteuid() != owner:
            reason = f"runs belong to the daemon's user; use: sudo -u '#{owner}' dispatchd engine check ..."
            raise UsageError(cannot=f"check the engine {name}", reason=reason)
    if name == LOCAL:
        return
    if name not in engines:
        known = ", ".join([LOCAL, *sorted(engines)])
        reason = f"{settings.config.file} has no such engine; known are: {known}"
        raise UsageError(cannot=f"check the engine {name}", reason=reason)
    answers, message = await checked(
        name, engines[name], settings.config, settings.environment
    )
    if not answers:
        raise NotReachable(cannot="check the engine", reason=message)


async def _judgement(rule: Rule, bench: Bench) -> Judgement:
    verdict, reason = Verdict.KEPT, ""
    try:
        await rule.play(bench)
    except NotJudged as error:
        verdict, reason = Verdict.SKIPPED, str(error)
    except (Broken, RunError, EngineSilent, EngineRefused, OSError) as error:
        verdict, reason = Verdict.BROKEN, str(error)
    finally:
        # Somebody may have interrupted it.
        with CancelScope(shield=True):
            await bench.end_all()
    return Judgement(rule=rule, verdict=verdict, reason=reason)
