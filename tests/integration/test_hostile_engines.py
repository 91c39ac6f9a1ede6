"""Engines of third parties that misbehave: they end, hold up or mislead nothing but their own runs."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog
from attrs import evolve
from typing_extensions import override

from dispatchd.agent.config.load import Places, load
from dispatchd.agent.engines.plugin.entry_points import opened
from dispatchd.agent.engines.plugin.guard import Guarded
from dispatchd.agent.engines.port import EngineRefused, EngineSilent, Found, State
from support.toy import installed, toy_config

TAKES_OVER = """
import os, signal, structlog
from attrs import frozen

print("hello")
os.chdir("/")
os.umask(0o777)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
structlog.configure(processors=[])

@frozen
class Settings:
    x: int

class Toy:
    Settings = Settings
    def __init__(self, settings): os.chdir("/")
    async def submit(self, name, script): ...
    async def stop(self, name): ...
    async def names(self, prefix): return []
    async def find(self, name): return None
"""


class Evil:
    """An object whose every part raises."""

    @override
    def __repr__(self) -> str:
        raise MemoryError

    __str__ = __eq__ = __hash__ = __bool__ = __iter__ = __len__ = __repr__  # type: ignore[assignment]  # as of an engine that nobody has checked

    @property  # type: ignore[misc]  # as of an engine that nobody has checked
    @override
    def __class__(self) -> Any:
        raise MemoryError


class EvilText(str):
    """A text whose methods raise."""

    __slots__ = ()

    @override
    def split(self, *_: Any) -> Any:
        raise MemoryError

    startswith = translate = split


class EvilError(Exception):
    @override
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Last(BaseException):
    """An exception that is no Exception."""


class Engine:
    """An engine whose `find` does as it is told; its other calls do what is right."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    async def submit(self, _name: str, _script: Path) -> None: ...

    async def find(self, _name: str) -> Any:
        answer = self._find()
        return await answer if asyncio.iscoroutine(answer) else answer

    async def stop(self, _name: str) -> None: ...

    async def names(self, _prefix: str) -> Any:
        return self._find()


def guarded(find: Callable[[], Any], within_s: float = 20.0) -> Guarded:
    return Guarded(Engine(find), "toy", within_s)


def raises(error: BaseException) -> Callable[[], Any]:
    def find() -> None:
        raise error

    return find


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(7),
        StopAsyncIteration(),
        Last("x"),
        BaseExceptionGroup("several", [Last("x"), asyncio.CancelledError()]),
        asyncio.CancelledError(),
        asyncio.InvalidStateError(),
        EvilError(),
        EngineSilent("two\nlines \x1b[2J" + "x" * 10**6),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_call_raises_is_a_short_silence(error: BaseException) -> None:
    with pytest.raises(EngineSilent) as caught:
        await guarded(raises(error)).find("x")

    assert str(caught.value).isprintable()
    assert 5 < len(str(caught.value)) < 300


async def test_a_refusal_is_short_and_has_no_characters_that_act() -> None:
    refused = EngineRefused("two\nlines \x1b[2J\udc80" + "x" * 10**6)

    with pytest.raises(EngineRefused) as caught:
        await guarded(raises(refused)).find("x")

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "make",
    [
        Evil,
        lambda: Found(state=Evil()),  # type: ignore[arg-type]  # nobody has checked it
        lambda: Found(state=[]),  # type: ignore[arg-type]  # as of an engine that nobody has checked
        lambda: Found(state=State.ENDED, code=10**9),
        lambda: Found(state=State.ENDED, code=-1),
        lambda: Found(state=State.ENDED, code=True),
        lambda: Found(state=State.ENDED, is_stopped=Evil()),  # type: ignore[arg-type]  # as of an engine that nobody has checked
        lambda: Found(state=State.ENDED, is_given_up=1),  # type: ignore[arg-type]  # as of an engine that nobody has checked
        lambda: Found(state=State.ENDED, words=Evil()),  # type: ignore[arg-type]  # as of an engine that nobody has checked
    ],
    ids=map(str, range(9)),
)
async def test_an_answer_with_an_odd_part_is_silence(
    make: Callable[[], object],
) -> None:
    with pytest.raises(EngineSilent, match="find of the engine toy"):
        await guarded(make).find("x")


