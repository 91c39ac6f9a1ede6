"""Starts of which their engine says nothing more, as of one that was taken out of the configuration: each has its end."""

import os
import time
from pathlib import Path
from typing import NoReturn

import anyio
import pytest
from attrs import frozen

from dispatchd.agent.domain.executions.identities import EngineRun
from dispatchd.agent.engines.start_script import CLAIM, LEFT
from dispatchd.agent.engines.submitted.ends import Words
from dispatchd.agent.engines.submitted.engine import SubmittedEngine
from dispatchd.agent.engines.submitted.site import Site
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.linux.clock import MachineTime
from dispatchd.protocol.outcome import Exit, Unreachable
from support.slurm_stubs import NoSecrets

RUN = EngineRun(engine="e", kind="k", name="dd-start", limit_s=60.0)
DAY_S = 86_400


@frozen
class Unheard:
    """An engine that answers each call by one error."""

    error: EngineRefused | EngineSilent

    async def submit(self, *_: object, **__: object) -> NoReturn:
        raise self.error

    find = stop = names = submit


def engine_of(folder: Path, error: EngineRefused | EngineSilent) -> SubmittedEngine:
    """Return an engine of a start whose script has begun."""
    site = Site(
        engine="e",
        folder=folder / "links",
        prefix="dd-",
        time=MachineTime(),
        executor=Unheard(error),
        words=Words(engine="E", execution="E run", controller="E"),
        poll_s=1.0,
    )
    (folder / "links").mkdir()
    site.lay_out("dd-start", folder, "true", has_secrets=False)
    (folder / "dd-start" / CLAIM).write_text("7\n")
    return SubmittedEngine(
        0.0,
        site,
        NoSecrets({}),
        set,
        lambda name, limit_s: RUN,  # noqa: ARG005
    )


REFUSED = EngineRefused("the key counts no longer")
SILENT = EngineSilent("nobody answers")


@pytest.mark.parametrize("error", [REFUSED, SILENT])
async def test_a_script_that_was_killed_is_lost_once_somebody_wants_its_end(
    tmp_path: Path, error: EngineRefused | EngineSilent
) -> None:
    engine = engine_of(tmp_path, error)
    (tmp_path / "dd-start" / LEFT).touch()
    ends = list[object]()

    async def observe() -> None:
        end: object = None
        while not isinstance(end, Exit):
            end = await engine.observe(RUN, tmp_path)
        ends.append(end)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(observe)
            tasks.start_soon(engine.stop, RUN, 1.0)

    [end] = ends
    assert isinstance(end, Exit)
    assert (end.code, "its script left no exit code" in end.note) == (None, True)


async def test_a_script_without_an_end_is_lost_after_its_time_where_its_engine_refuses(
    tmp_path: Path,
) -> None:
    engine = engine_of(tmp_path, REFUSED)
    assert isinstance(await engine.observe(RUN, tmp_path), Unreachable)
    long_ago = time.time() - DAY_S
    os.utime(tmp_path / "dd-start" / CLAIM, (long_ago, long_ago))

    end = await engine.observe(RUN, tmp_path)

    assert isinstance(end, Exit)
    assert (end.code, "refuses this machine" in end.note) == (None, True)


async def test_a_script_whose_engine_is_away_is_waited_for_however_long(
    tmp_path: Path,
) -> None:
    engine = engine_of(tmp_path, SILENT)
    (tmp_path / "dd-start" / LEFT).touch()
    long_ago = time.time() - DAY_S
    os.utime(tmp_path / "dd-start" / CLAIM, (long_ago, long_ago))

    assert isinstance(await engine.observe(RUN, tmp_path), Unreachable)
