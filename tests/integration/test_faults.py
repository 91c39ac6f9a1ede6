"""What endpoints and the ways to them can do: the daemon stays up, says what it is, and recovers."""

import json
from pathlib import Path

import pytest

from support.clock import advance
from support.control import until_status
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import SECRET, Answer, Endpoint, Json, Request, as_json, endpoint
from support.until import in_time
from support.waits import finishes

TRUE = ["/bin/true"]
JOB = {"id": "j", "dag_name": "it"}
GATED = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.05; done"]
PAGE = Answer(
    status=200,
    body=b"<html>Please log in</html>",
    headers={"content-type": "text/html"},
)


def let_go(daemon: DaemonHere, job_id: str) -> None:
    """Let a run of the gated command end."""
    (daemon.state / "runs" / job_id / "workspace" / "go").touch()


async def until_pulled(hub: Endpoint, times: int) -> None:
    """Return when the endpoint has been asked for a job that often."""
    await hub.until(lambda it: len(it.calls("pull")) == times)


class FirstTimes:
    """Gives the same answer to the first few requests of a call, then leaves the rest alone."""

    def __init__(self, call: str, times: int, answer: Answer) -> None:
        self.call, self.left, self.answer = call, times, answer

    def __call__(self, request: Request) -> Answer | None:
        if request.call != self.call or self.left == 0:
            return None
        self.left -= 1
        return self.answer


FAULTS = {
    "500": (
        as_json({"message": "boom"}, 500),
        "Unavailable",
        "status 500 Internal Server Error: boom",
    ),
    "502 page": (
        Answer(status=502, body=b"<html>"),
        "Unavailable",
        "status 502 Bad Gateway",
    ),
    "429": (as_json({}, 429, retry_after="1"), "RateLimited", "status 429"),
    "a page with 200": (
        PAGE,
        "ProtocolError",
        "status 200 with text/html (a proxy's or a login page?)",
    ),
    "nothing with 200": (Answer(status=200), "ProtocolError", "empty body"),
    "a truncated body": (
        Answer(status=200, body=b'{"id": "x"}' * 9, truncated=True),
        "Unavailable",
        "cut off",
    ),
    "no answer": (Answer(cut=True), "ClosedWithoutAnswer", "closed without an answer"),
    "401": (
        as_json({"message": "who?"}, 401),
        "Unauthorized",
        "status 401 Unauthorized: who?",
    ),
    "403": (as_json({"message": "no"}, 403), "Forbidden", "status 403"),
    "410": (as_json({"message": "no"}, 410), "Revoked", "status 410"),
    "404": (as_json({}, 404), "ProtocolError", "status 404"),
    "a redirect": (
        Answer(status=302, headers={"location": "http://login/"}),
        "ProtocolError",
        "redirect to http://login/",
    ),
    "a list": (as_json([]), "ProtocolError", "where the contract wants JSON"),
    "an error of 2 MiB": (
        Answer(status=502, body=b"<html>" + b"x" * (2 << 20)),
        "Unavailable",
        "status 502 Bad Gateway",
    ),
    "a job without an id": (as_json({"dag_name": "it"}), "ProtocolError", "$.id"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_failed_pull_is_named_and_tried_again(
    tmp_path: Path, fault: str
) -> None:
    answer, kind, words = FAULTS[fault]
    async with endpoint() as hub:
        hub.script = FirstTimes("pull", 2, answer)
        hub.hand_out(JOB)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            line = await daemon.until_logged("pull_failed")
            await finishes(hub, daemon, "j")
            assert daemon.alive

    assert line["kind"] == kind
    assert words in line["error"]
    assert SECRET not in daemon.log_file.read_text()


@pytest.mark.parametrize("call", ["accept", "finish"])
@pytest.mark.parametrize(
    "fault",
    [
        *("500", "429", "a page with 200", "a truncated body", "no answer", "401"),
        "an error of 2 MiB",
    ],
)
async def test_a_failed_report_is_repeated_until_it_arrives(
    tmp_path: Path, call: str, fault: str
) -> None:
    async with endpoint() as hub:
        hub.script = FirstTimes(call, 2, FAULTS[fault][0])
        hub.hand_out(JOB)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            [finished] = await finishes(hub, daemon, "j")

    assert finished["result_status"] == "succeeded"
    assert len(hub.calls(call)) == 3


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_a_refused_accept_means_that_nothing_runs(
    tmp_path: Path, status: int
) -> None:
    async with endpoint() as hub:
        hub.script = FirstTimes("accept", 1, as_json({"message": "no"}, status))
        hub.hand_out(JOB)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            await daemon.until_logged("job_accept_refused", phase="history")
            # It was given back without a start, so it may come again.
            hub.hand_out(JOB)
            await hub.until_finished("j")

    assert len(hub.calls("finish")) == 1
    assert (daemon.state / "runs/j/attempt-1/exit").read_text() == "0\n"


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_a_refused_finish_closes_the_job(tmp_path: Path, status: int) -> None:
    async with endpoint() as hub:
        hub.script = FirstTimes("finish", 1, as_json({"message": "no"}, status))
        hub.hand_out(JOB)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            await daemon.until_logged("job_finish_refused", phase="history")

    assert len(hub.calls("finish")) == 1
    assert list((daemon.state / "jobs").iterdir()) == []


async def test_one_stuck_report_does_not_delay_another(tmp_path: Path) -> None:
    def stuck(request: Request) -> Answer | None:
        return (
            as_json({}, 500)
            if request.job_id == "stuck" and request.call == "accept"
            else None
        )

    async with endpoint() as hub:
        hub.script = stuck
        hub.hand_out({**JOB, "id": "stuck"})
        hub.hand_out(JOB)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE}, runs="queue_ahead = 3")
        ):
            await hub.until_finished("j")

    assert "stuck" not in hub.finished


