"""`dispatchd conformance`: our hub and the reference endpoint pass, and each broken variant is caught by its rule."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final
from xml.etree import ElementTree as ET

import anyio
import httpx
import pytest
from anyio import to_thread
from attrs import frozen
from typing_extensions import override

import endpoint as rules
import serve
from dispatchd.conformance.caller import Identity
from dispatchd.conformance.hooks import Hooks, SubmitCall
from dispatchd.conformance.judge import judged, level_of
from dispatchd.conformance.record import Record
from dispatchd.conformance.rules import RULES
from dispatchd.conformance.run import Settings, run_trial
from dispatchd.errors import NotReachable
from dispatchd.judging.judgement import Judgement, Verdict
from dispatchd.judging.junit import junit_xml
from dispatchd.protocol.job import Json
from support.certificates import Authority, server_context, tls_endpoint
from support.cli import Done, command, dispatchd
from support.hub import HubHere, hub
from support.machine import row
from support.reference import MACHINE, Reference, reference

CONTRACT = Path(__file__).parents[2] / "contracts" / "README.md"
LEASE_S = 0.5
Reply = rules.Reply


@frozen
class InThread:
    """A hook that calls a function."""

    function: Callable[[], object]

    async def act(self) -> None:
        await to_thread.run_sync(self.function)


def trial_of(server: Reference, **different: Any) -> Settings:
    """Return the settings for a trial of a reference endpoint with every hook."""

    def hooks(http: httpx.AsyncClient) -> Hooks:
        token = server.token_file.read_text()
        return Hooks(
            submits=SubmitCall(http=http, token=token, within_s=10),
            restart=InThread(server.restart),
            revoke=InThread(lambda: server.vendor.revoke(MACHINE)),
        )

    identity = Identity(
        license_id=serve.LICENSE_ID,
        server_id=MACHINE,
        secret=server.secret_file.read_text(),
    )
    return Settings(
        **{"url": server.url, "hooks": hooks, "identity": identity, **different}
    )


def tried(server: Reference, **different: Any) -> tuple[Record, list[Judgement]]:
    record = anyio.run(run_trial, trial_of(server, **different))
    return record, judged(record)


def numbers(judgements: list[Judgement], verdict: Verdict) -> set[str]:
    return {each.rule.number for each in judgements if each.verdict is verdict}


def reasons(judgements: list[Judgement]) -> list[str]:
    return [
        f"{each.rule.number} {each.verdict}: {each.reason}"
        for each in judgements
        if each.verdict is not Verdict.KEPT
    ]


def open_jobs(server: Reference) -> list[str]:
    rows = server.vendor.endpoint.db.execute(
        "SELECT id FROM jobs WHERE state != 'finished'"
    )
    return [row["id"] for row in rows]


def test_the_reference_endpoint_keeps_every_rule(tmp_path: Path) -> None:
    with reference(tmp_path, lease_s=LEASE_S) as server:
        record, judgements = tried(server)
        left = open_jobs(server)
    assert numbers(judgements, Verdict.BROKEN) == set(), reasons(judgements)
    # It has no licenses.
    assert numbers(judgements, Verdict.SKIPPED) == {"1.24"}, reasons(judgements)
    assert level_of(judgements, record) == 2
    # The machine was revoked with this one.
    assert len(left) == 1


class FirstProtocol(rules.Endpoint):
    """An endpoint that has never heard of an extension."""

    @override
    def pull(self, body: rules.Json, hold_s: float) -> Reply:
        known = ("license_id", "server_id", "heartbeat_secret")
        return super().pull({name: body.get(name) for name in known}, 0)

    @override
    def about(self, call: str, job_id: str, body: rules.Json) -> Reply:
        if call in {"heartbeat", "release"}:
            raise rules.Refused(404, "there is no such call")
        return super().about(call, job_id, {**body, "claim_token": None})


class BareHandler(serve.Handler):
    """Sends no header of an extension."""

    @override
    def send_header(self, keyword: str, value: str) -> None:
        if not keyword.startswith(("Dispatch-", "Preference-")):
            super().send_header(keyword, value)


def test_an_endpoint_of_the_first_protocol_passes_at_level_1(tmp_path: Path) -> None:
    with reference(tmp_path, kind=FirstProtocol, handler=BareHandler) as server:
        record, judgements = tried(server)
    assert numbers(judgements, Verdict.BROKEN) == set(), reasons(judgements)
    assert (level_of(judgements, record), record.shown) == (1, set())
    judged_here = {each.level for each in judgements if each.verdict is Verdict.KEPT}
    assert judged_here == {1}


# Broken variants. Each changes one thing, and breaks one rule.


def refusing(call: str, status: int) -> type[rules.Endpoint]:
    """Return an endpoint that answers a repeated call with a refusal."""

    class Refusing(rules.Endpoint):
        @override
        def about(self, name: str, job_id: str, body: rules.Json) -> Reply:
            seen = self.__dict__.setdefault("seen", set())
            reply = super().about(name, job_id, body)
            key = (name, job_id, body.get("claim_token"))
            if name == call and key in seen:
                raise rules.Refused(status, "this was said already")
            seen.add(key)
            return reply

    return Refusing


class KnowsAnybody(rules.Endpoint):
    @override
    def machine(self, body: rules.Json, secret_name: str) -> Any:
        if secret_name == "heartbeat_secret":
            return super().machine(body, secret_name)
        found = "SELECT * FROM machines WHERE name = ?"
        return self.db.execute(found, [body.get("server_id")]).fetchone()


class LetsAnybodyPull(rules.Endpoint):
    @override
    def machine(self, body: rules.Json, secret_name: str) -> Any:
        if secret_name == "secret":
            return super().machine(body, secret_name)
        found = "SELECT * FROM machines WHERE name = ?"
        return self.db.execute(found, [body.get("server_id")]).fetchone()


class AlwaysExtends(rules.Endpoint):
    @override
    def claimed(self, job: Any, body: rules.Json) -> rules.Json:
        names = ["claim", "lease", "heartbeat", "release"]
        return super().claimed(job, {**body, "extensions": names})


class Forgetful(rules.Endpoint):
    """Keeps in memory what it should keep on disk."""


def forget(server: Reference) -> None:
    """Lose the jobs of a folder that nobody serves."""
    (server.folder / "endpoint.db").unlink()


class WakesNobody(rules.Endpoint):
    @override
    def next_for(self, body: rules.Json) -> Any:
        polls = self.__dict__.setdefault("polls", [0])
        polls[0] += 1
        held = "-held" in str(body.get("workflows"))
        # Looks again at every tenth bell only.
        return None if held and polls[0] % 10 else super().next_for(body)


class HandsOutAccepted(rules.Endpoint):
    @override
    def next_for(self, body: rules.Json) -> Any:
        found = super().next_for(body)
        if found is not None:
            return found
        jobs = self.db.execute("SELECT * FROM jobs WHERE state = 'accepted'")
        return next(
            (
                job
                for job in jobs
                if json.loads(job["document"])["dag_name"] in body["workflows"]
            ),
            None,
        )


class HandsOutFinished(rules.Endpoint):
    @override
    def next_for(self, body: rules.Json) -> Any:
        found = super().next_for(body)
        if found is not None:
            return found
        jobs = self.db.execute("SELECT * FROM jobs WHERE state = 'finished'")
        return next(
            (
                job
                for job in jobs
                if json.loads(job["document"])["dag_name"] in body["workflows"]
            ),
            None,
        )


class TakesAnyClaim(rules.Endpoint):
    @override
    def about(self, call: str, job_id: str, body: rules.Json) -> Reply:
        job = self.db.execute("SELECT * FROM jobs WHERE id = ?", [job_id]).fetchone()
        if job is not None and body.get("claim_token"):
            body = {**body, "claim_token": job["claim"]}
        return super().about(call, job_id, body)


class TakesNoClaim(rules.Endpoint):
    @override
    def about(self, call: str, job_id: str, body: rules.Json) -> Reply:
        job = self.db.execute("SELECT * FROM jobs WHERE id = ?", [job_id]).fetchone()
        if job is not None and not body.get("claim_token"):
            body = {**body, "claim_token": job["claim"]}
        return super().about(call, job_id, body)


class OneToken(rules.Endpoint):
    @override
    def change(self, job: Any, **columns: object) -> None:
        if columns.get("claim"):
            columns["claim"] = "the-same-token-for-everybody"
        super().change(job, **columns)

    @override
    def claimed(self, job: Any, body: rules.Json) -> rules.Json:
        shown = super().claimed(job, body)
        if "claim_token" in shown:
            shown["claim_token"] = "the-same-token-for-everybody"
        return shown


class ReleasesToTheOldClaim(rules.Endpoint):
    """Checks the machine after a release, and no claim."""

    @override
    def about(self, call: str, job_id: str, body: rules.Json) -> Reply:
        job = self.db.execute("SELECT * FROM jobs WHERE id = ?", [job_id]).fetchone()
        old = self.__dict__.setdefault("old", {})
        if call == "release" and job is not None:
            old[job_id] = body.get("claim_token")
        elif job is not None and job_id in old and old[job_id] == body["claim_token"]:
            body = {**body, "claim_token": job["claim"]}
        return super().about(call, job_id, body)


class ShortensTheLease(rules.Endpoint):
    @override
    def heartbeat(self, job: Any, body: rules.Json) -> Reply:
        status, document = super().heartbeat(job, body)
        return status, {**(document or {}), "lease_seconds": self.lease_s / 2}


class ExtendsNothing(rules.Endpoint):
    @override
    def heartbeat(self, job: Any, body: rules.Json) -> Reply:
        ends = self.ends[job["id"]]
        reply = super().heartbeat(job, body)
        self.ends[job["id"]] = ends
        return reply


class KnowsOnePhase(rules.Endpoint):
    @override
    def heartbeat(self, job: Any, body: rules.Json) -> Reply:
        if body.get("phase") != "running":
            raise rules.Refused(422, "$.phase must be running")
        return super().heartbeat(job, body)


class IgnoresWorkflows(rules.Endpoint):
    """Has the extension by its list, and hands out any job all the same."""

    @override
    def pull(self, body: rules.Json, hold_s: float) -> Reply:
        if "-other" in str(body.get("workflows")):
            body = {**body, "workflows": None}
        return super().pull(body, hold_s)


class LosesCancels(rules.Endpoint):
    """Hands out no job where cancel jobs alone are wanted."""

    @override
    def next_for(self, body: rules.Json) -> Any:
        return None if body.get("workflows") == [] else super().next_for(body)


class ReplacesTheResult(rules.Endpoint):
    @override
    def finish(self, job: Any, body: rules.Json) -> Reply:
        if job["state"] == "finished":
            before = json.loads(job["result"])["result_status"]
            if before == body["result_status"]:
                return 204, None
            result = {"result_status": body["result_status"]}
            self.change(job, result=json.dumps(result))
            raise rules.Refused(409, "this job has ended with another result")
        return super().finish(job, body)


class WantsAnAccept(rules.Endpoint):
    @override
    def finish(self, job: Any, body: rules.Json) -> Reply:
        if job["state"] == "claimed":
            raise rules.Refused(409, "this job was not accepted")
        return super().finish(job, body)


class WantsNothingUnknown(rules.Endpoint):
    @override
    def accept(self, job: Any, body: rules.Json) -> Reply:
        if "conformance" in body:
            raise rules.Refused(422, "$.conformance is not known")
        return super().accept(job, body)


class WantsShortReports(rules.Endpoint):
    @override
    def finish(self, job: Any, body: rules.Json) -> Reply:
        if len(str(body)) > 65_536:
            raise rules.Refused(413, "this is too large")
        return super().finish(job, body)


class ServesTheRevoked(rules.Endpoint):
    @override
    def machine(self, body: rules.Json, secret_name: str) -> Any:
        return {**super().machine(body, secret_name), "revoked": 0}


class ForgetsUnknownJobs(rules.Endpoint):
    @override
    def job(self, job_id: str) -> Any:
        try:
            return super().job(job_id)
        except rules.Refused:
            raise rules.Refused(500, "something is wrong") from None


class BreaksTheSchema(rules.Endpoint):
    @override
    def claimed(self, job: Any, body: rules.Json) -> rules.Json:
        return {**super().claimed(job, body), "payload_text": 1, "repository_id": "7"}


class NeverEmpty(rules.Endpoint):
    @override
    def pull(self, body: rules.Json, hold_s: float) -> Reply:
        status, document = super().pull(body, hold_s)
        return (200, {}) if status == 204 else (status, document)


class HoldsTooLong(rules.Endpoint):
    @override
    def pull(self, body: rules.Json, hold_s: float) -> Reply:
        return super().pull(body, hold_s * 5 if hold_s == 1 else hold_s)


class SaysItInHtml(serve.Handler):
    @override
    def reply(self, status: int, document: rules.Json | None) -> None:
        if status < 400:
            super().reply(status, document)
            return
        self.send_response(status)
        for name in ("Dispatch-Contract", "Dispatch-Call"):
            self.send_header(name, self.headers.get("Dispatch-Call", ""))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"null")


class SaysItAsText(serve.Handler):
    @override
    def send_header(self, keyword: str, value: str) -> None:
        plain = keyword == "Content-Type"
        super().send_header(keyword, "text/plain" if plain else value)


class WithoutHeader(serve.Handler):
    """Refuses without the header of the contract, as a framework's own error page does."""

    @override
    def reply(self, status: int, document: rules.Json | None) -> None:
        self.__dict__["refuses"] = status >= 400
        super().reply(status, document)

    @override
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Dispatch-Contract" or not self.__dict__.get("refuses"):
            super().send_header(keyword, value)


