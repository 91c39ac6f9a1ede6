"""Engines of third parties: found by entry points, mistakes in them named, their runs followed when they are gone."""

import os
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from attrs import define, field
from typing_extensions import override

from dispatchd.agent.config.load import Places, load
from dispatchd.agent.domain.executions.identities import Submitted
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.plugin.entry_points import opened
from dispatchd.agent.engines.plugin.guard import Guarded
from dispatchd.agent.engines.port import (
    EngineKind,
    EngineRefused,
    EngineSilent,
    Executor,
    Found,
    State,
)
from dispatchd.agent.engines.start_claims import Claim
from dispatchd.agent.engines.submitted.ends import Words
from dispatchd.agent.engines.submitted.engine import SubmittedEngine
from dispatchd.agent.engines.submitted.site import Site
from dispatchd.errors import ConfigError
from dispatchd.linux.clock import MachineTime
from dispatchd.redaction.known_secrets import KnownSecrets
from dispatchd_toy import Spool, Toy
from support.cli import dispatchd
from support.daemon_process import running
from support.endpoint import endpoint
from support.engine_scene import WAITS, EngineScene, commands
from support.toy import installed, toy_config

HEAD = """
from attrs import field, frozen
from dispatchd.agent.engines.port import Found, State

@frozen
class Node:
    host: str

@frozen
class Settings:
    spool: str
    most: int = 4
    rate: float = field(default=1.0)
    ports: list[int] = field(factory=list)
    nodes: dict[str, Node] = field(factory=dict)

    @rate.validator
    def _check(self, attribute, value):
        if value <= 0:
            raise ValueError("must be more than 0")

class Toy:
    Settings = Settings
    def __init__(self, settings):
        self.settings = settings
    async def submit(self, name, script): ...
    async def stop(self, name): ...
    async def names(self, prefix): return []
    async def find(self, name): return None
"""


def problems(folder: Path, settings: str = "", kind: str = "toy") -> list[str]:
    file = toy_config(folder, settings=settings, kind=kind)
    places = Places(state_folder=folder, control_folder=folder)

    def open_it() -> None:
        config = load(file, defaults=places, search_path=os.defpath)
        opened("toy", config.engines["toy"], file)

    with pytest.raises(ConfigError) as caught:
        open_it()
    return [f"{each.key} {each.expected}" for each in caught.value.problems]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("most = 3", ["engines.toy.settings.spool is required"]),
        (
            'spool = 7\nmost = "x"',
            [
                "engines.toy.settings.spool must be a string, not 7",
                "engines.toy.settings.most must be a whole number, not 'x'",
            ],
        ),
        (
            'spool = "/x"\nspol = 1',
            [
                "engines.toy.settings.spol is not a known key; known are: spool, most, rate, ports, nodes"
            ],
        ),
        (
            'spool = "/x"\nports = [1, "x"]\n[engines.toy.settings.nodes.a]\nhots = 1',
            [
                "engines.toy.settings.ports[1] must be a whole number, not 'x'",
                "engines.toy.settings.nodes.a.host is required",
                "engines.toy.settings.nodes.a.hots is not a known key; known are: host",
            ],
        ),
        ('spool = "/x"\nrate = -1.0', ["engines.toy.settings must be more than 0"]),
    ],
)
def test_each_mistake_in_settings_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
    expected: list[str],
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path, text=HEAD)))

    assert problems(tmp_path, settings) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import nobody_has_this", "ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class B(BaseException): ...\nraise B('x')", "raised B: x"),
        (
            "class M(type):\n    @property\n    def Settings(self): raise OSError('x')\nclass Toy(metaclass=M): ...",
            "raised OSError: x",
        ),
        ("Toy = 7", "must be a class with an attribute Settings"),
        ("class Other: ...", "AttributeError"),
        ("def broken(:", "SyntaxError"),
        (HEAD.replace("stop(", "halt("), "lacks stop"),
        (
            HEAD.replace("self.settings = settings", "raise KeyError('x\\ny')"),
            "raised KeyError: 'x\\ny'",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path, text=text)))

    (problem,) = problems(tmp_path, 'spool = "/x"')

    assert expected in problem
    assert "\n" not in problem


def test_a_package_with_damaged_entry_points_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = installed(tmp_path, text=HEAD)
    for number, points in enumerate((b"[a\xff]", b"[a]\nb\n")):
        info = site / f"damaged{number}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: damaged{number}\n")
        (info / "entry_points.txt").write_bytes(points)
    monkeypatch.syspath_prepend(str(site))
    file = toy_config(tmp_path, settings='spool = "/x"')
    places = Places(state_folder=tmp_path, control_folder=tmp_path)

    config = load(file, defaults=places, search_path=os.defpath)

    assert isinstance(opened("toy", config.engines["toy"], file), Guarded)


def test_a_kind_that_no_package_has_is_named_with_those_that_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path)))

    (problem,) = problems(tmp_path, kind="nobodys")

    assert problem.startswith("engines.toy.kind must be one of slurm, dagu, toy;")


def test_a_daemon_with_an_engine_that_cannot_be_used_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path, text="raise OSError('x')")))
    file = toy_config(tmp_path, workflows={"w": ["/bin/true"]})

    done = dispatchd("run", "--config", str(file))

    assert done.returncode == os.EX_CONFIG
    assert "raised OSError: x" in done.stderr.splitlines()[-1]


def test_the_toy_keeps_the_types_of_the_port() -> None:
    kind: EngineKind = Toy

    executor: Executor = kind(Spool(spool="/x"))

    assert isinstance(executor, Toy)
    with pytest.raises(ValueError, match="absolute path"):
        kind(Spool(spool="x"))


