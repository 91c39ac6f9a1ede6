"""Commands in comments, end to end: GitHub is asked, and says who may and which commit; then the job goes out."""

from pathlib import Path

import anyio
import psycopg
import pytest
from bench.postgres import Postgres

from support.clock import advance
from support.github import APP_ID, INSTALLATION
from support.github_api import Fault
from support.github_events import HEAD, OTHER, comment, pull, pull_request, real
from support.github_hub import deliveries, jobs
from support.github_scene import Repository, scene
from support.machine import row
from support.torture import few
from support.until import until

PERMISSION = "GET collaborators/octocat/permission"
PULL = "GET pulls"


async def test_a_command_of_a_writer_becomes_a_job_for_the_newest_commit(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), database_url=database_url) as here:
        [job] = await here.decided(await here.say("/run deploy", "d-1"))

        assert (job["state"], job["dag_name"]) == ("queued", "deploy")
        assert (job["sha"], job["ref"]) == (HEAD, "refs/pull/2/head")
        assert (job["command"], job["actor_login"]) == ("deploy", "octocat")
        held = await here.hub.pull()
        assert held.id == job["id"]
        assert "from_fork" not in held.job
        await held.accept()
        await held.finish()
        await here.hub.paid()
        run = here.github.newest(job["id"])
        assert (run["head_sha"], run["conclusion"]) == (HEAD, "success")
        assert here.repository.reactions == ["eyes"]
        assert here.repository.comments == []
        assert here.github.violations == []


async def test_who_may_is_what_github_says_and_not_what_the_comment_says(
    tmp_path: Path,
) -> None:
    reader = Repository(permission="read")
    async with scene(tmp_path, reader) as here:
        owner = comment("/run deploy", installation=INSTALLATION)
        owner["comment"]["author_association"] = "OWNER"

        [job] = await here.decided(await here.tell("issue_comment", owner, "d-1"))

        assert job["state"] == "ignored"
        assert "for Codertocat/Hello-World is read, and write" in job["result_summary"]
        [kept] = await deliveries(here.hub.server)
        assert "and write is needed" in kept["routing"]
        # A stranger gets a reaction, and no words.
        await here.github.until(lambda: here.repository.reactions == ["-1"])
        assert here.repository.comments == []
        assert here.github.count("POST check-runs") == 0


async def test_a_role_of_an_organisation_counts_as_what_it_is_built_on(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository(role="release-manager")) as here:
        [job] = await here.decided(await here.say("/run deploy"))

        assert job["state"] == "queued"


async def test_what_cannot_be_is_said_to_who_may_ask(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        [job] = await here.decided(await here.say(f"/run deploy {OTHER}"))

        assert job["state"] == "ignored"
        await here.github.until(lambda: len(here.repository.comments) == 1)
        assert here.repository.reactions == ["confused"]
        [words] = here.repository.comments
        assert words.startswith("<!-- dispatchd -->\n@octocat ")
        assert f"{OTHER} is not the newest commit" in words
        # Our own words, if they came back, are no command.
        own = await here.say(words.replace("@octocat", "@octocat\n/run deploy\n"))
        assert own.json()["jobs"] == []


async def test_code_of_a_fork_runs_at_the_commit_that_a_writer_has_named(
    tmp_path: Path,
) -> None:
    fork = Repository(pull=pull(fork=True))
    async with scene(tmp_path, fork) as here:
        at_once = await here.tell("pull_request", pull_request(fork=True))
        assert at_once.json()["jobs"] == []

        without = await here.decided(await here.say("/run"))
        assert [job["state"] for job in without] == ["ignored", "ignored"]
        tests, lint = await here.decided(await here.say(f"/run {HEAD}"))

        assert (tests["state"], tests["dag_name"], tests["sha"]) == (
            "queued",
            "ci",
            HEAD,
        )
        assert (lint["state"], lint["result_summary"]) == (
            "ignored",
            "Rule lint: its code comes from a fork.",
        )
        held = await here.hub.pull()
        assert held.job["from_fork"] is True


async def test_a_cancel_ends_what_runs_and_waits_for_its_pull_request(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), database_url=database_url) as here:
        await here.tell("pull_request", pull_request())
        other = pull_request()
        other["number"] = other["pull_request"]["number"] = 3
        other["pull_request"]["head"]["sha"] = "b" * 40
        await here.tell("pull_request", other)
        running = await here.hub.pull()
        await running.accept()

        [cancel] = await here.decided(await here.say("/cancel", "d-9"))

        assert (cancel["state"], cancel["command"]) == ("succeeded", "cancel")
        changes = {each.path for each in here.changes()}
        named = cancel["result_summary"].removeprefix("Cancelled 2 jobs: ")
        ended = set(named.removesuffix(".").split(", "))
        assert len(ended) == 2
        assert changes == {f"/jobs/{job_id}/cancel" for job_id in ended}
        assert running.job["id"] in ended
        assert (await running.beat()).json()["cancel_requested"] is True
        await running.finish("aborted", "Cancelled.")
        found = await jobs(here.hub.server)
        of_2 = [job for job in found if job.get("pull_request_number") == 2]
        of_3 = [job for job in found if job.get("pull_request_number") == 3]
        assert [job["state"] for job in of_2] == ["aborted", "aborted", "succeeded"]
        assert [job["state"] for job in of_3] == ["queued", "queued"]
        await here.hub.paid()
        conclusions = [
            here.github.newest(job["id"]).get("conclusion") for job in of_2[:2]
        ]
        assert conclusions == ["cancelled", "cancelled"]

        [again] = await here.decided(await here.say("/cancel", on="issue"))
        assert (again["state"], again["result_cause"]) == ("failed", "no-target")