async def test_finishes_made_while_the_endpoint_was_down_all_arrive(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": GATED}, runs="slots = 4")
        async with running_daemon(config) as daemon:
            for number in range(4):
                hub.hand_out({**JOB, "id": f"j{number}"})
            await hub.until(lambda e: len(e.accepted) == 4)
            hub.script = lambda _: Answer(cut=True)
            jobs = [f"j{number}" for number in range(4)]
            for job_id in jobs:
                await daemon.until_logged("job_attempt_started", job_id=job_id)
                let_go(daemon, job_id)
            for job_id in jobs:
                await daemon.until_logged("report_failed", job_id=job_id)
            hub.script = None
            finished = await finishes(hub, daemon, *jobs)

    assert [each["result_status"] for each in finished] == ["succeeded"] * 4


@pytest.mark.parametrize("call", ["accept", "finish"])
async def test_an_answer_that_is_lost_after_its_effect_changes_nothing(
    tmp_path: Path, call: str
) -> None:
    async with endpoint() as hub:
        hub.script = FirstTimes(call, 1, Answer(cut=True))
        hub.hand_out(JOB)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            await finishes(hub, daemon, "j")

    assert [each.name for each in (daemon.state / "runs/j").glob("attempt-*")] == [
        "attempt-1"
    ]


async def test_a_job_redelivered_after_finish_is_finished_again_and_never_run(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        hub.hand_out(JOB)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            await daemon.until_logged("job_finish_acknowledged")
            hub.hand_out({**JOB, "claim_token": "second"})
            await hub.until(lambda e: len(e.calls("finish")) == 2)

    assert hub.calls("finish")[1].body["claim_token"] == "second"
    assert len(hub.calls("accept")) == 1
    assert [each.name for each in (daemon.state / "runs/j").glob("attempt-*")] == [
        "attempt-1"
    ]


async def test_a_job_redelivered_while_it_runs_is_accepted_again_and_runs_once(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": GATED}, runs="queue_ahead = 3")
        async with running_daemon(config) as daemon:
            hub.hand_out({**JOB, "claim_token": "first"})
            await daemon.until_logged("job_attempt_started")
            hub.hand_out({**JOB, "claim_token": "second"})
            await hub.until(lambda e: len(e.calls("accept")) == 2)
            let_go(daemon, "j")
            finished = (await hub.until_finished("j"))[0]

    assert [each.body["claim_token"] for each in hub.calls("accept")] == [
        "first",
        "second",
    ]
    assert finished["claim_token"] == "second"
    assert [each.name for each in (daemon.state / "runs/j").glob("attempt-*")] == [
        "attempt-1"
    ]


FLAWED: dict[str, tuple[Json, str]] = {
    "no workflow": ({"id": "j"}, r"$.dag_name"),
    "a wrong type": (
        {"id": "j", "dag_name": "it", "sha": 5},
        r"$.sha must be a string",
    ),
    "a wrong claim": (
        {"id": "j", "dag_name": "it", "lease_seconds": "x"},
        r"$.lease_seconds",
    ),
    "a lease of very many digits": (
        {"id": "j", "dag_name": "it", "claim_token": "t", "lease_seconds": 10**400},
        r"$.lease_seconds",
    ),
    "an unknown workflow": (
        {"id": "j", "dag_name": "deploy"},
        r"no workflow called 'deploy'",
    ),
}


@pytest.mark.parametrize("flaw", FLAWED)
async def test_a_job_that_cannot_run_here_is_rejected_with_the_reason(
    tmp_path: Path, flaw: str
) -> None:
    job, words = FLAWED[flaw]
    async with endpoint() as hub:
        hub.hand_out(job)
        async with running_daemon(write_config(tmp_path, hub.url, {"it": TRUE})):
            finished = (await hub.until_finished("j"))[0]

    assert finished["result_status"] == "rejected"
    assert words in finished["result_summary"]


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("member", "status", "words"),
    [
        (f'"payload": {DEEP}', "rejected", "$.payload must not be nested so deeply"),
        (f'"headers": {DEEP}', "rejected", "$.headers must not be nested so deeply"),
        (f'"later": {DEEP}', "rejected", "$.later must not be nested so deeply"),
        ('"payload": {"n": [NaN]}', "rejected", "$.payload must be JSON, which has"),
        ('"priority": -Infinity', "rejected", "$.priority must be JSON, which has"),
        (f'"payload": {{"n": {"9" * 5_000}}}', "succeeded", ""),
        (f'"payload": {"9" * 5_000}', "succeeded", ""),
        (f'"issue_number": {"9" * 5_000}', "rejected", "$.issue_number must be"),
    ],
    ids=[
        "payload",
        "headers",
        "unknown",
        "NaN",
        "Infinity",
        "long number",
        "only it",
        "as a field",
    ],
)
async def test_what_no_parser_takes_keeps_no_other_job_from_coming(
    tmp_path: Path, member: str, status: str, words: str
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        async with running_daemon(config):
            hub.hand_out(f'{{"id": "bad", "dag_name": "it", {member}}}'.encode())
            hub.hand_out(JOB)
            bad, _ = await hub.until_finished("bad", "j")

    assert bad["result_status"] == status
    assert words in bad["result_summary"]


async def test_an_odd_id_is_one_path_segment_and_one_file(tmp_path: Path) -> None:
    ids = ["..", "a/../b", "ü ?#%", "x" * 512, "\ud800"]
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE}, runs="queue_ahead = 9")
        async with running_daemon(config) as daemon:
            for odd in ids:
                hub.hand_out({**JOB, "id": odd})
            await hub.until(lambda e: len(e.finished) == len(ids))

    assert len(list((daemon.state / "history").iterdir())) == len(ids)
    assert {each.body["dag_run_id"] for each in hub.calls("accept")} == set(ids)


async def test_an_answer_over_the_limit_is_refused_in_words(tmp_path: Path) -> None:
    huge = json.dumps({**JOB, "payload": "x" * (33 * 1024 * 1024)}).encode()
    async with endpoint() as hub:
        hub.hand_out(huge)
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            line = await daemon.until_logged("pull_failed")

    assert "larger than 32 MiB" in line["error"]


async def test_no_answer_but_a_job_is_large(tmp_path: Path) -> None:
    """The loop that reports all jobs parses what the others say."""
    large = as_json({"accepted": ["x" * 1024] * 1100})
    async with endpoint() as hub:
        hub.script = FirstTimes("accept", 1, large)
        hub.hand_out({**JOB, "payload": "x" * (2 << 20)})
        async with running_daemon(
            write_config(tmp_path, hub.url, {"it": TRUE})
        ) as daemon:
            line = await daemon.until_logged("report_failed")
            await finishes(hub, daemon, "j")

    assert "larger than 1 MiB" in line["error"]


async def test_an_endpoint_that_does_not_hold_is_asked_at_intervals(
    tmp_path: Path,
) -> None:
    async with endpoint(holds=False) as hub:
        config = write_config(
            tmp_path, hub.url, {"it": TRUE}, cloud="poll_interval_s = 60"
        )
        async with running_daemon(config) as daemon:
            # The first question is answered at once and followed by another.
            for count in (2, 3, 4):
                await until_pulled(hub, count)
                await until_status(
                    daemon, lambda s: s["loops"]["pull"] == "waiting for the next poll"
                )
                if count == 4:
                    hub.hand_out(JOB)
                await advance(60)
            await hub.until_finished("j")


async def test_a_secret_that_is_a_file_of_another_kind_is_named_until_it_is_right(
    tmp_path: Path,
) -> None:
    """It isn't looked for in every text, which would take for ever."""
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        (tmp_path / "secret").write_text("x" * 20_000_000)
        async with running_daemon(config) as daemon:
            line = await daemon.until_logged("pull_failed")
            (tmp_path / "secret").write_text(SECRET)
            hub.hand_out(JOB)
            await advance(70)
            await hub.until_finished("j")

    assert "is longer than 65536 characters" in line["error"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(cut=True),
        Answer(status=504, body=b"<html>Gateway Time-out"),
        Answer(status=502),
        Answer(status=524, body=b"error code: 524"),
        Answer(status=408),
    ],
    ids=["closed", "504", "502", "524", "408"],
)
async def test_a_held_poll_that_is_cut_is_an_empty_poll(
    tmp_path: Path, answer: Answer
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE}, cloud="hold_s = 40")
        async with running_daemon(config) as daemon:
            await hub.until(lambda e: any(each.hold_s for each in e.calls("pull")))
            await advance(30)
            hub.cut_held_polls(answer)
            line = await daemon.until_logged("poll_cut_on_the_way")
            hub.hand_out(JOB)
            await hub.until_finished("j")
            assert not [
                each for each in daemon.log() if each.get("event") == "pull_failed"
            ]

    assert 24 <= line["next_hold_s"] < 40