class RepeatsNothing(serve.Handler):
    @override
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Dispatch-Call":
            super().send_header(keyword, value)


class DecodesFirst(serve.Handler):
    @override
    def routed(self, body: rules.Json) -> Reply:
        self.path = self.path.replace("%2F", "/")
        return super().routed(body)


class FailsOnGarbage(serve.Handler):
    @override
    def body(self) -> rules.Json:
        try:
            return super().body()
        except rules.Refused as refused:
            raise rules.Refused(500, refused.args[1]) from None


class Silent(serve.Handler):
    """Answers no heartbeat in phases that it doesn't know."""

    @override
    def reply(self, status: int, document: rules.Json | None) -> None:
        if self.path.endswith("/heartbeat"):
            self.close_connection = True
            return
        super().reply(status, document)


VARIANTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "closes a connection without an answer": ("1.1", {"handler": Silent}),
    "refuses without a message": ("1.2", {"handler": SaysItInHtml}),
    "sends JSON as text": ("1.3", {"handler": SaysItAsText}),
    "fails on what is no JSON": ("1.4", {"handler": FailsOnGarbage}),
    "answers an empty pull with 200": ("1.5", {"kind": NeverEmpty}),
    "lets anybody pull": ("1.6", {"kind": LetsAnybodyPull}),
    "breaks the schema of a job": ("1.7", {"kind": BreaksTheSchema}),
    "shows extensions unasked": ("1.8", {"kind": AlwaysExtends}),
    "checks no secret about a job": ("1.9", {"kind": KnowsAnybody}),
    "fails on an unknown job": ("1.10", {"kind": ForgetsUnknownJobs}),
    "refuses a repeated accept": ("1.12", {"kind": refusing("accept", 409)}),
    "refuses an unknown property": ("1.13", {"kind": WantsNothingUnknown}),
    "hands an accepted job out": ("1.14", {"kind": HandsOutAccepted}),
    "refuses a repeated finish": ("1.16", {"kind": refusing("finish", 410)}),
    "replaces a result": ("1.17", {"kind": ReplacesTheResult}),
    "hands an ended job out": ("1.18", {"kind": HandsOutFinished}),
    "wants an accept before a finish": ("1.19", {"kind": WantsAnAccept}),
    "decodes a path before it splits it": ("1.20", {"handler": DecodesFirst}),
    "refuses a large report": ("1.21", {"kind": WantsShortReports}),
    "forgets at a restart": ("1.22", {"before_restart": forget}),
    "serves a revoked machine": ("1.23", {"kind": ServesTheRevoked}),
    "has one token for all": ("2.1", {"kind": OneToken}),
    "takes a missing token": ("2.2", {"kind": TakesNoClaim}),
    "takes any token": ("2.3", {"kind": TakesAnyClaim}),
    "knows one phase": ("2.5", {"kind": KnowsOnePhase}),
    "shortens a lease": ("2.6", {"kind": ShortensTheLease}),
    "extends no lease": ("2.7", {"kind": ExtendsNothing}),
    "refuses a repeated release": ("2.8", {"kind": refusing("release", 409)}),
    "lets an old claim count": ("2.9", {"kind": ReleasesToTheOldClaim}),
    "holds a pull for too long": ("2.10", {"kind": HoldsTooLong}),
    "wakes no held pull": ("2.11", {"kind": WakesNobody}),
    "hands out undeclared workflows": ("2.12", {"kind": IgnoresWorkflows}),
    "refuses without the contract header": ("2.13", {"handler": WithoutHeader}),
    "repeats no Dispatch-Call": ("2.14", {"handler": RepeatsNothing}),
    "loses cancel jobs": ("2.15", {"kind": LosesCancels}),
}
"""What is broken, the rule that it breaks, and how."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.torture] if number % 9 else [])
        for number, name in enumerate(VARIANTS)
    ],
)
def test_a_broken_endpoint_is_caught_by_the_rule_that_it_breaks(
    tmp_path: Path, name: str
) -> None:
    number, options = VARIANTS[name]
    with reference(tmp_path, lease_s=LEASE_S, **options) as server:
        record, judgements = tried(server)
    # What it breaks may show by other rules too, but none before it.
    broken = [each.rule.number for each in judgements if each.verdict is Verdict.BROKEN]
    assert broken[:1] == [number], (record.ended, reasons(judgements))
    assert level_of(judgements, record) < 2


def test_the_table_of_the_contract_is_that_of_the_judge() -> None:
    section = CONTRACT.read_text().partition("## Rules of an endpoint")[2]
    rows = re.findall(r"^\| (\d\.\d+) \| (.+?) \|$", section, re.MULTILINE)
    assert rows == [(rule.number, rule.words) for rule in RULES]


async def test_our_hub_keeps_every_rule(tmp_path: Path) -> None:
    async with hub(tmp_path / "hub") as here:
        made = (await here.http.post("/api/v1/machines", json={"name": "trial"})).json()

        async def restart() -> None:
            await here.stop()
            await here.start()

        async def revoke() -> None:
            await here.http.post("/api/v1/machines/trial/revoke")

        def hooks(http: httpx.AsyncClient) -> Hooks:
            token = here.headers["authorization"].removeprefix("Bearer ")
            return Hooks(
                submits=SubmitCall(http=http, token=token, within_s=10),
                restart=Does(restart),
                revoke=Does(revoke),
            )

        record = await run_trial(
            Settings(url=here.url, hooks=hooks, key=made["join_key"])
        )
        rows = (await here.http.get("/api/v1/jobs")).json()
    judgements = judged(record)
    assert numbers(judgements, Verdict.BROKEN) == set(), reasons(judgements)
    # Its lease takes a minute.
    assert numbers(judgements, Verdict.SKIPPED) == {"2.7"}, reasons(judgements)
    assert level_of(judgements, record) == 2
    assert [row["state"] for row in rows["jobs"] if not row["ended"]] == ["claimed"]


@frozen
class Does:
    """A hook that awaits a function."""

    function: Callable[[], Awaitable[None]]

    async def act(self) -> None:
        await self.function()


async def judge(here: HubHere, folder: Path, *words: str) -> Done:
    """Run the command against a hub, as its owner does."""
    made = (await here.http.post("/api/v1/machines", json={"name": "trial"})).json()
    (folder / "key").write_text(made["join_key"] + "\n")
    token = here.headers["authorization"].removeprefix("Bearer ")
    (folder / "token").write_text(token)
    options = ["--key-file", str(folder / "key"), "--token-file", str(folder / "token")]
    done = await command("conformance", here.url, *options, *words)
    for secret in (token, made["join_key"].rpartition(".")[2]):
        assert secret not in done.stdout + done.stderr
    return done


async def test_the_command_says_each_rule_and_writes_junit(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    async with hub(tmp_path / "hub") as here:
        theirs = await here.submit({"dag_name": "deploy"})
        done = await judge(here, tmp_path, "--junit", str(file), "--level", "2")
        assert (await row(here, theirs))["state"] == "queued"
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Level: 2" in done.stdout
    for rule in RULES:
        assert f"{rule.number:<6}{rule.words}" in done.stdout
    suite = ET.parse(file).getroot()
    cases = [case.get("name", "") for case in suite.iter("testcase")]
    assert cases == [f"{rule.number} {rule.words}" for rule in RULES]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert suite.get("skipped") == str(len([*suite.iter("skipped")]))


async def test_a_certificate_has_to_be_of_the_authority_that_is_named(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path / "ca")
    context = server_context(authority.issue("127.0.0.1"))
    other = Authority(tmp_path / "other")
    async with tls_endpoint(context) as server:
        words = [f"https://127.0.0.1:{server.port}", "--submit-command", "true"]
        (tmp_path / "key").write_text("k")
        words += ["--key-file", str(tmp_path / "key")]
        refused = await command("conformance", *words, "--ca-file", str(other.file))
        missing = await command(
            "conformance", *words, "--ca-file", str(tmp_path / "no")
        )
    assert (refused.returncode, missing.returncode) == (69, 69)
    assert "certificate verify failed" in refused.stderr
    assert "cannot use --ca-file" in missing.stderr
    for done in (refused, missing):
        assert len(done.stderr.splitlines()) == 1


def words_for(server: Reference) -> list[str]:
    return [
        *("conformance", server.url, "--secret-file", str(server.secret_file)),
        *("--license-id", serve.LICENSE_ID, "--server-id", MACHINE),
        *("--token-file", str(server.token_file)),
    ]


def test_the_command_names_a_broken_rule_and_ends_with_1(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    with reference(tmp_path / "r", kind=WantsAnAccept) as server:
        done = dispatchd(*words_for(server), "--json", "--junit", str(file))
    document = json.loads(done.stdout)
    [broken] = [each for each in document["rules"] if each["verdict"] == "broken"]
    assert (done.returncode, document["level"], broken["number"]) == (1, 0, "1.19")
    assert broken["reason"] == "finish without an accept: 409 in place of 200 or 204"
    [failure] = ET.parse(file).getroot().iter("failure")
    assert failure.get("message") == broken["reason"]


def test_a_level_that_is_not_reached_ends_with_1(tmp_path: Path) -> None:
    with reference(tmp_path, kind=FirstProtocol, handler=BareHandler) as server:
        words = words_for(server)
        assert dispatchd(*words).returncode == 0
        done = dispatchd(*words, "--level", "2")
    assert done.returncode == 1
    assert "Level: 1" in done.stdout


@pytest.mark.parametrize(
    ("kind", "state"), [(FirstProtocol, "claimed"), (IgnoresWorkflows, "queued")]
)
def test_a_job_of_others_is_left_alone(
    tmp_path: Path, kind: type[rules.Endpoint], state: str
) -> None:
    with reference(tmp_path, kind=kind) as server:
        server.vendor.submit({"id": "theirs", "dag_name": "deploy-other"})
        done = dispatchd(*words_for(server))
        job = server.vendor.endpoint.job("theirs")
        left = open_jobs(server)
    assert done.returncode == 2, done.stdout
    assert "a job that is not the trial's" in done.stdout
    assert (job["state"], job["result"], left[0]) == (state, None, "theirs")
    assert all(f"Left in the queue: {name}" in done.stdout for name in left[1:])


def test_a_trial_that_is_ended_by_a_signal_ends_its_jobs(tmp_path: Path) -> None:
    stalled, goes_on = Event(), Event()

    class Stalls(rules.Endpoint):
        @override
        def accept(self, job: Any, body: rules.Json) -> Reply:
            stalled.set()
            goes_on.wait(60)
            return super().accept(job, body)

    with reference(tmp_path, kind=Stalls) as server:
        words = [sys.executable, "-m", "dispatchd", *words_for(server)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            assert stalled.wait(90)
            process.send_signal(signal.SIGTERM)
            goes_on.set()
            code = process.wait(90)
        assert open_jobs(server) == []
    assert code == 128 + signal.SIGTERM


def test_jobs_come_by_a_command_too(tmp_path: Path) -> None:
    with reference(tmp_path, lease_s=LEASE_S) as server:
        code = (
            "import pathlib, sys, urllib.request as u;"
            f"token = pathlib.Path({str(server.token_file)!r}).read_text();"
            f"u.urlopen(u.Request({server.url + '/api/v1/jobs'!r}, sys.stdin.buffer.read(),"
            " {'Authorization': 'Bearer ' + token}))"
        )
        (tmp_path / "submit.py").write_text(code)
        words = words_for(server)[:-2]
        line = f"{sys.executable} {tmp_path / 'submit.py'}"
        done = dispatchd(*words, "--submit-command", line)
        failed = dispatchd(*words, "--submit-command", "exit 7")
    assert done.returncode == 0, done.stdout
    assert failed.returncode == 2
    assert "cannot run --submit-command: it ended with exit code 7" in failed.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["http://endpoint.example"], "must be https"),
        (["https://u:p@endpoint.example"], "no credentials"),
        (["ftp://endpoint.example"], "https:// or http://"),
        (["https://[::1"], "must be a URL"),
        (["http://127.0.0.1:9"], "--key-file, or --secret-file"),
        (["http://127.0.0.1:9", "--key-file", "key"], "--token-file or --submit"),
        (["http://127.0.0.1:9", "--secret-file", "key"], "needs --license-id"),
        (["http://127.0.0.1:9", "--key-file", "empty"], "it is empty"),
    ],
)
def test_a_command_line_that_cannot_be_is_one_line(
    tmp_path: Path, words: list[str], reason: str
) -> None:
    (tmp_path / "key").write_text("k")
    (tmp_path / "empty").write_text("\n")
    done = dispatchd("conformance", *words, cwd=tmp_path)
    assert done.returncode == 64, done.stderr
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


@contextmanager
def hostile(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listen, and treat each connection in a way that no endpoint does."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[Thread] = []
    connections: list[socket.socket] = []

    def serve_one(connection: socket.socket) -> None:
        with suppress(OSError):
            answer(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threads.append(Thread(target=serve_one, args=[connection]))
                threads[-1].start()

    accepting = Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in threads:
            thread.join()


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def endless_body(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        connection.sendall(b'{"id": ' * 10_000)


def endless_head(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-More: y\r\n" * 1000)


def garbage(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x00\xff" * 1000)


def evil_job(connection: socket.socket) -> None:
    """Hand out a job of the trial's workflow whose fields are made to break whoever prints or repeats them."""
    while request := connection.recv(1 << 20):
        named = re.search(rb'"workflows": \["([^"]+)"', request)
        if named is None:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            continue
        body = json.dumps(
            {
                "id": "\ud83d\x1b[2J" * 200,
                "dag_name": named[1].decode(),
                "claim_token": "\ud83d\r\nX: y",
                "extensions": [["contract-header"], "heartbeat", "release"],
                "lease_seconds": -1e308,
            }
        ).encode()
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        length = f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + length.encode() + body)