async def test_an_answer_is_copied_into_plain_values() -> None:
    text = EvilText("two\nlines \x1b[2J\udc80")
    found = Found(state="ended", code=7, words=text, where=text, reason=text)  # type: ignore[arg-type]  # as of an engine that nobody has checked

    answer = await guarded(lambda: found).find("x")

    assert answer is not None
    assert answer.state is State.ENDED
    assert answer.words == answer.where == answer.reason == r"two lines \x1b[2J\udc80"
    assert type(answer.words) is str


async def test_a_list_of_names_is_copied_into_plain_texts() -> None:
    listed = [EvilText("dd-a"), "dd-b", "ee-c", 7]

    assert await guarded(lambda: listed).names("dd-") == {"dd-a", "dd-b"}


async def test_a_call_that_blocks_holds_up_nobody() -> None:
    may_go = threading.Event()
    engine = guarded(lambda: may_go.wait(60), within_s=0.3)

    began = time.monotonic()
    with pytest.raises(EngineSilent, match="took more than"):
        await engine.find("x")
    # One that can't begin in its time never does.
    with pytest.raises(EngineSilent, match="took more than"):
        await engine.submit("x", Path("x"))
    assert time.monotonic() - began < 30
    may_go.set()

    with pytest.raises(EngineSilent, match="returned True"):
        await evolve(engine, within_s=20.0).find("x")


async def test_a_call_that_swallows_its_cancellation_is_left_behind() -> None:
    may_go = threading.Event()

    async def deaf() -> None:
        while not may_go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    engine = guarded(deaf, within_s=0.001)
    reasons: list[str] = []
    with anyio.fail_after(30):
        # A call that has not begun in its time isn't left behind.
        while not reasons or "took more than" in reasons[-1]:
            with pytest.raises(EngineSilent) as caught:
                await engine.find("x")
            reasons.append(str(caught.value))
    with anyio.move_on_after(0.05) as limit:
        await guarded(deaf).find("x")
    may_go.set()

    assert limit.cancelled_caught
    assert len(reasons) > 32
    assert "earlier calls never ended" in reasons[-1]


async def _stop() -> None:
    asyncio.get_running_loop().stop()


async def _exit() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    task = asyncio.create_task(leave())
    while not task.done():
        await asyncio.sleep(0)


async def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)


async def _open_scope() -> None:
    anyio.CancelScope().__enter__()


@pytest.mark.parametrize("harm", [_stop, _exit, _cancel_all, _open_scope])
async def test_what_an_engine_does_to_its_event_loop_ends_no_later_call(
    harm: Callable[[], Any],
) -> None:
    async def find() -> Any:
        await harm()
        return Found(state=State.RUNNING)

    engine = guarded(find)
    for _ in range(2):
        try:
            assert await engine.find("x") == Found(state=State.RUNNING)
        except EngineSilent:
            assert harm is _cancel_all
    await engine.submit("x", Path("x"))


def test_what_belongs_to_the_process_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(installed(tmp_path, text=TAKES_OVER)))
    file = toy_config(tmp_path, settings="x = 1")
    config = load(
        file,
        defaults=Places(state_folder=tmp_path, control_folder=tmp_path),
        search_path=os.defpath,
    )
    before = (signal.getsignal(signal.SIGTERM), structlog.get_config()["processors"])

    opened("toy", config.engines["toy"], file)

    assert Path.cwd() == tmp_path
    assert (
        signal.getsignal(signal.SIGTERM),
        structlog.get_config()["processors"],
    ) == before
    mask = os.umask(0o022)
    os.umask(mask)
    assert mask != 0o777
    printed = capfd.readouterr()
    assert ("hello" in printed.out, "hello" in printed.err) == (False, True)
