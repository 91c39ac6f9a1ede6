"""Acceptance: whatever GitHub answers, every outcome and cause ends in one concluded check with its conclusion."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from support.checks import ChecksHub, checks_hub
from support.github import DESCRIPTIONS, prism
from support.github_api import Fault, GithubApi, Request, github_api
from support.hub import HubHere
from support.machine import Held
from support.outcomes import CAUSES, OUTCOMES, expected
from support.torture import few

CREATE, UPDATE, LOOK = "POST check-runs", "PATCH check-runs", "GET commits/check-runs"
Setup = Callable[[GithubApi], None]


def job_of(request: Request) -> object:
    """Return which check run a write is about, for faults that each of them meets once."""
    return request.parts[-1], (request.body or {}).get("external_id")


def writes(fault: Fault, *, times: float = 1) -> Setup:
    """Break the first writes of each check run."""

    def set_up(github: GithubApi) -> None:
        for name in (CREATE, UPDATE):
            github.trap(name, fault, times=times, key=job_of)

    return set_up


def one(name: str, fault: Fault, *, each: bool = True) -> Setup:
    def set_up(github: GithubApi) -> None:
        github.trap(name, fault, key=job_of if each else lambda _: "")

    return set_up


def ornate(github: GithubApi) -> None:
    """Refuse every body that has more than it must have."""
    for name in (CREATE, UPDATE):
        github.trap(
            name,
            Fault(status=422, message="Validation Failed"),
            times=float("inf"),
            when=lambda request: "actions" in request.body,
        )


def limited(**headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status=429, headers=named)


def shown_late(github: GithubApi) -> None:
    github.show_after = 1
    writes(Fault(status=502, after=True))(github)


FAULTS: dict[str, Setup] = {
    "nothing": lambda _: None,
    "403 on update": one(UPDATE, Fault(status=403, message="Resource not accessible")),
    "404 on create": one(CREATE, Fault(status=404)),
    "404 on update": one(UPDATE, Fault(status=404)),
    "401": writes(Fault(status=401)),
    "409": writes(Fault(status=409)),
    "409 after the write": writes(Fault(status=409, after=True)),
    "422 to all but the smallest": ornate,
    "422 thrice": writes(Fault(status=422), times=3),
    "429": one(CREATE, limited(retry_after="30"), each=False),
    "403 with a limit": one(
        UPDATE,
        Fault(
            status=403, headers={"retry-after": "30"}, message="secondary rate limit"
        ),
        each=False,
    ),
    "500": writes(Fault(status=500)),
    "502 after the write": writes(Fault(status=502, after=True)),
    "502 after the write, shown late": shown_late,
    "an answer cut after the write": writes(Fault(after=True, cut=True, status=201)),
    "no answer after the write": writes(Fault(after=True)),
}


async def accepted(hub: ChecksHub[HubHere], count: int) -> list[Held]:
    """Return that many jobs which a machine has, and of which GitHub has been told."""
    for number in range(count):
        hub.add(f"j{number}")
    held = [await hub.pull() for _ in range(count)]
    for each in held:
        await each.accept()
    await hub.paid()
    return held


async def finish_all(
    hub: ChecksHub[HubHere], held: list[Held]
) -> dict[str, tuple[str, str]]:
    """End each job in another way, and return how each has to be told."""
    every = list(product(OUTCOMES, CAUSES))
    # A part of them is spread over all.
    ways = every[:: len(every) // len(held)][: len(held)]
    for each, (outcome, cause) in zip(held, ways, strict=True):
        await hub.finish(each, outcome, cause, result_output=f"{each.id}\n")
    await hub.paid()
    return {
        each.id: expected(outcome, cause)
        for each, (outcome, cause) in zip(held, ways, strict=True)
    }


def require_concluded(github: GithubApi, ends: dict[str, tuple[str, str]]) -> None:
    assert github.violations == []
    assert len(github.runs) == len(ends)
    shown = {
        each["external_id"]: (each["status"], each["conclusion"])
        for each in github.runs.values()
    }
    assert shown == {job: ("completed", word) for job, (word, _) in ends.items()}


EVERY = len(OUTCOMES) * len(CAUSES)


EACH_COUNT = pytest.mark.parametrize(
    "count", [2, pytest.param(EVERY, marks=pytest.mark.torture)]
)


@EACH_COUNT
@pytest.mark.parametrize("fault", few(list(FAULTS)[::-1], 9))
async def test_every_outcome_and_cause_ends_in_one_concluded_check_whatever_github_answers(
    tmp_path: Path, fault: str, count: int
) -> None:
    async with github_api() as github, checks_hub(tmp_path, github) as hub:
        FAULTS[fault](github)
        held = await accepted(hub, count)

        ends = await finish_all(hub, held)

        require_concluded(github, ends)


@EACH_COUNT
async def test_where_checks_are_not_permitted_every_outcome_is_told_by_a_status(
    tmp_path: Path, count: int
) -> None:
    async with github_api() as github, checks_hub(tmp_path, github) as hub:
        github.permissions = {"statuses": "write"}
        for number in range(count):
            hub.add(f"j{number}", name=f"ci {number}")
        held = [await hub.pull() for _ in range(count)]

        ends = await finish_all(hub, held)

        newest = {each["context"]: each["state"] for each in github.statuses}
        assert newest == {
            f"ci {job.removeprefix('j')}": state for job, (_, state) in ends.items()
        }
        assert github.count(CREATE) == 0
        assert github.runs == {}
        assert github.violations == []


async def test_answers_that_never_come_make_no_second_check(tmp_path: Path) -> None:
    async with github_api() as github, checks_hub(tmp_path, github) as hub:
        writes(Fault(hang=True, after=True))(github)
        held = await accepted(hub, 8)

        ends = await finish_all(hub, held)

        require_concluded(github, ends)


@pytest.fixture(scope="module")
def prisms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """GitHub's own descriptions of its API, each served by a Prism."""
    folder = tmp_path_factory.mktemp("prism")
    with (
        prism(folder, DESCRIPTIONS[0]) as first,
        prism(folder, DESCRIPTIONS[1]) as second,
        prism(folder, DESCRIPTIONS[2]) as third,
    ):
        yield [first, second, third]


@pytest.mark.host
async def test_githubs_own_descriptions_find_nothing_wrong_with_any_request(
    tmp_path: Path, prisms: list[str]
) -> None:
    async with (
        github_api(judges=prisms) as github,
        checks_hub(tmp_path, github) as hub,
    ):
        # So that each kind of call is made: looks, smallest bodies, statuses.
        github.trap(CREATE, Fault(status=502, after=True), key=job_of)
        github.trap(
            UPDATE,
            Fault(status=422),
            key=job_of,
            when=lambda request: request.body.get("external_id", "a")[0] == "j",
        )
        held = await accepted(hub, EVERY)
        remarks = [
            {"path": "a.py", "start_line": 1, "level": "failure", "message": "m"}
        ] * 60
        hub.add("annotated")
        annotated = await hub.pull()
        await hub.finish(
            annotated,
            "failed",
            result_step_summary="## s",
            result_outputs={"a": "b"},
            result_annotations=remarks,
        )

        ends = await finish_all(hub, held)

        require_concluded(github, {**ends, "annotated": ("failure", "failure")})
        assert len(github.newest("annotated")["annotations"]) == 60
        assert github.count(LOOK) > 0
