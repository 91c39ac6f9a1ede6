"""Rules of level 1, each as a play: an attempt starts once, gets what it needs, ends as it should, and leaves nothing."""

import secrets
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.engine_check.bench import Bench, fail, skip
from dispatchd.agent.engine_check.child import AT_STARTED
from dispatchd.agent.engine_check.killed import daemon
from dispatchd.agent.engine_check.scene import (
    BEGIN,
    DEAF,
    LEAVES,
    WAITS,
    WINDOW_S,
    Scene,
)
from dispatchd.errors import DispatchdError, EngineRefused, EngineSilent
from dispatchd.protocol.outcome import Exit, NeverStarted

_PAYLOAD: Final = 25 << 20
"""Size of the largest payload of a job (bytes)."""

_LINES: Final = 20_000

_KILLED: Final = 137

_AWKWARD: Final = (
    "two\nlines 'quoted' \"twice\" `touch x` $(touch y) $HOME \\ --option ; é☃ "
)

_LARGEST: Final = 1 << 20
"""Largest file of /proc that is read (bytes)."""


def code_of(end: Exit | NeverStarted) -> int | None:
    """Return the exit code of an attempt.

    Raises:
        Broken: Its command never began.
    """
    if isinstance(end, NeverStarted):
        fail("its command never began")
    return end.code


def expect_code(end: Exit | NeverStarted, *expected: int | None) -> None:
    """Check the exit code of an attempt.

    Raises:
        Broken: It has another one, or its command never began.
    """
    code = code_of(end)
    if code not in expected:
        note = end.note if isinstance(end, Exit) else ""
        said = f" ({note})" if note else ""
        wanted = " or ".join("none" if each is None else str(each) for each in expected)
        fail(
            f"its exit code is {'unknown' if code is None else code} in place of {wanted}{said}"
        )


def expect_starts(scene: Scene, count: int) -> None:
    """Check how many times a command has begun.

    Raises:
        Broken: More often, or less.
    """
    if scene.starts != count:
        fail(f"its command has begun {scene.starts} times in place of {count}")


async def begins_once(bench: Bench) -> None:
    """A start begins once, and not before its record."""
    scene = await bench.scene(f"{BEGIN}exit 0")

    async def recorded(_: Identity) -> None:
        await anyio.sleep(WINDOW_S)
        if scene.has_begun:
            fail("its command began before its identity was recorded")

    identity = await bench.start(scene, recorded)
    expect_code(await bench.end(identity, scene), 0)
    await bench.cleared(identity, scene)
    await anyio.sleep(WINDOW_S)
    expect_starts(scene, 1)


class _Refused(DispatchdError):
    """The record of an identity fails."""


async def never_begins_unrecorded(bench: Bench) -> None:
    """A start whose record fails never begins."""
    scene = await bench.scene(f"{BEGIN}exit 0")

    async def refused(identity: Identity) -> None:
        bench.disown(identity)
        raise _Refused

    try:
        await bench.start(scene, refused)
    except _Refused:
        pass
    else:
        fail("the start went on behind a record that failed")
    await anyio.sleep(2 * WINDOW_S)
    expect_starts(scene, 0)


async def never_begins_late(bench: Bench) -> None:
    """A start whose permission is over never begins, and says so."""
    if bench.is_local:
        skip("an attempt of this machine's own processes begins with its start")
    scene = await bench.scene(f"{BEGIN}exit 0")

    async def recorded(identity: Identity) -> None:
        await bench.engines.permit(identity, scene.attempt, 0.0)

    identity = await bench.start(scene, recorded)
    end = await bench.end(identity, scene)
    if not isinstance(end, NeverStarted):
        fail(f"it ended with {end.code}, as if it had begun")
    expect_starts(scene, 0)


async def exit_codes(bench: Bench) -> None:
    """Exit codes are those of the command."""
    for last, expected in (
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", _KILLED),
    ):
        scene = await bench.scene(f"{BEGIN}{last}")
        identity = await bench.start(scene)
        expect_code(await bench.end(identity, scene), expected)
        await bench.cleared(identity, scene)


async def whole_output(bench: Bench) -> None:
    """The output of a command is in its file, in order and to the last byte."""
    script = f"{BEGIN}i=0; while [ $i -lt {_LINES} ]; do echo line $i; i=$((i+1)); done; echo err >&2; printf end"
    scene = await bench.scene(script)
    await to_thread.run_sync(scene.output.write_bytes, b"before\n")
    identity = await bench.start(scene)
    expect_code(await bench.end(identity, scene), 0)
    lines = "".join(f"line {number}\n" for number in range(_LINES))
    written = await to_thread.run_sync(scene.output.read_bytes)
    if written != f"before\n{lines}err\nend".encode():
        fail(f"its file has {len(written)} bytes, and not what was written")


