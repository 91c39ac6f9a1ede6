"""Torture as a pytest plugin: one seed, one size and one deadline for all workers, and the steps of kill sweeps."""

import os
import random
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterable
from math import inf
from typing import Any, TypeVar

import pytest
from _pytest.mark import ParameterSet
from attrs import define, field, frozen

T = TypeVar("T")

MARK = "torture"
SQLITE, POSTGRESQL = "sqlite", "postgresql"

_RAN = "torture-ran"
"""The property of a report that says whether its test began in time."""


@frozen(kw_only=True)
class Torture:
    """How this session tortures; the same in each worker."""

    seed: int
    size: int
    """How many times the usual amount of work the long tests do."""
    duration_s: float
    """How long after `began` tests may begin, and long ones go on (seconds); 0: without end."""
    began: float
    """When the session began, by a clock that all processes of this machine share (monotonic seconds)."""

    @property
    def left_s(self) -> float:
        """Time until its end (seconds); negative after that."""
        end = self.began + self.duration_s if self.duration_s else inf
        return end - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.left_s <= 0

    def chance(self, what: object) -> random.Random:
        """Return a source of random numbers of its own for each thing that needs one."""
        return random.Random(f"{self.seed} {what}")


_KEY = pytest.StashKey[Torture]()


# The options, and one seed for the controller and its workers.


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torture", "tests marked torture")
    for name, kind, default, text in (
        ("seed", int, 0, "seed of order, kills and mutations (0: a fresh one)"),
        ("duration", float, 0, "seconds after which none begins (0: run all)"),
        ("size", int, 1, "how many times the usual work the long ones do"),
    ):
        variable = f"DISPATCHD_{name.upper()}"
        group.addoption(
            f"--{name}",
            type=kind,
            default=kind(os.environ.get(variable) or default),
            help=f"{text}; default: ${variable}, or {default}",
        )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    given: dict[str, Any] | None = getattr(config, "workerinput", {}).get(MARK)
    if given is None:
        given = {
            "seed": config.getoption("seed") or secrets.randbelow(10**9) + 1,
            "size": config.getoption("size"),
            "duration_s": config.getoption("duration"),
            "began": time.monotonic(),
        }
    config.stash[_KEY] = Torture(**given)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Summary(config.stash[_KEY]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    settings: Torture = node.config.stash[_KEY]
    node.workerinput[MARK] = {
        "seed": settings.seed,
        "size": settings.size,
        "duration_s": settings.duration_s,
        "began": settings.began,
    }


def pytest_report_header(config: pytest.Config) -> str | None:
    if "not torture" in config.getoption("markexpr"):
        return None
    settings = config.stash[_KEY]
    span = f"{settings.duration_s:g} s" if settings.duration_s else "until all is done"
    return f"torture: seed {settings.seed}, size {settings.size}, {span}"


# Order and time.


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave a variant on PostgreSQL to torture, where the test or its module says so."""
    mark = item.get_closest_marker("postgresql_in")
    variant = getattr(item, "callspec", None)
    parameters = variant.params.values() if variant else ()
    if mark and mark.args == (MARK,) and POSTGRESQL in parameters:
        item.add_marker(MARK)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Shuffle what is marked torture, behind the rest."""
    marked = [item for item in items if item.get_closest_marker(MARK)]
    rest = [item for item in items if not item.get_closest_marker(MARK)]
    config.stash[_KEY].chance("order").shuffle(marked)
    items[:] = [*rest, *marked]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what has not begun when the time is over, and what takes longer than is left."""
    mark = item.get_closest_marker(MARK)
    if mark is None:
        return
    settings = item.config.stash[_KEY]
    least_s: float = mark.kwargs.get("least_s", 0)
    begins = settings.left_s > least_s
    item.user_properties.append((_RAN, begins))
    if not begins:
        what = f"fewer than {least_s:g} s of the" if least_s else "the"
        left = "left" if least_s else "over before it began"
        pytest.skip(
            f"torture: {what} {settings.duration_s:g} s of --duration were {left}"
        )


@pytest.fixture(scope="session")
def torture(pytestconfig: pytest.Config) -> Torture:
    """How this session tortures: seed, size, deadline."""
    return pytestconfig.stash[_KEY]


@define(eq=False)  # pytest keeps plugins in sets
class _Summary:
    """Counts, in the controller, what ran; prints one line at the end."""

    settings: Torture
    counts: Counter[bool] = field(factory=Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, ran in report.user_properties:
            if report.when == "setup" and name == _RAN:
                self.counts[bool(ran)] += 1

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        if self.counts:
            took_s = time.monotonic() - self.settings.began
            terminalreporter.write_line(
                f"torture: {self.counts[True]} of {self.counts.total()} ran "
                f"in {took_s:.0f} s; seed {self.settings.seed}"
            )


# The steps of a kill sweep.


@frozen(kw_only=True)
class Sweep:
    """How many steps a story has on a database.

    The number differs from run to run, because timers and polls are steps too, and a busy machine has more of them.
    """

    database: str = SQLITE
    least: int
    """The program is killed at each step up to this one, always."""
    most: int
    """Each step up to this one is tried; four times as many the program survives, always."""

    def require(self, step: int, *, killed: bool) -> None:
        """Fail unless the bounds hold for the outcome of one step."""
        if step <= self.least:
            assert killed, f"survived step {step}: the story has fewer, lower `least`"
        if step > self.most:
            assert not killed, f"killed at step {step}: raise `most`"

    def every_step(self) -> list[ParameterSet]:
        """Return each step as a torture test of its own, and one that has to be survived."""
        return [
            *(
                self._parameters(step, f"{step}", pytest.mark.torture)
                for step in range(1, self.most + 1)
            ),
            self._parameters(4 * self.most, "complete", pytest.mark.torture),
        ]

    def smoke(self, *steps: int) -> list[ParameterSet]:
        """Return a few steps, for `make test` on SQLite and for `make test-host` on PostgreSQL."""
        assert max(steps) <= self.least
        marks = [pytest.mark.host] if self.database == POSTGRESQL else []
        return [self._parameters(step, f"{step}", *marks) for step in steps]

    def _parameters(
        self, step: int, name: str, *marks: pytest.MarkDecorator
    ) -> ParameterSet:
        return pytest.param(self, step, id=f"{self.database}-{name}", marks=marks)


_PORTS = range(10_000, 32_000)
"""Below those that the kernel gives out by itself (ip_local_port_range of ip(7))."""


def lasting_port() -> int:
    """Return a port that nobody gets while a killed program is away that has to come back on it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    own = _PORTS[int(worker) % 16 :: 16]
    while True:
        port = random.choice(own)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def few(cases: Iterable[T], count: int) -> list[T | ParameterSet]:
    """Return cases, or rows of several columns, of which all but the first few are for torture."""
    every = list(cases)
    rest = (each if isinstance(each, tuple) else (each,) for each in every[count:])
    torture = (pytest.param(*each, marks=pytest.mark.torture) for each in rest)
    return [*every[:count], *torture]
