"""Every order of events keeps what `invariants.py` says; and a search finds what was wrong once."""

import time

import pytest

from explore.faults import FAULTS, Fault
from explore.model import Scenario
from explore.scenarios import DEEP, SHALLOW, drawn
from explore.search import Found, Search
from support.torture import Torture

_MOST_STATES = 150_000
"""States of a deep search (count): about 600 MB."""


def none_is_violated(found: Found) -> None:
    print(found)
    assert not found.violations, "\n\n".join(map(str, found.violations.values()))


@pytest.mark.parametrize("scenario", SHALLOW, ids=lambda each: each.name)
def test_every_order_of_events_keeps_what_has_to_hold(scenario: Scenario) -> None:
    found = Search(scenario).run()

    none_is_violated(found)
    assert found.complete
    assert found.ends


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.words)
def test_a_wrong_decision_is_found(fault: Fault) -> None:
    found = Search(fault.scenario, fault.decisions, first_only=True).run()

    assert found.violations


def test_a_violation_is_told_by_its_shortest_way() -> None:
    fault = FAULTS[0]

    found = Search(fault.scenario, fault.decisions, first_only=True).run()

    (violation,) = found.violations.values()
    assert violation.trace == (
        "A's pull: 200 job J, claim 1",
        "A's accept(J): 200",
        "A is cut off",
        "A is about to start J",
        "A has J behind its gate",
        "a lease and the patience pass",
        "A opens the gate of J",
    )


# Deep


def _until(torture: Torture) -> float:
    return torture.began + torture.duration_s if torture.duration_s else float("inf")


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("scenario", DEEP, ids=lambda each: each.name)
def test_more_faults_at_once_keep_what_has_to_hold(
    scenario: Scenario, torture: Torture
) -> None:
    limit = _MOST_STATES * torture.size

    none_is_violated(Search(scenario, limit=limit, until=_until(torture)).run())


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", range(12))
def test_drawn_faults_keep_what_has_to_hold(number: int, torture: Torture) -> None:
    scenario = drawn(torture.chance(f"explore {number}"))
    limit = _MOST_STATES * torture.size // 3

    began = time.monotonic()
    none_is_violated(Search(scenario, limit=limit, until=_until(torture)).run())
    print(f"{time.monotonic() - began:.0f} s")
