"""Scenarios: where searches begin, and which faults and wishes each of them has."""

from typing import Any, Final

from attrs import evolve

from explore.model import Scenario, job

_J, _L = job("J"), job("L", number=2)


def one(name: str, machines: int = 2, *, split: bool = False, races: bool = False, bare: bool = False, **budget: int) -> Scenario:
    shape: dict[str, Any] = {"split": split, "races": races, "bare": bare}
    words = {each.replace("_", " "): count for each, count in budget.items()}
    return Scenario(name=name, budget=words, machines=machines, jobs=(_J,), **shape)


def two(name: str, machines: int = 2, **budget: int) -> Scenario:
    return evolve(one(name, machines, **budget), jobs=(_J, _L))


def events(name: str, **budget: int) -> Scenario:
    return evolve(one(name, 1, **budget), jobs=())


def checks(name: str, **budget: int) -> Scenario:
    return evolve(one(name, 1, **budget), check=True)


ALL: Final = (
    one("kill", kill=1),
    one("loss", loss=1),
    one("double", double=1),
    one("cut", cut=1),
    one("nap", nap=1, split=True),
    one("stop", stop=1),
    one("stop and loss", stop=1, loss=1),
    one("drain", drain=1),
    one("cancel", cancel=1),
    one("cancel and drain", cancel=1, drain=1),
    one("cancel and cut", cancel=1, cut=1),
    one("cancel and loss", cancel=1, loss=1),
    one("cancel and kill", cancel=1, kill=1),
    one("cancel job", cancel_job=1),
    one("cancel job, bare", 1, bare=True, cancel_job=1),
    one("cancel job and kill", 1, cancel_job=1, kill=1),
    one("cancel job and end of a machine", cancel_job=1, gone=1),
    one("cancel job and revoke", cancel_job=1, revoke=1),
    one("cancel job and stop", cancel_job=1, stop=1),
    one("gone", gone=1),
    one("revoke", revoke=1),
    one("newer commit and cut", commit=1, cut=1),
    one("block", 1, block=1, retry=1, kill=1),
    one("block and cut", block=1, retry=1, cut=1),
    one("park, cancel, races", 1, races=True, park=1, retry=1, local_cancel=1),
    one("redelivered, races", 1, races=True, loss=1, kill=1),
    one("cut, races", 1, races=True, cut=1, loss=1),
    one("signal and cut", signal=1, cut=1),
    one("reboot", kill=1, reboot=1),
    one("requeue", 1, requeue=1, cancel=1),
    two("two jobs and cut", cut=1),
    two("two jobs and kill", 1, kill=1),
    events("event twice", event=2, loss=1),
    events("restore", event=1, backup=1, restore=1, kill=1),
    checks("requeue with checks", requeue=1, hub_kill=1),
    one("split", 1, split=True, kill=1),
    one("split and loss", 1, split=True, loss=1),
    one("split and cancel", 1, split=True, cancel=1, stop=1),
)
