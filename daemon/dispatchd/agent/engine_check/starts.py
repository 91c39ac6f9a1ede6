"""Rules of level 2, each as a play: daemons killed at each step, answers lost, unknown ids, silence, orphans."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import anyio
from attrs import define, evolve, field

from dispatchd.agent.domain.executions.identities import (
    BatchJob,
    Identity,
    ProcessIdentity,
)
from dispatchd.agent.engine_check.bench import Bench, NotJudged, fail, skip
from dispatchd.agent.engine_check.child import AT_RECORD, AT_RECORDED, AT_STARTED
from dispatchd.agent.engine_check.killed import daemon
from dispatchd.agent.engine_check.runs import expect_code, expect_starts
from dispatchd.agent.engine_check.scene import BEGIN, WAITS, WINDOW_S
from dispatchd.agent.engines.port import Executor, Found, State
from dispatchd.agent.engines.submitted.engine import SubmittedEngine
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.protocol.outcome import NeverStarted, Unreachable

_DELAYS_S: Final = (0.0, 0.01, 0.05, 0.2, 0.6)
"""Times after the record at which a daemon is killed (seconds)."""


async def killed_unrecorded(bench: Bench) -> None:
    """A daemon killed before the record has started nothing, and the next one takes back what it prepared."""
    scene = await bench.scene(f"{BEGIN}exit 7")
    async with daemon(bench, scene, stop_at=AT_RECORD) as first:
        await first.until(AT_RECORD)
    if not bench.is_local:
        await bench.remote.tidy()
    await anyio.sleep(2 * WINDOW_S)
    expect_starts(scene, 0)


async def killed_recorded(bench: Bench) -> None:
    """A daemon killed at any moment after the record has started once, or never, and the next one knows which."""
    for delay_s in _DELAYS_S:
        scene = await bench.scene(f"{BEGIN}exit 7")
        async with daemon(bench, scene, stop_at=AT_STARTED) as first:
            identity = await first.until(AT_RECORDED)
            await anyio.sleep(delay_s)
        bench.owned[identity] = scene
        end = await bench.end(identity, scene)
        if isinstance(end, NeverStarted):
            await anyio.sleep(WINDOW_S)
            expect_starts(scene, 0)
        else:
            expect_code(end, 7)
            expect_starts(scene, 1)
            await bench.cleared(identity, scene)


async def killed_running(bench: Bench) -> None:
    """An attempt outlives its daemon; the next one follows it to its end."""
    scene = await bench.scene(WAITS)
    async with daemon(bench, scene, stop_at=AT_STARTED) as first:
        identity = await first.until(AT_STARTED)
        await bench.until(lambda: scene.has_begun, "the command to begin")
    bench.owned[identity] = scene
    await _is_known(bench, identity)
    async with bench.observing(identity, scene):
        await anyio.sleep(WINDOW_S)
        if bench.engines.has_ended(identity):
            fail("its end was seen while it ran")
        if await scene.is_still():
            fail("it ended with its daemon")
    scene.go()
    expect_code(await bench.end(identity, scene), 7)
    expect_starts(scene, 1)


async def _is_known(bench: Bench, identity: Identity) -> None:
    """Check that an engine of the port knows an attempt of another daemon."""
    try:
        engine = bench.submitted
    except NotJudged:
        return
    found = await engine.executor.find(getattr(identity, "name", ""))
    if found is None:
        fail("the engine does not know a start of a daemon that was killed")
    if found.state is not State.RUNNING:
        fail(f"the engine calls a script {found.state} that runs")


async def ended_meanwhile(bench: Bench) -> None:
    """An attempt that ended while no daemon ran keeps its exit code."""
    scene = await bench.scene(WAITS)
    async with daemon(bench, scene, stop_at=AT_STARTED) as first:
        identity = await first.until(AT_STARTED)
        await bench.until(lambda: scene.has_begun, "the command to begin")
    scene.go()
    if not await scene.is_still() and not await scene.is_still():
        fail("it did not end")
    bench.owned[identity] = scene
    expect_code(await bench.end(identity, scene), 7)
    expect_starts(scene, 1)


@define
class _Lossy:
    """An engine whose first answers are lost on their way. Implements `port.Executor`."""

    executor: Executor
    left: dict[str, int] = field(factory=lambda: {"submit": 1, "find": 1})

    def _lose(self, call: str) -> None:
        if self.left[call]:
            self.left[call] -= 1
            message = f"the answer to {call} is lost"
            raise EngineSilent(message)

    async def submit(self, name: str, script: Path) -> None:
        """Submit; lose the answer, and the one to the question after it."""
        try:
            await self.executor.submit(name, script)
        finally:
            self._lose("submit")

    async def find(self, name: str) -> Found | None:
        """Ask."""
        found = await self.executor.find(name)
        if not self.left["submit"]:
            self._lose("find")
        return found

    async def stop(self, name: str) -> None:
        """Order the end."""
        await self.executor.stop(name)

    async def names(self, prefix: str) -> Collection[str]:
        """List."""
        return await self.executor.names(prefix)


async def answer_lost(bench: Bench) -> None:
    """A start that is submitted twice, because the answer was lost, begins once and ends with its own code."""
    engine = bench.submitted
    scene = await bench.scene(WAITS)
    identity = await bench.start(scene, by=engine.through(_Lossy(engine.executor)))
    async with bench.observing(identity, scene):
        await bench.until(lambda: scene.has_begun, "the command to begin")
        await anyio.sleep(2 * WINDOW_S)
    await _is_known(bench, identity)
    expect_starts(scene, 1)
    scene.go()
    expect_code(await bench.end(identity, scene), 7)
    expect_starts(scene, 1)


def _unknown(identity: Identity) -> Identity:
    match identity:
        case ProcessIdentity():
            return evolve(identity, start_ticks=identity.start_ticks + 1)
        case BatchJob():
            return evolve(identity, name=f"{identity.name}-0")
        case _:
            return evolve(identity, name=f"{identity.name}-0")


async def unknown_id(bench: Bench) -> None:
    """An id that the engine doesn't know is no success, and runs nothing."""
    scene = await bench.scene(WAITS)
    identity = await bench.started(scene)
    other = await bench.scene(f"{BEGIN}exit 0")
    unknown = _unknown(identity)
    if not bench.is_local and not isinstance(unknown, ProcessIdentity | BatchJob):
        found = await bench.submitted.executor.find(unknown.name)
        if found is not None:
            fail(f"the engine calls a start {found.state} that it never got")
    end = await bench.end(unknown, other)
    if not isinstance(end, NeverStarted) and end.code is not None:
        fail(f"it was said to have ended with {end.code}")
    expect_starts(other, 0)
    scene.go()
    expect_code(await bench.end(identity, scene), 7)


