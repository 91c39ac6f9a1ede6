"""A whole trial of an engine: every rule, one after the other, in a folder that is removed afterwards."""

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress

from anyio import CancelScope, to_thread
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
from dispatchd.agent.engine_check.rules import RULES, Rule
from dispatchd.agent.engines.checked import checked
from dispatchd.errors import (
    EngineRefused,
    EngineSilent,
    FolderUnusable,
    NotReachable,
    RunError,
    UsageError,
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
    folder = config.state_folder / f"engine-check-{secrets.token_hex(4)}"
    try:
        await to_thread.run_sync(lambda: folder.mkdir(mode=0o700, parents=True))
    except OSError as error:
        raise FolderUnusable(folder=config.state_folder, error=error) from error
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
        for rule in settings.rules:
            judgements.append(await _judgement(rule, bench))
            heard(judgements[-1])
    finally:
        bench.close()
        with CancelScope(shield=True):
            await to_thread.run_sync(remove_tree, folder)
    return judgements


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
        await bench.end_all()
    return Judgement(rule=rule, verdict=verdict, reason=reason)