class Odd:
    """An engine whose every call does something odd."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def _give(self) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def submit(self, _name: str, _script: Path) -> None:
        await self._give()

    async def find(self, _name: str) -> object:
        return await self._give()

    async def stop(self, _name: str) -> None:
        await self._give()

    async def names(self, _prefix: str) -> object:
        return await self._give()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (KeyError("x\ny"), "raised KeyError"),
        (ExceptionGroup("several", [ValueError("x")]), "raised ExceptionGroup"),
        (SystemExit(3), "raised SystemExit: 3"),
        (TimeoutError(), "raised TimeoutError"),
        (EngineSilent("away"), "away"),
        ("ended", "returned 'ended'"),
        (Found(state=State.ENDED, code=256), "returned Found"),
        (Found(state=State.ENDED, code=True), "returned Found"),
        (Found(state=State.ENDED, words=7), "returned Found"),  # type: ignore[arg-type]
        (Found(state="over"), "returned Found"),  # type: ignore[arg-type]  # nobody has checked it
    ],
)
async def test_whatever_goes_wrong_in_an_engine_is_silence(
    answer: object, expected: str
) -> None:
    guarded = Guarded(Odd(answer), "toy")  # type: ignore[arg-type]  # it keeps no promise

    with pytest.raises(EngineSilent, match=expected) as caught:
        await guarded.find("x")

    assert "\n" not in str(caught.value)


async def test_a_cancellation_of_its_own_is_silence() -> None:
    cancelled = anyio.get_cancelled_exc_class()()
    guarded = Guarded(Odd(cancelled), "toy")  # type: ignore[arg-type]

    with pytest.raises(EngineSilent, match="cancelled within the engine"):
        await guarded.find("x")


async def test_a_cancellation_from_outside_stays_one() -> None:
    class Slow(Odd):
        @override
        async def find(self, _name: str) -> object:
            await anyio.sleep_forever()
            return None

    with anyio.move_on_after(0.05) as limit:
        await Guarded(Slow(None), "toy").find("x")  # type: ignore[arg-type]

    assert limit.cancelled_caught


async def test_a_refusal_stays_one() -> None:
    guarded = Guarded(Odd(EngineRefused("no")), "toy")  # type: ignore[arg-type]

    with pytest.raises(EngineRefused):
        await guarded.stop("x")


async def test_a_call_that_is_no_coroutine_is_silence() -> None:
    class Plain(Odd):
        @override
        def find(self, _name: str) -> object:  # type: ignore[override]
            return None

    with pytest.raises(EngineSilent, match="raised TypeError"):
        await Guarded(Plain(None), "toy").find("x")  # type: ignore[arg-type]


@define
class Lists:
    """An engine that lists starts, and notes what it is told to stop."""

    listed: list[str] | None
    stopped: list[str] = field(factory=list)

    async def submit(self, _name: str, _script: Path) -> None: ...

    async def find(self, _name: str) -> Found | None:
        return None

    async def stop(self, name: str) -> None:
        self.stopped.append(name)

    async def names(self, _prefix: str) -> list[str]:
        if self.listed is None:
            message = "away"
            raise EngineSilent(message)
        return self.listed


async def test_a_start_without_an_owner_is_ended_where_its_files_are_alone(
    tmp_path: Path,
) -> None:
    lists = Lists(["dd-x-ours", "dd-x-theirs"])
    site = Site(
        engine="toy",
        folder=tmp_path / "engines",
        prefix="dd-x-",
        time=MachineTime(),
        executor=lists,
        words=Words(engine="toy", execution="toy run", controller="its engine"),
        poll_s=1,
    )
    supplier = LocalEngine.here({}, KnownSecrets())
    engine = SubmittedEngine(0.0, site, supplier, set, lambda *_: _no_identity())
    for name in ("dd-x-ours", "dd-x-ended"):
        site.lay_out(name, tmp_path, "exit 0", has_secrets=True)
    launch = tmp_path / "dd-x-ours" / "launch.sh"

    lists.listed = None
    await engine.tidy()
    # Its secrets go, and its name stays until somebody knows more.
    assert (launch.exists(), site.link("dd-x-ours").exists()) == (False, True)
    assert site.files("dd-x-ours", tmp_path).claim is Claim.DAEMON

    lists.stopped.clear()
    lists.listed = ["dd-x-ours", "dd-x-theirs"]
    await engine.tidy()
    assert lists.stopped == ["dd-x-ours"]
    assert not site.link("dd-x-ended").exists()

    lists.listed = ["dd-x-theirs"]
    await engine.tidy()
    assert lists.stopped == ["dd-x-ours"]
    assert not site.link("dd-x-ours").exists()
    supplier.close()


def _no_identity() -> Submitted:
    raise AssertionError


async def test_a_run_of_an_engine_that_is_gone_is_followed_to_its_end(
    tmp_path: Path,
) -> None:
    site = installed(tmp_path)
    async with endpoint() as cloud:
        file = toy_config(tmp_path, cloud.url, commands(tmp_path, {"w": WAITS}))
        with running(
            file, wrapper=("/usr/bin/env",), env={"PYTHONPATH": str(site)}
        ) as daemon:
            scene = EngineScene(tmp_path, cloud, daemon)
            scene.hand_out("j", "w")
            await scene.until_running()
            record = await scene.until_recorded("j")
            await to_thread.run_sync(daemon.kill)
        assert record["kind"] == "toy"

        text = file.read_text()
        file.write_text(
            text[: text.index("[engines.toy]")].replace('engine = "toy"', "")
        )
        with running(file) as daemon:
            await daemon.until_logged("daemon_ready")
            scene.go()
            end = await scene.finished("j")
            await to_thread.run_sync(daemon.stop)

    assert scene.runs == 1
    assert end["result_status"] == "failed"
    assert "no longer configured" in end["result_summary"]