async def unreachable(bench: Bench) -> None:
    """While the engine doesn't answer nothing is decided, and afterwards all continues."""
    if bench.is_local:
        skip("this machine's own processes are always reachable")
    if not (bench.commands.down and bench.commands.up):
        skip("give --down-command and --up-command")
    scene = await bench.scene(WAITS)
    identity = await bench.started(scene)
    await bench.command(bench.commands.down)
    try:
        with anyio.move_on_after(bench.patience_s) as limit:
            seen = await bench.engines.observe(identity, scene.attempt)
    finally:
        # Somebody may have interrupted it.
        with anyio.CancelScope(shield=True):
            await bench.command(bench.commands.up)
    if limit.cancelled_caught:
        fail("nothing said that the engine was unreachable")
    if not isinstance(seen, Unreachable):
        fail(f"{seen} was decided while the engine was unreachable")
    if await scene.is_still():
        fail("its command was ended")
    scene.go()
    expect_code(await bench.end(identity, scene), 7)
    expect_starts(scene, 1)


async def orphans(bench: Bench) -> None:
    """A start that no record owns is found at the engine, and taken back."""
    engine = bench.remote
    is_submitted = isinstance(engine, SubmittedEngine)
    scene = await bench.scene(WAITS)
    step = AT_STARTED if is_submitted else AT_RECORD
    async with daemon(bench, scene, stop_at=step) as first:
        identity = await first.until(step)
        if is_submitted:
            await bench.until(lambda: scene.has_begun, "the command to begin")
    name = getattr(identity, "name", "")
    try:
        found = await engine.orphans()
        if name not in found:
            fail("a start without a record is not among those that the engine lists")
        await engine.tidy()
        with anyio.move_on_after(bench.patience_s) as limit:
            while name in await engine.orphans():  # noqa: ASYNC110  # an engine announces nothing
                await anyio.sleep(WINDOW_S)
    except (EngineSilent, EngineRefused) as error:
        fail(f"the engine did not list its starts: {error}")
    if limit.cancelled_caught or not await scene.is_still():
        fail("a start without a record was not taken back")
    if not is_submitted:
        expect_starts(scene, 0)
