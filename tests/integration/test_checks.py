"""The outbox of checks, rule by rule: a real hub, a machine's protocol, and a GitHub that can fail."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, field, frozen
from sqlalchemy import update

from dispatchd.hub.config.load import FILE
from dispatchd.hub.domain.model import State
from dispatchd.hub.github.checks.check_run import SECOND_LOOK_S
from dispatchd.hub.storage.jobs.store import JobStore
from dispatchd.hub.storage.schema import CHECKS, JOBS
from support.checks import ChecksHub, checks_hub, github_table
from support.cli import dispatchd
from support.clock import advance, within
from support.github import INSTALLATION, REPOSITORY
from support.github_api import SHA, Fault, GithubApi, Request, github_api
from support.hub import HubHere
from support.hub_process import HubProcess
from support.machine import Held
from support.until import until

CREATE, UPDATE, STATUS = "POST check-runs", "PATCH check-runs", "POST statuses"
LOOK, READ, MINT = (
    "GET commits/check-runs",
    "GET check-runs",
    "POST app/installations/access_tokens",
)
FOREVER = float("inf")


@frozen
class Stage:
    """A hub and its GitHub."""

    github: GithubApi
    hub: ChecksHub[HubHere]
    folder: Path = field()

    async def accepted(self, job_id: str = "j", **check: Any) -> Held:
        """Return a job that a machine has, and of which GitHub has been told."""
        self.hub.add(job_id, **check)
        held = await self.hub.pull()
        assert held.id == job_id
        await held.accept()
        await self.hub.paid()
        return held

    async def park(self, held: Held, reason: str = "Which branch?") -> None:
        await held.machine.call(
            "heartbeat",
            held.id,
            claim_token=held.token,
            phase="needs_attention",
            reason=reason,
        )

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = (self.hub.server.folder / "hub.log").read_text().splitlines()
        found = [json.loads(each) for each in lines if each.startswith("{")]
        return [each for each in found if each["event"] == event]

    def names(self) -> list[str]:
        return [each.name for each in self.github.requests if each.name != MINT]


@asynccontextmanager
async def staged(folder: Path, *more: str, **options: Any) -> AsyncIterator[Stage]:
    async with (
        github_api() as github,
        checks_hub(folder, github, *more, **options) as hub,
    ):
        yield Stage(github, hub, folder)
        assert github.violations == []


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as found:
        yield found


async def test_a_job_is_told_from_its_queue_to_its_end_on_one_check_run(
    stage: Stage,
) -> None:
    stage.hub.add("a/b")
    await stage.hub.ring()
    await stage.hub.paid()
    queued = stage.github.newest("a/b")["status"]
    held = await stage.hub.pull()
    await held.accept()
    await stage.hub.paid()
    await stage.hub.finish(held, "succeeded")
    await stage.hub.paid()

    run = stage.github.newest("a/b")
    assert queued == "queued"
    assert [each["status"] for each in run["writes"]] == [
        "queued",
        "in_progress",
        "completed",
    ]
    assert [len(each["actions"]) for each in run["writes"]] == [1, 1, 0]
    assert run["details_url"] == "https://hub.example/base/jobs/a%2Fb"
    assert run["head_sha"] == SHA
    assert run["repository"] == REPOSITORY
    assert stage.github.requests[0].name == MINT


async def test_what_has_happened_while_the_hub_was_away_is_told_as_its_end_alone(
    tmp_path: Path,
) -> None:
    async with github_api() as github, checks_hub(tmp_path, github) as hub:
        server = hub.server
        await server.stop()
        told, server.more = server.more, ""
        server.configure(f'listen = "127.0.0.1:{server.port}"')
        await server.start()
        hub.add("j")
        held = await hub.pull()
        await held.accept()
        await hub.finish(held, "failed")
        assert hub.store.pending_count() == (1, 0)
        await server.stop()
        server.more = told
        server.configure(f'listen = "127.0.0.1:{server.port}"')

        await server.start()
        await hub.paid()

        (run,) = github.runs.values()
        assert [each.get("conclusion") for each in run["writes"]] == ["failure"]


async def test_a_parked_job_is_concluded_and_goes_on_in_a_new_check_run(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    await stage.park(held)
    await stage.hub.paid()
    parked = stage.github.newest("j")
    await held.beat()
    await stage.hub.paid()
    goes_on = stage.github.newest("j#2")["status"]
    await stage.park(held, "And now?")
    await stage.hub.paid()
    await stage.hub.finish(held, "succeeded")
    await stage.hub.paid()

    assert parked["conclusion"] == "action_required"
    assert "dispatchd resolve j" in parked["output"]["summary"]
    assert goes_on == "in_progress"
    ends = {
        each["external_id"]: each["conclusion"] for each in stage.github.runs.values()
    }
    assert ends == {"j": "action_required", "j#2": "action_required", "j#3": "success"}
    assert stage.hub.check("j").round == 3


async def test_a_parked_job_that_goes_on_before_its_conclusion_is_known_opens_no_run_again(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    stage.github.trap(UPDATE, Fault(status=502, after=True))
    read = stage.github.trap(READ, Fault(status=500))
    await stage.park(held)
    await stage.github.until(lambda: stage.github.newest("j")["conclusion"] is not None)
    await held.beat()
    await stage.hub.paid()

    assert stage.github.newest("j")["status"] == "completed"
    assert stage.github.newest("j#2")["status"] == "in_progress"
    assert sum(read.sprung.values()) == 1


async def test_a_check_run_that_is_gone_is_made_anew(stage: Stage) -> None:
    held = await stage.accepted()
    stage.github.runs.clear()
    stage.github.requests.clear()

    await stage.hub.finish(held, "succeeded")
    await stage.hub.paid()

    assert stage.github.newest("j")["conclusion"] == "success"
    assert stage.names() == [UPDATE, LOOK, CREATE]


async def test_a_check_run_is_found_on_any_page(stage: Stage) -> None:
    stage.github.page_size = 2
    for number in range(7):
        stage.hub.add(f"other{number}", name="ci")
        await stage.hub.ring()
        await stage.hub.paid()
    stage.github.trap(CREATE, Fault(status=502, after=True))
    stage.hub.add("j", name="ci")
    await stage.hub.ring()
    await stage.github.until(lambda: stage.github.of("j") != [])
    stage.hub.add("k")
    await stage.hub.ring()
    await stage.hub.paid()

    assert len(stage.github.of("j")) == 1
    pages = [
        each.query.get("page", "1")
        for each in stage.github.requests
        if each.name == LOOK
    ]
    assert pages[:4] == ["1", "2", "3", "4"]
    query = next(each.query for each in stage.github.requests if each.name == LOOK)
    assert query["filter"] == "all"
    assert query["check_name"] == "ci"
    assert query["app_id"] == "4242"


async def test_nothing_found_at_once_is_looked_for_once_more_later(
    stage: Stage,
) -> None:
    stage.github.trap(CREATE, Fault(status=502))

    stage.hub.add("j")
    await stage.hub.ring()
    await stage.hub.paid()

    assert stage.names() == [CREATE, LOOK, LOOK, CREATE]
    assert len(stage.github.runs) == 1
    assert SECOND_LOOK_S >= 3


async def test_a_limit_keeps_one_installation_and_no_other(stage: Stage) -> None:
    def of_seven(request: Request) -> bool:
        return request.installation == str(INSTALLATION)

    limit = Fault(status=403, headers={"retry-after": "60"}, message="secondary rate")
    trap = stage.github.trap(CREATE, limit, when=of_seven)
    stage.hub.add("first")
    await stage.hub.ring()
    await stage.github.until(lambda: bool(trap.sprung))
    before = len(stage.github.requests)

    for number in range(5):
        stage.hub.add(f"limited{number}")
        stage.hub.add(f"free{number}", installation=8)
    await stage.hub.ring()
    await stage.github.until(
        lambda: all(stage.github.of(f"free{number}") for number in range(5))
    )
    meanwhile = [each for each in stage.github.requests[before:] if of_seven(each)]
    await stage.hub.paid()

    assert meanwhile == []
    assert len(stage.github.runs) == 11


async def test_where_the_token_may_set_statuses_alone_there_are_statuses(
    stage: Stage,
) -> None:
    stage.github.permissions = {"statuses": "write", "checks": "read"}
    held = await stage.accepted("first")
    await stage.accepted("second")
    await stage.hub.finish(held, "failed", "lost")
    await stage.hub.paid()

    assert {*stage.names()} == {STATUS}
    states = [each["state"] for each in stage.github.statuses]
    assert {*states[:-1]} == {"pending"}
    assert states[-1] == "error"
    assert stage.hub.check("first").kind == "status"
    assert (
        stage.github.statuses[-1]["target_url"] == "https://hub.example/base/jobs/first"
    )


FORBIDDEN = Fault(status=403, message="Resource not accessible by integration")
REFUSALS = {
    "archived": Fault(status=403, message="Repository was archived so is read-only."),
    "no access": FORBIDDEN,
    "legal": Fault(status=451, message="Repository access blocked"),
}


@pytest.mark.parametrize(
    ("refusal", "said"),
    [("archived", True), ("archived", False), ("no access", True), ("legal", True)],
)
async def test_what_one_repository_refuses_is_no_matter_for_the_others(
    stage: Stage, refusal: str, *, said: bool
) -> None:
    if not said:
        stage.github.permissions = {}
    old = "acme/old"
    stage.github.trap(
        CREATE,
        REFUSALS[refusal],
        times=FOREVER,
        when=lambda request: request.parts[1:3] == ("acme", "old"),
    )
    stage.github.trap(STATUS, FORBIDDEN, times=FOREVER)
    stage.hub.add("refused", repository=old)
    await stage.hub.ring()
    await until(lambda: stage.log("check_not_published"))

    stage.hub.add("shop", repository="acme/shop")
    await stage.hub.ring()
    await stage.github.until(lambda: bool(stage.github.of("shop")))

    assert stage.github.of("refused") == []
    [line] = stage.log("check_not_published")
    assert line["repository"] == old
    assert REFUSALS[refusal].message in line["error"]
    # A fallback that the App may not use is none.
    assert not said or STATUS not in stage.names()


async def test_a_token_that_may_do_neither_is_no_reason_to_ask(stage: Stage) -> None:
    stage.github.permissions = {"metadata": "read"}
    stage.hub.add("j")
    await stage.hub.ring()
    await until(lambda: stage.log("check_not_published"))

    assert stage.names() == []
    assert (
        "doesn't permit checks, nor commit"
        in stage.log("check_not_published")[0]["error"]
    )


async def test_a_check_that_has_a_run_stays_one_where_permission_is_missing_for_a_while(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    stage.github.trap(
        UPDATE, Fault(status=403, message="Resource not accessible"), times=2
    )

    await stage.hub.finish(held, "succeeded")
    await stage.hub.paid()

    assert stage.github.newest("j")["conclusion"] == "success"
    assert stage.github.statuses == []


async def test_a_text_that_github_refuses_keeps_no_check_from_its_conclusion(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    stage.github.trap(UPDATE, Fault(status=422, message="no emoji, please"))

    await stage.hub.finish(held, "failed", result_output="long")
    await stage.hub.paid()

    run = stage.github.newest("j")
    assert run["conclusion"] == "failure"
    assert (
        run["output"]["summary"] == "Failed. GitHub did not take the job's own summary."
    )


async def test_sixty_annotations_arrive_once_also_when_answers_are_lost(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    stage.github.trap(UPDATE, Fault(status=502, after=True), times=2)
    remarks = [
        {
            "path": f"f{number}",
            "start_line": number + 1,
            "level": "warning",
            "message": "m",
        }
        for number in range(120)
    ]

    await stage.hub.finish(held, "failed", result_annotations=remarks)
    await stage.hub.paid()

    found = [each["path"] for each in stage.github.newest("j")["annotations"]]
    assert found == [f"f{number}" for number in range(120)]
    shown = (await stage.hub.server.http.get("/api/v1/jobs/j")).json()
    assert len(shown["result_annotations"]) == 120
    listed = (await stage.hub.server.http.get("/api/v1/jobs")).json()
    assert "result_annotations" not in listed["jobs"][0]


async def test_a_token_that_counts_no_more_is_replaced_once(stage: Stage) -> None:
    held = await stage.accepted()
    stage.github.tokens.clear()
    stage.github.tokens.add("another")

    await stage.hub.finish(held, "succeeded")
    await stage.hub.paid()

    assert stage.github.count(MINT) == 2
    assert stage.github.newest("j")["conclusion"] == "success"
    assert stage.log("check_not_published") == []


async def test_a_check_whose_calls_hang_delays_no_other(stage: Stage) -> None:
    trap = stage.github.trap(
        CREATE,
        Fault(hang=True),
        times=FOREVER,
        when=lambda request: request.body["external_id"] == "stuck",
    )
    stage.hub.add("stuck")
    await stage.hub.ring()
    await stage.github.until(lambda: bool(trap.sprung))

    for number in range(20):
        stage.hub.add(f"j{number}")
    await stage.hub.ring()
    await stage.github.until(lambda: len(stage.github.runs) == 20, within_s=8)


async def test_a_github_that_never_answers_delays_no_machine(stage: Stage) -> None:
    stage.github.trap(CREATE, Fault(hang=True), times=FOREVER)
    for number in range(40):
        stage.hub.add(f"j{number}")
    await stage.hub.ring()
    await stage.github.until(lambda: stage.github.count(CREATE) == 8)

    for _ in range(10):
        # Far less than a call to GitHub may take.
        with within(5):
            held = await stage.hub.pull()
            await held.accept()
            await stage.hub.server.submit({"dag_name": "other"})
            await stage.hub.finish(held, "succeeded")


async def test_a_trouble_is_kept_and_logged_once_and_its_end_too(stage: Stage) -> None:
    held = await stage.accepted()
    stage.github.trap(UPDATE, Fault(status=500, message="an outage"), times=4)

    await stage.hub.finish(held, "succeeded")
    await stage.hub.in_time(lambda: stage.github.count(UPDATE) == 3)
    kept = stage.hub.check("j")
    await stage.hub.paid()

    assert "an outage" in kept.trouble
    assert kept.failures >= 1
    assert [each["job_id"] for each in stage.log("check_not_published")] == ["j"]
    assert [each["job_id"] for each in stage.log("check_published")] == ["j"]
    assert stage.hub.check("j").trouble == ""


async def test_a_check_is_given_up_two_weeks_after_its_job_has_ended(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    stage.github.trap(UPDATE, Fault(status=500), times=FOREVER)
    await stage.hub.finish(held, "succeeded")
    await stage.hub.in_time(lambda: stage.github.count(UPDATE) == 2)
    await until(lambda: stage.hub.store.pending_count() == (1, 1))

    with stage.hub.database.transaction() as db:
        db.execute(update(JOBS).values(finished_at=1_790_000_000.0))
    await stage.hub.paid()

    assert [each["job_id"] for each in stage.log("check_given_up")] == ["j"]
    assert "status 500" in stage.hub.check("j").trouble


async def test_an_event_that_no_rule_wanted_leaves_nothing_behind(stage: Stage) -> None:
    store = JobStore(stage.hub.database)
    stage.hub.add("untold", received=True)
    store.change(
        "untold", lambda job: evolve(job, state=State.IGNORED, finished_at=9.0)
    )
    stage.hub.add("told")
    await stage.hub.ring()
    await stage.hub.paid()
    shown = stage.github.newest("told")["status"]
    store.change("told", lambda job: evolve(job, state=State.IGNORED, finished_at=9.0))
    await stage.hub.ring()
    await stage.hub.paid()

    assert stage.github.of("untold") == []
    assert shown == "queued"
    # Not "skipped", by which a required check would pass.
    assert stage.github.newest("told")["conclusion"] == "cancelled"


async def test_what_the_hub_ends_by_itself_is_told(tmp_path: Path) -> None:
    async with staged(tmp_path, lease_s=60, most_expiries=0) as stage:
        stage.hub.add("lost")
        await stage.hub.pull()
        stage.hub.add("cancelled")
        await stage.hub.server.http.post("/api/v1/jobs/cancelled/cancel")
        await advance(60)
        await stage.hub.in_time(
            lambda: any(
                each["conclusion"] == "failure" for each in stage.github.of("lost")
            )
        )
        await stage.hub.paid()

        assert stage.github.newest("cancelled")["conclusion"] == "cancelled"
        title = stage.github.newest("lost")["output"]["title"]
        assert title.startswith("infrastructure: the machine was not heard of any more")


async def test_with_a_token_in_place_of_an_app_there_are_statuses_alone(
    tmp_path: Path,
) -> None:
    async with github_api() as github:
        github.tokens |= {"ghp_first", "ghp_second"}
        async with checks_hub(tmp_path, github, token="ghp_first") as hub:
            stage = Stage(github, hub, tmp_path)
            hub.add("unwanted", received=True, installation=0)
            JobStore(hub.database).change(
                "unwanted", lambda job: evolve(job, state=State.IGNORED)
            )
            held = await stage.accepted(installation=0)
            github.requests.clear()
            await stage.park(held)
            await hub.paid()
            (tmp_path / "token").write_text("ghp_second\n")
            await held.beat()
            await hub.paid()
            await hub.finish(held, "failed", "inactivity-timeout")
            await hub.paid()

            assert stage.names() == [STATUS] * 3
            assert [each["state"] for each in github.statuses[-3:]] == [
                "pending",
                "pending",
                "failure",
            ]
            assert [each.headers["authorization"] for each in github.requests] == [
                "Bearer ghp_first",
                "Bearer ghp_second",
                "Bearer ghp_second",
            ]
            assert {each["context"] for each in github.statuses} == {"ci j"}
            assert github.violations == []


async def test_the_newest_jobs_check_is_made_last_whatever_github_answers(
    stage: Stage,
) -> None:
    stage.github.trap(CREATE, Fault(status=502), times=4)
    stage.hub.add("first", name="ci")
    await stage.hub.finish(await stage.hub.pull(), "failed")
    await stage.hub.in_time(lambda: stage.hub.check("first").failures >= 4)

    stage.hub.add("again", name="ci")
    await stage.hub.finish(await stage.hub.pull(), "succeeded")
    await stage.hub.paid()

    ended = [
        (each["external_id"], each["conclusion"]) for each in stage.github.runs.values()
    ]
    assert ended == [("again", "success")]


async def test_an_older_jobs_own_check_is_concluded_beside_a_newer_one(
    stage: Stage,
) -> None:
    first = await stage.accepted("first", name="ci")
    await stage.accepted("again", name="ci")

    await stage.hub.finish(first, "failed")
    await stage.hub.paid()

    assert [each["external_id"] for each in stage.github.runs.values()] == [
        "first",
        "again",
    ]
    assert stage.github.newest("first")["conclusion"] == "failure"


async def test_a_status_of_an_older_job_is_never_the_last(tmp_path: Path) -> None:
    async with github_api() as github:
        github.tokens.add("ghp_first")
        async with checks_hub(tmp_path, github, token="ghp_first") as hub:
            stage = Stage(github, hub, tmp_path)
            first = await stage.accepted("first", name="ci", installation=0)
            again = await stage.accepted("again", name="ci", installation=0)
            await hub.finish(again, "succeeded")
            await hub.paid()
            await hub.finish(first, "failed")
            await hub.paid()

            assert github.statuses[-1]["state"] == "success"


async def test_conclusions_go_before_other_news(tmp_path: Path) -> None:
    # After a burst of five one write in 20 s, which no busy machine takes for a call.
    async with staged(tmp_path, "writes_per_minute = 3") as stage:
        held = [await stage.accepted(f"first{number}") for number in range(5)]
        for number in range(10):
            stage.hub.add(f"later{number}")
        await stage.hub.finish(held[0], "succeeded")
        await stage.hub.in_time(
            lambda: stage.github.newest("first0")["conclusion"] is not None
        )

        # What was begun before that, at most.
        assert (
            sum(
                each["external_id"].startswith("later")
                for each in stage.github.runs.values()
            )
            <= 1
        )


async def test_a_job_that_moves_on_while_github_is_told_is_told_again(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    stage.github.trap(UPDATE, Fault(status=500), times=2)
    await stage.park(held)
    await stage.github.until(lambda: stage.github.count(UPDATE) == 1)

    await stage.hub.finish(held, "aborted", "cancelled")
    await stage.hub.paid()

    assert stage.github.newest("j")["conclusion"] == "cancelled"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "app.pem",
            None,
            "app.pem: must be a readable file (No such file or directory)",
        ),
        ("app.pem", "no key", "app.pem: must be a private key in PEM"),
        ("app.pem", "EC", "app.pem: must be an RSA key"),
        ("token", "\n", "token: must have a token in it, and nothing else"),
        ("token", None, "token: must be a readable file"),
        (
            "ca.pem",
            "nothing",
            "ca.pem: must be a readable file with certificates in PEM",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_and_no_start(
    tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    token = "ghp_x" if file == "token" else ""
    more = [f'ca_file = "{tmp_path / "ca.pem"}"'] if file == "ca.pem" else []
    table = github_table(tmp_path, GithubApi(port=9), *more, token=token)
    server = HubProcess(folder=tmp_path / "hub", more=table)
    server.make()
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(elliptic() if content == "EC" else content)

    found = dispatchd("hub", "serve", "--config", str(server.folder / FILE))

    assert found.returncode == os.EX_CONFIG
    (line,) = found.stderr.splitlines()
    assert said in line


def elliptic() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


async def test_a_github_that_is_not_there_keeps_no_hub_from_working(
    tmp_path: Path,
) -> None:
    async with github_api() as github:
        port = github.port
    github.port = port
    async with checks_hub(tmp_path, github) as hub:
        hub.add("j")
        held = await hub.pull()
        await held.accept()
        await hub.finish(held, "succeeded")

        await hub.in_time(lambda: hub.check("j").failures >= 2)

        assert "ConnectError" in hub.check("j").trouble
        assert (await hub.server.http.get("/readyz")).status_code == 200
        await hub.server.stop(within_s=15)


async def test_no_secret_of_the_hubs_is_in_its_log_or_in_what_github_is_told(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        held = await stage.accepted()
        token = next(iter(stage.github.tokens))
        stage.github.trap(UPDATE, Fault(status=422, message=f"bad {token}"), times=4)
        await stage.hub.finish(
            held, "failed", result_output=f"{token}\n{stage.github.key}"
        )
        await stage.hub.paid()

        told = json.dumps([each.body for each in stage.github.requests])
        log = (stage.hub.server.folder / "hub.log").read_text()
        for text in (told, log, stage.hub.check("j").trouble):
            assert token not in text
            assert stage.github.key.splitlines()[3] not in text


async def test_a_later_round_stays_a_check_where_permission_is_missing_for_a_while(
    stage: Stage,
) -> None:
    held = await stage.accepted()
    await stage.park(held)
    await stage.hub.paid()
    forbidden = Fault(status=403, message="Resource not accessible by integration")
    stage.github.trap(CREATE, forbidden, times=2)

    await held.beat()
    await stage.hub.paid()

    assert stage.github.newest("j#2")["status"] == "in_progress"
    assert stage.github.statuses == []


async def test_a_bug_that_one_job_meets_ends_neither_the_hub_nor_the_others(
    stage: Stage,
) -> None:
    await stage.accepted("poison")
    fine = await stage.accepted("fine")
    await stage.hub.paid()
    with stage.hub.database.transaction() as db:
        # It has ended with details that are nested too deeply to be read.
        silly = {"state": "succeeded", "result_details": "[" * 100_000}
        db.execute(update(JOBS).where(JOBS.c.id == "poison").values(silly))
        db.execute(update(CHECKS).where(CHECKS.c.job_id == "poison").values(owed=True))

    await stage.hub.finish(fine, "succeeded")
    await until(lambda: stage.hub.check("poison").trouble)
    await stage.github.until(
        lambda: stage.github.newest("fine")["conclusion"] == "success"
    )

    assert {each["job_id"] for each in stage.log("bug_contained")} == {"poison"}
    assert stage.hub.check("poison").trouble == "a bug: RecursionError"
    assert stage.hub.check("poison").owed
