"""Rates of the hub beside another checkout's, in turns: `python -m bench.hub_rates --against FOLDER`.

Eight clients submit, claim, and claim, accept and finish. Both hubs run all the time; each turn measures one after the
other for a moment, in an order that changes, so that a machine with other work treats them alike. Only the ratio within
a turn counts, and on a busy machine that of the CPU time.
"""

import argparse
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.harness import folder
from bench.hub_process import CLIENTS, HERE, Rate, Served, rate, served
from bench.postgres import find, postgres

CALLS: Final = ("submit", "claim", "cycle")
WARM_UP: Final = 5
"""Submits of each client before the first measured one (count)."""


def main() -> None:
    """Print the rates of this checkout, and the ratios to the other one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--calls", type=int, default=30, help="of a client in a turn")
    parser.add_argument("--only", choices=["SQLite", "PostgreSQL"])
    given = parser.parse_args()
    checkouts = [HERE, *([given.against.resolve()] if given.against else [])]
    if given.only != "PostgreSQL":
        measure("SQLite", checkouts, lambda: "sqlite:///hub.db", given)
    if given.only != "SQLite" and find() is not None:
        with postgres() as server:
            measure("PostgreSQL", checkouts, server.new_database, given)


def measure(
    kind: str,
    checkouts: list[Path],
    new_database: Callable[[], str],
    given: argparse.Namespace,
) -> None:
    """Print the rates with a kind of database."""
    with ExitStack() as opened:
        pool = opened.enter_context(ProcessPoolExecutor(2))
        path = opened.enter_context(folder())
        hubs = [
            opened.enter_context(
                served(path / str(number), new_database(), checkout=checkout)
            )
            for number, checkout in enumerate(checkouts)
        ]
        for hub in hubs:
            rate(pool, hub, "submit", WARM_UP)
        turns = [
            turn(pool, hubs[:: 1 if number % 2 else -1], given.calls)
            for number in range(given.turns)
        ]
    show(kind, hubs, turns)


def turn(
    pool: ProcessPoolExecutor, hubs: list[Served], calls: int
) -> dict[tuple[str, int], Rate]:
    """Return the rates of each hub, by call and process."""
    return {
        (what, hub.pid): rate(pool, hub, what, calls * (2 if what == "submit" else 1))
        for what in CALLS
        for hub in hubs
    }


def show(
    kind: str, hubs: list[Served], turns: list[dict[tuple[str, int], Rate]]
) -> None:
    """Print the medians of the turns, and the ratios with their spread."""
    print(f"hub on {kind}, {CLIENTS} clients, medians of {len(turns)} turns")
    for what in CALLS:
        for name, hub in zip(("this", "other"), hubs, strict=False):
            of = [each[what, hub.pid] for each in turns]
            print(
                f"  {what:7} {name:6} {_median([each.per_s for each in of]):8.0f} /s"
                f"   CPU {_median([each.cpu_ms for each in of]):5.2f} ms"
                f"   p99 {_median([each.p99_ms for each in of]):6.1f} ms"
            )
        if len(hubs) > 1:
            pairs = [tuple(each[what, hub.pid] for hub in hubs) for each in turns]
            rates = [ours.per_s / other.per_s for ours, other in pairs]
            cpu = [other.cpu_ms / ours.cpu_ms for ours, other in pairs]
            print(f"  {what:7} ratio  {_spread(rates)}   by CPU {_spread(cpu)}")


def _spread(ratios: list[float]) -> str:
    return f"{_median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


_median = statistics.median


if __name__ == "__main__":
    main()
