"""The commands of the hub's owner, against a real hub: what they print, and one clear line where they can't."""

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from dispatchd.hub.config.load import TOKEN_FILE
from dispatchd.protocol.contracts import check
from support.cli import Done, dispatchd
from support.front import Cut, Fault, front
from support.hub import Hub, hub
from support.hub_process import hub as hub_process
from support.machine import Machine
from support.raw_answers import raw_answers

SHA = "d6fde92930d4715a2b49857d24b940956b26d2d3"
CI = {"dag_name": "ci", "repository_name": "o/r"}


def run_command(folder: Path, *words: str, stdin: str = "", **env: str) -> Done:
    done = dispatchd("hub", *words, text=stdin, cwd=folder, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


class Owner:
    """Who runs commands beside a hub."""

    def __init__(self, server: Hub) -> None:
        self.folder = server.folder

    async def say(self, *words: str, stdin: str = "", **env: str) -> Done:
        return await to_thread.run_sync(
            lambda: run_command(self.folder, *words, stdin=stdin, **env)
        )

    async def get(self, *words: str, stdin: str = "") -> Any:
        done = await self.say(*words, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def owner(server: Hub) -> Owner:
    return Owner(server)


async def test_jobs_are_submitted_listed_shown_cancelled_and_repeated(
    owner: Owner, machine: Machine
) -> None:
    document = json.dumps({"id": "job/1", **CI, "payload": {"a": 1}})
    submitted = await owner.say("submit", "-", stdin=document)
    (owner.folder / "other.json").write_text('{"dag_name": "docs", "id": "other"}')
    await owner.say("submit", "other.json")
    held = await machine.pull()
    await held.accept("run-1")
    await held.finish("failed", "Exit code 1.")
    text = (await owner.say("show", "job/1")).stdout
    cancelled = await owner.say("cancel", "other")
    again = (await owner.say("requeue", "job/1")).stdout.strip()

    assert submitted.stdout == "job/1\n"
    assert "failed" in text
    assert "Exit code 1." in text
    assert "claim 1  m1" in text
    assert cancelled.stdout == "other  aborted\n"
    listed = {each["id"]: each["state"] for each in await owner.get("jobs")}
    assert listed == {"job/1": "failed", "other": "aborted", again: "queued"}
    filtered = await owner.get("jobs", "--state", "queued", "--repository", "o/r")
    assert [each["id"] for each in filtered] == [again]
    table = (await owner.say("jobs", "--workflow", "docs")).stdout.splitlines()
    assert len(table) == 2
    assert table[0].split()[:3] == ["JOB", "STATE", "WORKFLOW"]
    assert table[0].split()[-2:] == ["AGE", "TOOK"]
    assert re.search(r"  \d+ (s|min)$", table[1])
    [created_at] = [each for each in text.splitlines() if each.startswith("created")]
    assert re.fullmatch(r"created +[0-9-]{10} [0-9:]{8} UTC", created_at)
    assert (await owner.get("show", "job/1"))["attempts"][0]["outcome"] == "failed"


async def test_nothing_that_a_job_says_acts_on_the_terminal(
    owner: Owner, machine: Machine
) -> None:
    evil = "\x1b]0;PWNED\x07\x1b[2J\x1b[31m\u202e\n"
    job = {"id": f"esc{evil}", "dag_name": f"wf{evil}", "repository_name": f"r{evil}x"}
    (owner.folder / "job.json").write_text(json.dumps(job))
    submitted = await owner.say("submit", "job.json")
    held = await machine.pull()
    await held.accept("run-1")
    await held.finish("failed", f"summary {evil}")

    listed = (await owner.say("jobs")).stdout
    text = (await owner.say("show", job["id"])).stdout
    missing = await owner.say("show", f"no{evil}")

    for each in (submitted.stdout, listed, text, missing.stderr):
        assert not {"\x07", "\u202e"} & {*each}
        assert "\x1b[2J" not in each
        assert r"\x1b]0;PWNED\x07\x1b[2J" in each
    assert len(listed.splitlines()) == 2
    assert (await owner.get("show", job["id"]))["id"] == job["id"]


SPAN = {
    "kind": "span",
    "name": "compile",
    "start_seconds": 0.5,
    "duration_seconds": 2.0,
}


async def test_a_job_is_shown_with_all_that_was_reported_of_it(
    owner: Owner, machine: Machine
) -> None:
    evil = "all\x1b[2J\x1b]0;mine\x07 well"
    await owner.say("submit", "-", stdin=json.dumps({"id": "job/1", **CI, "sha": SHA}))
    held = await machine.pull()
    await held.accept("run-1")
    remark = {"path": "a.py", "start_line": 3, "level": "failure", "message": evil}
    await machine.call(
        "finish",
        held.id,
        claim_token=held.token,
        result_status="failed",
        result_step_summary=f"## Tests\n{evil}",
        result_outputs={"coverage": "97"},
        result_annotations=[remark],
        result_spans=[SPAN],
    )

    shown = (await owner.say("show", "job/1")).stdout

    assert f"commit        {SHA}" in shown
    for words in ("## Tests", "coverage=97", "failure  a.py:3  all"):
        assert words in shown
    assert "\x1b" not in shown
    document = await owner.get("show", "job/1")
    assert document["result_spans"] == [{**SPAN, "ok": True}]


async def test_machines_are_let_in_and_put_out(owner: Owner) -> None:
    added = await owner.say("machine", "add", "build-1")
    fixed = await owner.get("machine", "add", "build-2", "--fixed-secret")
    rotated = await owner.get("machine", "rotate", "build-2")
    revoked = await owner.say("machine", "revoke", "build-1")
    twice = await owner.say("machine", "add", "build-2")

    assert re.search(
        r"^dispatchd join http://\S+ dhub1\.[\w-]{43}\.\.dhub_enrol_[\w-]+$",
        added.stdout,
        re.MULTILINE,
    )
    assert fixed["secret"].startswith("dhub_machine_")
    assert rotated["secret"] != fixed["secret"]
    assert revoked.stdout == "build-1  revoked\n"
    states = {each["name"]: each["state"] for each in await owner.get("machines")}
    assert (states["build-1"], states["build-2"]) == ("revoked", "active")
    assert twice.returncode == os.EX_USAGE
    assert "there is already a machine build-2" in twice.stderr
    titles, *rows = (await owner.say("machines")).stdout.splitlines()
    assert any(re.match(r"build-2 +active +never ", row) for row in rows)
    assert titles.split() == [
        "MACHINE",
        "STATE",
        *("SEEN", "RUNS", "FREE"),
        *("WORKFLOWS", "BOUND", "TO"),
        *("SERVER", "ID"),
    ]
    log = (owner.folder / "hub.log").read_text()
    assert '"path": "/api/v1/machines/build-1/revoke"' in log
    [line] = [
        json.loads(each)
        for each in log.splitlines()
        if "owner_call" in each and "/revoke" in each
    ]
    assert line["by"].startswith("init-")
    assert line["method"] == "POST"
    assert line["address"] == "127.0.0.1"
    assert line["status"] == 200
    assert fixed["secret"] not in log


async def test_the_fingerprint_is_what_openssl_says(owner: Owner) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    added = await owner.get("machine", "add", "build-1")
    words = [openssl, "pkey", "-pubin", "-outform", "DER"]
    pem = added["public_key"].encode()
    done = await anyio.run_process(words, input=pem)

    assert added["fingerprint"] == sha256(done.stdout).hexdigest()


async def test_a_token_can_do_what_it_is_for_and_no_more(owner: Owner) -> None:
    token = (await owner.say("token", "add", "ci", "--scope", "submit")).stdout.strip()
    given = {"DISPATCHD_HUB_TOKEN": token}
    submitted = await owner.say("submit", "-", stdin=json.dumps(CI), **given)
    listed = await owner.say("jobs", **given)
    names = {each["name"]: each["scopes"] for each in await owner.get("token", "list")}
    revoked = await owner.say("token", "revoke", "ci")
    after = await owner.say("submit", "-", stdin=json.dumps(CI), **given)

    assert token.startswith("dhub_token_")
    assert submitted.returncode == 0
    assert listed.returncode == os.EX_USAGE
    assert "not for read" in listed.stderr
    assert names["ci"] == ["submit"]
    assert revoked.stdout == "ci  revoked\n"
    assert "not valid here" in after.stderr
    assert (await owner.say("token", "revoke", "ci")).returncode == os.EX_USAGE


async def test_deliveries_are_listed_made_again_and_pruned(
    owner: Owner, machine: Machine
) -> None:
    job = {"id": "j", "event_name": "push", "delivery_id": "d-1", **CI}
    await owner.say("submit", "-", stdin=json.dumps(job))
    listed = await owner.say("deliveries")
    again = (await owner.say("redeliver", "d-1")).stdout.strip()
    await (await machine.pull()).finish()
    pruned = await owner.say("prune", "--days", "0", "--yes")

    assert "d-1" in listed.stdout
    assert "queued: workflow ci" in listed.stdout
    assert pruned.stdout == "2 removed\n"
    assert [each["id"] for each in await owner.get("jobs")] == [again]
    assert await owner.get("deliveries") == []


async def test_trouble_is_one_line(server: Hub, owner: Owner) -> None:
    (owner.folder / "bad.json").write_text("{")
    cases = {
        ("submit", "none.json"): (os.EX_USAGE, "none.json"),
        ("submit", "bad.json"): (os.EX_USAGE, "not JSON"),
        ("show", "unknown"): (os.EX_USAGE, "there is no job unknown"),
        ("cancel", "unknown"): (os.EX_USAGE, "there is no job unknown"),
        ("jobs", "--state", "odd"): (os.EX_USAGE, "there is no state 'odd'"),
        ("jobs", "--config", "none.toml"): (os.EX_CONFIG, "none.toml"),
        ("jobs", "--token-file", "none"): (os.EX_USAGE, "none"),
        ("jobs", "--url", "http://127.0.0.1:9"): (os.EX_UNAVAILABLE, "no hub answers"),
        ("jobs", "--url", "no url"): (os.EX_UNAVAILABLE, "no hub answers"),
    }
    for words, (code, part) in cases.items():
        done = await owner.say(*words)
        assert done.returncode == code, (words, done)
        [line] = done.stderr.splitlines()
        assert line.startswith("dispatchd: ")
        assert part in line
    (server.folder / TOKEN_FILE).write_text("wrong")
    done = await owner.say("jobs")
    assert "the token is not valid here" in done.stderr
    (server.folder / TOKEN_FILE).write_text("secret\nin two lines")
    done = await owner.say("jobs")
    assert "one line of ASCII" in done.stderr
    assert "secret" not in done.stderr


async def test_every_command_finds_a_hub_by_address_and_token_alone(
    tmp_path: Path,
) -> None:
    async with hub(tmp_path / "hub") as server:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        token = (server.folder / TOKEN_FILE).read_text()
        env = {"DISPATCHD_HUB_URL": server.url, "DISPATCHD_HUB_TOKEN": token}
        done = await to_thread.run_sync(
            lambda: run_command(elsewhere, "machines", "--json", **env)
        )

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("result", "code"), [("succeeded", 0), ("failed", 1), ("partially_succeeded", 2)]
)
async def test_a_watched_run_ends_with_the_code_of_its_outcome(
    owner: Owner, machine: Machine, result: str, code: int
) -> None:
    said: list[Done] = []
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            words = ("run", "ci", "--repo", "o/r", "-f", "level=full", "--watch")
            said.append(await owner.say(*words))

        tasks.start_soon(watch)
        held = await machine.pull(wait="30")
        await held.accept("run-1")
        await held.finish(result, "That is how it went.")

    [done] = said
    assert done.returncode == code, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last == f"{held.id}  {result}  That is how it went."
    again = await owner.say("watch", held.id[:8])
    assert (again.returncode, again.stdout) == (code, f"{last}\n")


async def test_a_watch_goes_on_when_the_hub_starts_again(tmp_path: Path) -> None:
    async with hub_process(tmp_path) as server:
        await server.submit({"id": "j", "dag_name": "ci"})
        words = (sys.executable, "-u", "-m", "dispatchd", "hub", "watch", "j")
        with subprocess.Popen(
            words,
            cwd=server.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watch:
            assert watch.stdout is not None
            first = await to_thread.run_sync(watch.stdout.readline)
            server.kill()
            await server.start()
            await server.http.post("/api/v1/jobs/j/cancel")
            said, complained = await to_thread.run_sync(watch.communicate)

    assert first.startswith("j  queued")
    assert (watch.returncode, "j  aborted" in said) == (3, True), complained


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        (Fault(cut=Cut.AFTER), 1),
        pytest.param(Fault(cut=Cut.BEFORE), 1, marks=pytest.mark.torture),
        (Fault(page=b"<p>gateway", status=504, arrives=True), 1),
        pytest.param(Fault(cut=Cut.AFTER), 99, marks=pytest.mark.torture),
    ],
)
async def test_a_job_whose_answer_is_lost_is_queued_once(
    server: Hub, owner: Owner, fault: Fault, count: int
) -> None:
    left = [fault] * count
    jobs: list[dict[str, Any]] = []

    def decide(path: str) -> Fault | None:
        return left.pop() if path == "/api/v1/jobs" and left else None

    async with front(server.url) as way:
        for words in (("run", "ci"), ("submit", "-")):
            left[:] = [fault] * count
            way.decide = decide
            done = await owner.say(
                *words,
                "--url",
                way.url,
                stdin=json.dumps(CI),
                DISPATCHD_HUB_TOKEN=(owner.folder / TOKEN_FILE).read_text(),
            )
            jobs = (await server.http.get("/api/v1/jobs")).json()["jobs"]
            job_id = jobs[-1]["id"]
            if count == 1:
                assert (done.returncode, done.stdout.strip()) == (0, job_id)
            else:
                assert done.returncode == 69
                assert f"may be queued all the same, as {job_id}" in done.stderr
    assert len(jobs) == 2