def endless_number(connection: socket.socket) -> None:
    """Hand out a job with a lease that no float has, and an extension that looks like a line of the judgement."""
    while request := connection.recv(1 << 20):
        named = re.search(rb'"workflows": \["([^"]+)"', request)
        name = "none" if named is None else named[1].decode()
        body = json.dumps(
            {
                "id": name,
                "dag_name": name,
                "extensions": ["heartbeat\nLevel: 2", "lease"],
                "lease_seconds": 10**400,
            }
        ).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)


def deep_json(connection: socket.socket) -> None:
    body = b'{"id":' * 100_000
    head = b"HTTP/1.1 401 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    while connection.recv(1 << 20):
        connection.sendall(head % len(body) + body)


@pytest.mark.parametrize(
    "answer",
    [
        *(silent, endless_body, endless_head, garbage, evil_job),
        *(endless_number, deep_json),
    ],
)
def test_a_hostile_endpoint_neither_hangs_nor_breaks_it(
    answer: Callable[[socket.socket], None],
) -> None:
    class Nowhere:
        async def submit(self, job: Mapping[str, Json]) -> None:
            assert job

    hooks = Hooks(submits=Nowhere())
    identity = Identity(license_id="l", server_id="s", secret="secret-of-it")
    with hostile(answer) as url:
        settings = Settings(
            url=url, hooks=lambda _: hooks, identity=identity, call_timeout_s=0.5
        )

        async def bounded() -> Record:
            with anyio.fail_after(60):
                return await run_trial(settings)

        try:
            record = anyio.run(bounded)
        except NotReachable:
            return
    judgements = judged(record)
    assert level_of(judgements, record) == 0
    assert not any("\n" in name for name in record.shown)
    text = junit_xml("conformance", url, judgements, record.ended)
    assert ET.fromstring(text).tag == "testsuite"
    assert "secret-of-it" not in text


def test_an_endpoint_that_is_always_slow_does_not_hold_it(tmp_path: Path) -> None:
    class Slow(serve.Handler):
        @override
        def reply(self, status: int, document: rules.Json | None) -> None:
            never.wait(0.2)
            super().reply(status, document)

    never = Event()
    with reference(tmp_path, handler=Slow) as server:
        settings = trial_of(server, call_timeout_s=0.4, patience_s=0.0)
        assert settings.longest_s == pytest.approx(12)
        began = time.monotonic()
        record = anyio.run(run_trial, settings)
    assert record.ended
    assert time.monotonic() - began < 60