async def test_a_cancel_that_github_confirms_late_ends_nothing_newer(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        here.github.trap(PERMISSION, Fault(status=502), times=3)
        await here.tell("pull_request", pull_request())
        running = await here.hub.pull()
        await running.accept()
        cancel = await here.say("/cancel", "d-9")
        newer = pull_request()
        newer["pull_request"]["head"]["sha"] = "a" * 40
        made = (await here.tell("pull_request", newer)).json()["jobs"]

        [ended] = await here.decided_in_time(cancel)

        assert ended["state"] == "succeeded"
        assert (await running.beat()).json()["cancel_requested"] is True
        found = await jobs(here.hub.server)
        states = [job["state"] for job in found if job["id"] in made]
        assert set(states) == {"queued"}


@pytest.mark.parametrize(
    "fault",
    few(
        [
            Fault(status=500),
            Fault(status=403, headers={"retry-after": "30"}),
            Fault(status=401),
            Fault(status=502),
            Fault(status=429, headers={"retry-after": "30"}),
            Fault(status=0),
            Fault(cut=True, status=200),
        ],
        3,
    ),
    ids=["500", "403 limited", "401", "502", "429", "closed", "cut"],
)
async def test_an_answer_that_does_not_come_allows_nothing_and_is_asked_for_again(
    tmp_path: Path, fault: Fault
) -> None:
    async with scene(tmp_path, Repository()) as here:
        # A 401 is tried once more with a new token at once.
        times = 2 if fault.status == 401 else 1
        here.github.trap(PERMISSION, fault, times=times)
        here.github.trap(PULL, fault, times=times)

        [job] = await here.decided_in_time(await here.say("/run deploy"))

        assert job["state"] == "queued"
        assert here.github.count(PERMISSION) >= 2
        assert here.github.count(PULL) >= 2


async def test_a_404_for_a_permission_is_none(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        here.github.trap(PERMISSION, Fault(status=404), times=9)

        [job] = await here.decided(await here.say("/run deploy"))

        assert job["state"] == "ignored"
        await here.github.until(lambda: here.repository.reactions == ["-1"])


async def test_one_repositorys_trouble_delays_no_other(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        here.github.trap(
            PULL,
            Fault(hang=True),
            times=99,
            when=lambda request: "broken" in request.parts,
        )
        stuck = comment("/run deploy")
        stuck["repository"]["full_name"] = "Codertocat/broken"
        await here.tell("issue_comment", stuck)

        [job] = await here.decided(await here.say("/run deploy"))

        assert job["state"] == "queued"
        states = {
            job["repository_name"]: job["state"] for job in await jobs(here.hub.server)
        }
        assert states["Codertocat/broken"] == "received"


async def test_a_restart_asks_about_what_was_received_before(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        here.github.trap(PERMISSION, Fault(hang=True))
        reply = await here.say("/run deploy")
        await here.github.until(lambda: here.github.count(PERMISSION) == 1)
        await here.hub.server.stop()
        await here.hub.server.start()

        [job] = await here.decided(reply)

        assert job["state"] == "queued"


async def test_the_commit_of_a_release_is_that_of_its_tag(tmp_path: Path) -> None:
    rules = """
[[github.rules]]
name = "publish"
workflow = "publish"
repositories = ["*"]
events = ["release"]
"""
    there = Repository(tags={"tags/0.0.1": OTHER})
    async with scene(tmp_path, there, rules) as here:
        [job] = await here.decided(
            await here.tell("release", real("release/00-published"))
        )

        assert (job["state"], job["sha"], job["ref"]) == (
            "queued",
            OTHER,
            "refs/tags/0.0.1",
        )
        there.tags.clear()
        [gone] = await here.decided(
            await here.tell("release", {**real("release/00-published"), "other": True})
        )
        assert gone["state"] == "ignored"
        assert "GitHub doesn't know" in gone["result_summary"]


async def test_a_rule_that_has_gone_ends_what_waits_for_it(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        here.github.trap(PERMISSION, Fault(hang=True))
        reply = await here.say("/run deploy")
        await here.github.until(lambda: here.github.count(PERMISSION) == 1)
        await here.hub.server.stop()
        here.hub.server.more = here.hub.server.more.replace('"deploy"', '"other"')
        here.hub.server.configure(f'listen = "127.0.0.1:{here.hub.server.port}"')
        await here.hub.server.start()

        [job] = await here.decided(reply)

        assert job["result_summary"] == "Its rule is not configured any more."


async def test_checks_are_run_again_and_cancelled_by_their_buttons(
    tmp_path: Path, database_url: str
) -> None:
    async with scene(tmp_path, Repository(), database_url=database_url) as here:
        reply = await here.tell("pull_request", pull_request())
        tests, lint = reply.json()["jobs"]
        waiting = await here.press(lint, "cancel")
        assert (await row(here.hub.server, lint))["state"] == "aborted"
        assert waiting.json()["jobs"] == []
        held = await here.hub.pull()
        await held.accept()
        busy = await here.press(tests, "")
        assert "tests is accepted already" in busy.json()["reason"]
        await here.press(tests, "cancel")
        assert (await held.beat()).json()["cancel_requested"] is True
        await held.finish("aborted", "Cancelled.")
        over = await here.press(tests, "cancel")
        assert "has ended as aborted already" in over.json()["reason"]
        assert [(each.path, each.who) for each in here.changes()] == [
            (f"/jobs/{job_id}/cancel", "octocat (github)") for job_id in (tests, lint)
        ]

        [again] = (await here.press(tests, "")).json()["jobs"]

        new = await here.hub.pull()
        assert (new.id, new.job["sha"]) == (again, HEAD)
        await new.finish()
        await here.hub.paid()
        runs = [here.github.newest(job) for job in (tests, lint, again)]
        assert [run["conclusion"] for run in runs] == [
            "cancelled",
            "cancelled",
            "success",
        ]
        assert {run["name"] for run in runs} == {"tests", "lint"}
        assert here.github.violations == []

        suite = real("check_suite/07-rerequested")
        suite["check_suite"] |= {"head_sha": HEAD, "app": {"id": APP_ID}}
        both = await here.tell("check_suite", suite)
        assert len(both.json()["jobs"]) == 2
        twice = await here.tell("check_suite", suite)
        assert twice.json()["jobs"] == []
        assert (await here.press("nothing", "")).json()["jobs"] == []
        foreign = await here.press(again, "", "somebody/else", repository_id=7)
        assert foreign.json()["jobs"] == []
        assert "there is no job" in foreign.json()["reason"]


async def test_the_buttons_of_a_check_count_after_its_repository_was_renamed(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        push = real("push/00")
        [job] = (await here.tell("push", push)).json()["jobs"]
        await (await here.hub.pull()).finish("failed", "No.")
        of = push["repository"]["id"]

        [again] = (
            await here.press(job, "", "Codertocat/New-Name", repository_id=of)
        ).json()["jobs"]

        held = await here.hub.pull()
        assert (held.id, held.job["repository_name"]) == (again, "Codertocat/New-Name")
        assert here.hub.check(again).repository == "Codertocat/New-Name"
        await held.finish("failed", "No.")
        suite = real("check_suite/07-rerequested")
        suite["check_suite"] |= {"head_sha": push["after"], "app": {"id": APP_ID}}
        suite["repository"] = {**push["repository"], "full_name": "codertocat/other"}
        reply = await here.tell("check_suite", suite)
        assert len(reply.json()["jobs"]) == 1, reply.json()


async def test_a_requeue_has_a_check_of_its_own(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        reply = await here.tell("push", real("push/00"), "d-1")
        [job] = reply.json()["jobs"]
        await (await here.hub.pull()).finish("failed", "No.")
        await here.hub.paid()
        server = here.hub.server

        async def succeeds(again: str) -> None:
            await (await here.hub.pull()).finish()
            await here.hub.paid()
            assert here.github.newest(again)["conclusion"] == "success"

        by_hand = await server.http.post(f"/api/v1/jobs/{job}/requeue")
        [kept] = await deliveries(server)
        assert kept["job_ids"] == [job, by_hand.json()["id"]]
        await succeeds(by_hand.json()["id"])
        by_delivery = await server.http.post("/api/v1/deliveries/d-1/redeliver")
        both = by_delivery.json()["ids"]
        await (await here.hub.pull()).finish("failed", "No.")
        await succeeds(both[-1])
        assert here.github.newest(job)["conclusion"] == "failure"


async def test_what_was_refused_is_asked_about_again_when_it_is_wanted_once_more(
    tmp_path: Path,
) -> None:
    fork = Repository(permission="read", pull=pull(fork=True))
    async with scene(tmp_path, fork) as here:
        [refused] = await here.decided(await here.say("/run deploy", "d-1"))
        again = f"/api/v1/jobs/{refused['id']}/requeue"

        for permission, reason in [("read", "write is needed"), ("write", "a fork")]:
            fork.permission = permission
            await here.hub.server.stop()
            # Without what it remembers of permissions.
            await here.hub.server.start()
            reply = await here.hub.server.http.post(again)
            job = await here.hub.server.result(reply.json()["id"], until="queued")
            assert job["state"] == "ignored"
            assert reason in job["result_summary"]
        assert (await here.hub.machine.ask()).status_code == 204
        [kept] = await deliveries(here.hub.server)
        assert len(kept["job_ids"]) == 3


async def test_a_command_is_run_again_only_for_who_may_give_it(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        first = await here.say("/run deploy")
        [job] = await here.decided(first)
        await (await here.hub.pull()).finish()
        here.github.trap("GET collaborators/mallory/permission", Fault(status=404))

        suite = real("check_suite/07-rerequested")
        suite["check_suite"] |= {"head_sha": HEAD, "app": {"id": APP_ID}}
        of_all = await here.tell("check_suite", suite)
        stranger = await here.press(job["id"], "", login="mallory")
        [refused] = await here.decided(stranger)
        [granted] = await here.decided(await here.press(job["id"], ""))

        assert of_all.json()["jobs"] == []
        assert "started by a comment" in of_all.json()["reason"]
        assert refused["state"] == "ignored"
        assert (
            "of mallory for Codertocat/Hello-World is none" in refused["result_summary"]
        )
        assert (granted["state"], granted["sha"]) == ("queued", HEAD)
        assert granted["actor_login"] == "octocat"


async def test_an_event_that_comes_late_takes_nothing_newer_out(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        newer, older = pull_request("synchronize"), pull_request()
        newer["pull_request"]["updated_at"] = "2026-11-25T10:00:00Z"
        older["pull_request"]["updated_at"] = "2026-11-25T09:00:00Z"
        newer["pull_request"]["head"]["sha"] = "b" * 40
        await here.tell("pull_request", newer)

        await here.tell("pull_request", older)

        found = {(job["sha"], job["state"]) for job in await jobs(here.hub.server)}
        assert found == {("b" * 40, "queued"), (HEAD, "queued")}


async def test_of_one_check_one_job_is_made_again(tmp_path: Path) -> None:
    async with scene(tmp_path, Repository()) as here:
        [job] = (await here.tell("push", real("push/00"))).json()["jobs"]
        await (await here.hub.pull()).finish("failed", "No.")

        first = await here.press(job, "")
        second = await here.press(job, "")

        assert len(first.json()["jobs"]) == 1
        assert second.json()["jobs"] == []
        assert "tests is queued already" in second.json()["reason"]


async def test_what_github_says_of_its_limit_holds_for_every_question(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, Repository()) as here:
        limited = True
        limit = here.github.trap(
            PERMISSION,
            Fault(status=429, headers={"retry-after": "30"}),
            times=99,
            when=lambda _: limited,
        )
        first = await here.say("/run deploy")
        log = here.hub.server.log_file
        await until(lambda: "resolve_failed" in log.read_text())

        others = [await here.say("/run deploy") for _ in range(10)]
        limited = False
        await advance(30)

        for reply in (first, *others):
            [job] = await here.decided(reply)
            assert job["state"] == "queued"
        assert sum(limit.sprung.values()) == 1


@pytest.mark.host
async def test_a_deadlock_loses_no_delivery(
    tmp_path: Path, postgresql: Postgres
) -> None:
    url = postgresql.new_database()
    async with scene(tmp_path, Repository(), database_url=url) as here:
        await here.tell("pull_request", pull_request())
        one, other = [job["id"] for job in await jobs(here.hub.server)]
        newer = pull_request("synchronize")
        newer["pull_request"]["head"]["sha"] = "b" * 40
        lock = "SELECT 1 FROM jobs WHERE id = %s FOR UPDATE"
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with await psycopg.AsyncConnection.connect(url) as db:
            await db.execute("SET deadlock_timeout = '1h'")
            # The hub has the first job, and waits for the second.
            await db.execute(lock, (other,))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(here.tell, "pull_request", newer)
                async with await psycopg.AsyncConnection.connect(
                    url, autocommit=True
                ) as looking:

                    async def is_waiting() -> bool:
                        found = await looking.execute(waiting)
                        return await found.fetchone() != (0,)

                    await until(is_waiting)
                await db.execute(lock, (one,))
                await db.rollback()

        states = [job["state"] for job in await jobs(here.hub.server)]
        assert states == ["superseded", "superseded", "queued", "queued"]