@pytest.mark.parametrize("host", ["a..b", ".", f"{'a' * 64}.example"])
async def test_an_address_that_no_host_can_have_is_one_line(
    owner: Owner, host: str
) -> None:
    done = await owner.say("jobs", "--url", f"https://{host}")

    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert "Invalid hostname" in done.stderr


async def test_a_number_that_no_hub_sends_is_one_line(owner: Owner) -> None:
    size = b"Log-Size: " + b"9" * 5000 + b"\r\nLog-Parts: 1\r\n"
    answer = b"HTTP/1.1 200 OK\r\n" + size + b"Content-Length: 12\r\n\r\n"
    async with raw_answers(lambda: answer + b'{"jobs": []}') as stranger:
        done = await owner.say("logs", "j", "--url", stranger.url)

    assert (done.returncode, done.stderr.count("\n")) == (69, 1)


async def test_the_beginning_of_an_id_is_enough_where_it_is_unique(
    owner: Owner,
) -> None:
    for job_id in ("release", "release-linux", "release-macos", "Release-x"):
        document = json.dumps({"id": job_id, **CI})
        await owner.say("submit", "-", stdin=document)

    whole = await owner.get("show", "release")
    one = await owner.get("show", "release-m")
    several = await owner.say("show", "release-")
    none = await owner.say("cancel", "releases")

    assert (whole["id"], one["id"]) == ("release", "release-macos")
    assert several.returncode == os.EX_USAGE
    assert "2 begin with it (release-linux, release-macos)" in several.stderr
    assert "there is no job releases" in none.stderr
    cancelled = await owner.say("cancel", "Rel")
    assert cancelled.stdout == "Release-x  aborted\n"


async def test_every_list_is_an_array_of_what_its_contract_says(owner: Owner) -> None:
    await owner.say("submit", "-", stdin=json.dumps({"id": "one", **CI}))
    for words, contract in (
        (("jobs",), "hub-job"),
        (("machines",), "hub-machine"),
        (("token", "list"), "hub-token"),
    ):
        items = await owner.get(*words)
        assert isinstance(items, list)
        assert items
        for item in items:
            check(contract, item)
    assert await owner.get("deliveries") == []
    assert await owner.get("jobs", "--state", "failed") == []