async def surroundings(bench: Bench) -> None:
    """A command gets its variables and its arguments as they are, and nothing of the daemon's environment."""
    script = (
        f'{BEGIN}cat /proc/self/environ >environment; cat "$1" >seen; pwd -P >place'
    )
    awkward = {"CHECK_TEXT": _AWKWARD, "CHECK_EMPTY": ""}
    scene = await bench.scene(script, env=awkward)
    brief = b'{"a": "brief"}\n'
    await to_thread.run_sync(scene.brief.write_bytes, brief)
    stranger = secrets.token_hex(8)
    async with daemon(
        bench, scene, stop_at=AT_STARTED, DISPATCHD_STRANGER=stranger
    ) as first:
        identity = await first.until(AT_STARTED)
        bench.owned[identity] = scene
        await bench.until(lambda: b"\n" in scene.read("place"), "the command to end")
    expect_code(await bench.end(identity, scene), 0)
    environment = scene.read("environment").split(b"\0")
    for name, value in awkward.items():
        if f"{name}={value}".encode() not in environment:
            fail(f"{name} did not arrive as it was")
    if any(stranger.encode() in each for each in environment):
        fail("a variable of the daemon's own environment reached it")
    if scene.read("seen") != brief:
        fail("the file in its arguments did not arrive")
    place = Path(scene.read("place").decode().rstrip("\n"))
    if place != await to_thread.run_sync(scene.workspace.resolve):
        fail("it did not run in its workspace")


async def large_payload(bench: Bench) -> None:
    """A payload of 25 MiB arrives whole."""
    scene = await bench.scene(f'{BEGIN}sha256sum <"$GITHUB_EVENT_PATH" >sum')
    payload = secrets.token_bytes(1 << 16) * (_PAYLOAD >> 16)
    await to_thread.run_sync(scene.payload.write_bytes, payload)
    identity = await bench.start(scene)
    expect_code(await bench.end(identity, scene), 0)
    if scene.read("sum").split()[:1] != [sha256(payload).hexdigest().encode()]:
        fail("the command read something else than the file of the payload")


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            with path.open("rb") as file:
                yield file.read(_LARGEST)
        except OSError:
            continue


async def hidden_secret(bench: Bench) -> None:
    """A secret reaches the command, and no list of processes or of the engine."""
    secret = secrets.token_hex(16)
    script = f'printf %s "$CHECK_SECRET" >given\n{WAITS}'
    scene = await bench.scene(script, secrets={"CHECK_SECRET": secret})
    identity = await bench.started(scene)
    await bench.until(lambda: len(scene.read("given")) > 0, "the secret")
    if scene.read("given").decode() != secret:
        fail("the secret did not arrive as it was")
    needle = secret.encode()
    seen = await to_thread.run_sync(
        lambda: any(needle in each for each in _command_lines())
    )
    if seen:
        fail("the secret is in the arguments of a process (ps)")
    if secret in bench.engines.describe(identity) or secret in repr(identity):
        fail("the secret is in what is said about the attempt")
    if bench.commands.listing and needle in await bench.command(bench.commands.listing):
        fail("the secret is in what --listing-command prints")
    scene.go()
    expect_code(await bench.end(identity, scene), 7)


async def graceful_stop(bench: Bench) -> None:
    """A command that is ended gets SIGTERM, and its exit code counts."""
    scene = await bench.scene(WAITS)
    identity = await bench.started(scene)
    end = await bench.stopped(identity, scene, 30.0)
    if not scene.got_term:
        fail("SIGTERM did not reach the command")
    expect_code(end, 9)


async def stopped_twice(bench: Bench) -> None:
    """Two orders to end an attempt, and one after its end, are as good as one."""
    scene = await bench.scene(WAITS)
    identity = await bench.started(scene)
    end = await bench.stopped(identity, scene, 30.0, times=2)
    expect_code(end, 9)
    with anyio.move_on_after(bench.patience_s) as limit:
        await bench.engines.stop(identity, 1.0)
    if limit.cancelled_caught:
        fail("an order to end what has ended did not return")


async def killed_stop(bench: Bench) -> None:
    """A command that ignores SIGTERM is killed, with all that it has started."""
    scene = await bench.scene(DEAF)
    identity = await bench.started(scene)
    end = await bench.stopped(identity, scene, 1.0)
    await bench.cleared(identity, scene)
    expect_code(end, _KILLED, None)
    if not await scene.is_still():
        fail("it still runs after its end was seen")


async def nothing_left(bench: Bench) -> None:
    """A process that a command leaves running is ended, and doesn't hold its end up."""
    scene = await bench.scene(LEAVES)
    identity = await bench.start(scene)
    expect_code(await bench.end(identity, scene), 0)
    await bench.cleared(identity, scene)
    if not await scene.is_still():
        fail("a process that it left still runs")


async def told_by_stop_alone(bench: Bench) -> None:
    """An order of the engine itself ends a script by SIGTERM, and may be repeated."""
    engine = bench.submitted
    scene = await bench.scene(WAITS)
    identity = await bench.started(scene)
    name = _name_of(identity)
    for _ in range(2):
        try:
            await engine.executor.stop(name)
        except EngineRefused:
            pass
        except EngineSilent as error:
            fail(f"stop: {error}")
    end = await bench.end(identity, scene)
    if not scene.got_term:
        fail("SIGTERM did not reach the command")
    expect_code(end, 9)


def _name_of(identity: Identity) -> str:
    name = getattr(identity, "name", "")
    if not name:
        skip("the attempt has no name at an engine")
    return str(name)
