"""No header and no body of an answer ends the daemon or the hub; a header that can't be read counts as absent."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from attrs import define

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.network.http_headers import http_date, query_of, seconds
from support.checks import checks_hub
from support.clock import advance
from support.control import call
from support.daemon import running_daemon, write_config
from support.github import app_key
from support.raw_answers import generated, raw_answers
from support.until import until

ANSWERS: Final = 60
"""How many answers each program gets (count)."""

SEEDS: Final = [
    0,
    *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(1, 12)),
]

STEP_S: Final = 20.0
"""How far a look moves time on: a program that waits after a failure asks again (seconds)."""

CASES: Final = [
    b"HTTP/1.1 503 It\r\nDate: Mon, 01 Jan 99999999999 00:00:00 GMT\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 It\r\nRetry-After: Mon, 01 Jan 99999999999 00:00:00 GMT\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize(
    "value",
    [
        "Thu, 01 Jan 99999999999 00:00:00 GMT",
        "Sat, 28 Nov 2026 12:00:00 -99999999999",
        "Sat, 28 Nov 2026 12:00:00 -9999999909299",
        # It can be read, and not be counted from.
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 99 Feb 2026 10:00:00 GMT",
        "Sat, 28 Nov 2026 12:00:00",
        "",
        "\xff\xfe",
    ],
)
def test_a_date_that_no_calendar_takes_is_none(value: str) -> None:
    assert http_date(value) is None


def test_a_date_is_read_in_utc() -> None:
    wanted = datetime(2026, 11, 28, 12, tzinfo=UTC)

    assert http_date("Sat, 28 Nov 2026 12:00:00 GMT") == wanted
    assert http_date("Sat, 28 Nov 2026 14:00:00 +0200") == wanted


def test_numbers_and_addresses_that_cannot_be_read_are_none() -> None:
    assert [seconds(each) for each in ("", "\xb2", "1.5", "-1", "1e9")] == [None] * 5
    assert query_of("http://[::1/x?page=2") == {}
    assert query_of("https://x/y?page=2&per_page=9") == {"page": "2", "per_page": "9"}


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_answer_is_a_bug_of_the_daemon(tmp_path: Path, seed: int) -> None:
    more, bugs = generated(seed), BugFence()
    answers = [*CASES]
    async with raw_answers(lambda: answers.pop() if answers else more()) as endpoint:
        config = write_config(tmp_path, endpoint.url, {"it": ["/bin/true"]})
        async with running_daemon(config, bugs=bugs) as daemon:
            await _until_answered(lambda: endpoint.count >= ANSWERS)
            status = await call(daemon, "GET", "/v1/status")
            assert daemon.alive

    assert not bugs.met
    assert status["endpoint"]["last_pull_at"] or status["problems"]


@define
class Nowhere:
    """A GitHub whose answers are anything."""

    url: str
    key: str


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_answer_of_github_is_a_bug_of_the_hub(
    tmp_path: Path, seed: int
) -> None:
    more, bugs = generated(seed), BugFence()
    answers = [*CASES]

    def answer() -> bytes:
        if answers:
            return answers.pop()
        # Often a token, without which nothing else is asked.
        if len(minted) % 3:
            minted.append(1)
            return token
        minted.append(1)
        return more()

    minted: list[int] = []
    body = json.dumps({"token": "t", "expires_at": "2099-01-01T00:00:00Z"}).encode()
    token = b"HTTP/1.1 201 It\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    async with raw_answers(answer) as github:
        nowhere = Nowhere(github.url, app_key())
        async with checks_hub(tmp_path, nowhere, 'ingest = "poll"', bugs=bugs) as hub:
            hub.add("j")
            await hub.ring()
            await _until_answered(lambda: github.count >= ANSWERS)
            ready = await hub.server.http.get("/readyz")

    assert ready.json() == {"message": "ready", "bugs": []}
    assert not bugs.met


async def _until_answered(look: object) -> None:
    async def step() -> object:
        await advance(STEP_S)
        return callable(look) and look()

    await until(step, 60)
