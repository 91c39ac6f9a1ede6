"""Scenarios: where searches begin, and which faults and wishes each of them has."""

from random import Random
from typing import Final

from attrs import evolve

from explore.model import Scenario, job

_J, _L = job("J"), job("L", number=2)


def one(
    name: str,
    machines: int = 2,
    *,
    split: bool = False,
    races: bool = False,
    bare: bool = False,
    **budget: int,
) -> Scenario:
    """Return a scenario with one job."""
    return Scenario(
        name=name,
        budget={each.replace("_", " "): count for each, count in budget.items()},
        machines=machines,
        jobs=(_J,),
        split=split,
        races=races,
        bare=bare,
    )


def two(name: str, machines: int = 2, *, cut: int = 0, kill: int = 0) -> Scenario:
    """Return a scenario with two jobs."""
    return evolve(one(name, machines, cut=cut, kill=kill), jobs=(_J, _L))


def events(name: str, **budget: int) -> Scenario:
    """Return a scenario of one machine whose jobs are made by an event of GitHub."""
    return Scenario(name=name, budget=budget, machines=1, jobs=())


def checks(name: str, *, requeue: int, hub_kill: int = 0, cancel: int = 0) -> Scenario:
    """Return a scenario with the outbox of GitHub's checks."""
    made = one(name, 1, requeue=requeue, hub_kill=hub_kill, cancel=cancel)
    return evolve(made, check=True)


SHALLOW: Final = (
    one("kill", kill=1),
    one("loss", loss=1),
    one("double", double=1),
    one("cut", cut=1),
    one("stop", stop=1),
    one("drain", drain=1),
    one("cancel", cancel=1),
    one("cancel and drain", cancel=1, drain=1),
    one("cancel and loss", cancel=1, loss=1),
    one("cancel job", cancel_job=1),
    one("cancel job, bare", 1, bare=True, cancel_job=1),
    one("cancel job and end of a machine", 1, cancel_job=1, gone=1),
    one("cancel job and revoke", 1, cancel_job=1, revoke=1),
    one("end of a machine", gone=1),
    one("revoke", revoke=1),
    one("newer commit", 1, commit=1),
    one("block", 1, block=1, retry=1, kill=1),
    one("park, cancel, races", 1, races=True, park=1, retry=1, local_cancel=1),
    one("reboot", 1, kill=1, reboot=1),
    one("requeue", 1, requeue=1, cancel=1),
    events("event twice", event=2, loss=1),
    events("restore", event=1, backup=1, restore=1),
    checks("requeue with checks", requeue=1, hub_kill=1),
    one("split and loss", 1, split=True, loss=1),
    one("local cancel of what goes back", 1, local_cancel=1, drain=1, loss=1),
)
"""For `make test`: each is searched to its end."""

DEEP: Final = (
    one("kill and loss", kill=1, loss=1),
    one("nap", nap=1, split=True),
    one("two naps", 1, nap=2, split=True),
    one("stop and loss", stop=1, loss=1),
    one("cut and loss", cut=1, loss=1),
    one("double and drain", double=1, drain=1),
    one("drain and loss", drain=1, loss=1),
    one("cancel and cut", cancel=1, cut=1),
    one("cancel and kill", cancel=1, kill=1),
    one("cancel, drain, loss", cancel=1, drain=1, loss=1),
    one("local cancel and kill", 1, local_cancel=1, kill=1),
    one("cancel job and kill", 1, cancel_job=1, kill=1),
    one("cancel job and cut", cancel_job=1, cut=1),
    one("cancel job and end of one of two", cancel_job=1, gone=1),
    one("cancel job and revoke of one of two", cancel_job=1, revoke=1),
    one("cancel job and stop", cancel_job=1, stop=1),
    one("newer commit and cut", commit=1, cut=1),
    one("newer commit and drain", commit=1, drain=1),
    one("newer commit and end of a machine", commit=1, gone=1),
    one("block and cut", block=1, retry=1, cut=1),
    one("park and cut", park=1, retry=1, cut=1),
    one("redelivered, races", 1, races=True, loss=1, kill=1),
    one("cut and loss, races", 1, races=True, cut=1, loss=1),
    one("signal and cut", signal=1, cut=1),
    one("reboot and signal", kill=1, reboot=1, signal=1),
    two("two jobs and cut", cut=1),
    two("two jobs and kill", 1, kill=1),
    events("restore and kill", event=2, backup=1, restore=1, kill=1),
    checks("two requeues with checks", requeue=2, hub_kill=1, cancel=1),
    one("split, local cancel, drain", 1, split=True, local_cancel=1, drain=1),
    one("split and kill", 1, split=True, kill=1),
    one("split, cancel, stop", 1, split=True, cancel=1, stop=1),
)
"""For torture: some are larger than its limit of states."""

_FAULTS: Final = (
    "loss",
    "double",
    "kill",
    "cut",
    "nap",
    "stop",
    "drain",
    "revoke",
    "gone",
)
_WISHES: Final = (
    "cancel",
    "cancel job",
    "local cancel",
    "park",
    "block",
    "commit",
    "requeue",
)


def drawn(chance: Random) -> Scenario:
    """Return a scenario with two faults and a wish, by chance."""
    budget = dict.fromkeys([*chance.sample(_FAULTS, 2), chance.choice(_WISHES)], 1)
    name = ", ".join(sorted(budget))
    return Scenario(
        name=name,
        budget=budget | {"retry": 1},
        machines=chance.randint(1, 2),
        jobs=(_J,),
        split=chance.random() < 0.3,
        races=chance.random() < 0.3,
    )