@pytest.mark.parametrize("held_s", [0.0, 5.0])
async def test_a_gateway_in_front_of_nothing_is_a_failure(
    tmp_path: Path, held_s: float
) -> None:
    """It answers with the statuses of one that has given up a held poll, and sooner."""
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE}, cloud="hold_s = 40")
        async with running_daemon(config) as daemon:
            await hub.until(lambda e: any(each.hold_s for each in e.calls("pull")))
            await advance(held_s)
            hub.cut_held_polls(Answer(status=504))
            line = await daemon.until_logged("pull_failed")

    assert line["kind"] == "Unavailable"


async def test_an_endpoint_that_refuses_a_held_poll_is_believed(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": TRUE}, cloud="hold_s = 40")
        async with running_daemon(config) as daemon:
            await hub.until(lambda e: any(each.hold_s for each in e.calls("pull")))
            await advance(30)
            hub.cut_held_polls(as_json({"message": "no database"}, 502))
            line = await daemon.until_logged("pull_failed")

    assert "no database" in line["error"]


async def test_a_secret_rotated_on_disk_is_used_at_once(tmp_path: Path) -> None:
    def picky(request: Request) -> Answer | None:
        ok = request.body.get("heartbeat_secret", "new-secret") == "new-secret"
        return None if ok else as_json({"message": "who?"}, 401)

    async with endpoint() as hub:
        hub.script = picky
        hub.hand_out(JOB)
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        async with running_daemon(config) as daemon:
            await daemon.until_logged("pull_failed", kind="Unauthorized")
            (tmp_path / "secret").unlink()
            (tmp_path / "secret").write_text("new-secret")
            await finishes(hub, daemon, "j")


async def test_a_poll_that_works_forgets_the_failures_before_it(tmp_path: Path) -> None:
    refusal = as_json({"message": "no database"}, 503)
    async with endpoint() as hub:
        hub.script = FirstTimes("pull", 2, refusal)
        config = write_config(tmp_path, hub.url, {"it": TRUE})
        async with running_daemon(config) as daemon:
            await in_time(lambda: bool(logged(daemon, "endpoint_answers")))
            await hub.until(lambda e: any(call.hold_s for call in e.calls("pull")))
            hub.cut_held_polls(refusal)
            await in_time(
                lambda: len(logged(daemon, "pull_failed")) > 2
            )  # two came before
            failures = [line["failures"] for line in logged(daemon, "pull_failed")]

    assert failures[:3] == [1, 2, 1]


def logged(daemon: DaemonHere, event: str) -> list[Json]:
    return [line for line in daemon.log() if line.get("event") == event]
