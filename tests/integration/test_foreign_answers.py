"""Whose answer it is: what a proxy, a gateway or a login page says ends no job and no license."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve

from dispatchd.agent.endpoint.doubted_refusals import (
    BELIEVED_AFTER_S,
    BELIEVED_AFTER_TRIES,
)
from support.clock import advance
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.front import Fault, Front, Headers, front, pages
from support.hub import HubHere, hub
from support.machine import row
from support.torture import few
from support.until import in_time, until

ONCE = ["/bin/sh", "-c", "echo ran >> ../../../ran; echo done"]
"""A workflow that leaves a line in the state folder for each time it runs."""

PAGES = {
    "plain text": Fault(
        page=b"404 page not found\n", status=404, content_type="text/plain"
    ),
    "a page": Fault(page=b"<html><h1>410 Gone</h1></html>", status=410),
    "nothing": Fault(page=b"", status=409, content_type="text/plain"),
    "a gateway's JSON": Fault(
        page=b'{"message": "no Route matched with those values"}',
        status=404,
        content_type="application/json",
    ),
    "JSON of another kind": Fault(
        page=b'{"error": "conflict"}', status=409, content_type="application/json"
    ),
    "a login page": Fault(page=b"<html>Sign in</html>", status=200),
    "an empty success": Fault(page=b"", status=200),
    "a success in JSON": Fault(
        page=b'{"status": "ok"}', status=200, content_type="application/json"
    ),
    "no content": Fault(page=b"", status=204),
}


@define
class Site:
    """A hub, a proxy in front of it, and a daemon behind that."""

    server: HubHere
    way: Front
    daemon: DaemonHere

    @property
    def runs(self) -> int:
        """How often the workflow has run (count)."""
        ran = self.daemon.state / "ran"
        return len(ran.read_text().splitlines()) if ran.exists() else 0

    @property
    def beats(self) -> int:
        """How many heartbeats the hub has answered (count)."""
        return sum(each.endswith("/heartbeat") for each in self.way.answered)

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Return a job of the hub once it has ended."""
        await in_time(lambda: self.server.has_ended(job_id))
        return await row(self.server, job_id)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.daemon.log() if each.get("event") == event]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with hub(tmp_path / "hub") as server, front(server.url) as way:
        config = write_config(tmp_path / "machine", way.url, {"once": ONCE})
        async with running_daemon(config) as daemon:
            yield Site(server, way, daemon)


@pytest.mark.parametrize("call", ["accept", "finish"])
@pytest.mark.parametrize("page", few(PAGES, 3))
async def test_a_page_in_place_of_the_hubs_answer_closes_no_job(
    site: Site, call: str, page: str
) -> None:
    site.way.decide = pages(3, PAGES[page], f"/{call}")
    await site.server.submit({"id": "j", "dag_name": "once"})

    job = await site.ended("j")

    assert job["state"] == "succeeded"
    assert (job["deliveries"], site.runs) == (1, 1)
    assert len(site.way.faults) == 3
    assert not site.logged("job_closed_by_endpoint")
    failed = site.logged("report_failed")
    assert len(failed) == 3
    assert all("page?)" in line["error"] for line in failed)


@pytest.mark.parametrize("page", few(PAGES, 3))
async def test_a_page_in_place_of_a_heartbeats_answer_loses_no_lease(
    site: Site, page: str
) -> None:
    gate = await can_wait(site)
    site.way.decide = pages(2, PAGES[page], "/heartbeat")
    await site.server.submit({"id": "j", "dag_name": "long"})
    await until(gate.is_fifo)

    await in_time(lambda: len(site.way.faults) == 2)
    arrived = site.beats
    await in_time(lambda: site.beats > arrived)
    gate.write_text("go\n")
    assert (await site.ended("j"))["state"] == "succeeded"
    assert not site.logged("lease_lost")


async def can_wait(site: Site) -> Path:
    """Restart the daemon with a workflow that waits; return the file that lets it end for the job `j`."""
    site.daemon.config.write_text(
        site.daemon.config.read_text()
        + '\n[workflows.long]\ncommand = ["/bin/sh", "-c", "mkfifo gate; read _ < gate"]\n'
    )
    await site.daemon.stop()
    site.daemon.start()
    return site.daemon.state / "runs" / "j" / "workspace" / "gate"


async def test_a_proxy_that_begins_to_take_the_header_off_leaves_no_job_behind(
    site: Site,
) -> None:
    gate = await can_wait(site)
    await site.server.submit({"id": "j", "dag_name": "long"})
    await until(gate.is_fifo)
    site.way.reword = without_the_header
    gate.write_text("go\n")
    await in_time(lambda: len(site.logged("report_failed")) >= 2)

    # A job that comes without it shows what its absence means.
    await site.server.submit({"id": "next", "dag_name": "once"})

    await in_time(lambda: site.server.has_ended("j", "next"))

    assert (await row(site.server, "j"))["state"] == "succeeded"
    assert (await row(site.server, "next"))["state"] == "succeeded"
    assert not site.logged("job_closed_by_endpoint")


async def test_a_page_in_place_of_a_releases_answer_is_not_the_hubs_word(
    site: Site,
) -> None:
    gateway = PAGES["a gateway's JSON"]
    site.way.decide = pages(1_000, gateway, "/accept", "/release")
    await site.server.submit({"id": "j", "dag_name": "once"})
    await site.way.until_done(1)
    await site.daemon.stop()
    site.way.decide = pages(2, gateway, "/release")
    site.daemon.start()

    # Given back, then pulled and run as a new claim.
    assert (await site.ended("j"))["state"] == "succeeded"
    assert site.runs == 1


async def test_the_hubs_own_refusal_closes_at_once(site: Site) -> None:
    await site.server.submit({"id": "j", "dag_name": "once"})
    site.way.decide = pages(1, Fault(delay_s=5), "/accept")
    await site.way.until_done(1)
    reply = await site.server.http.post("/api/v1/jobs/j/cancel")
    assert reply.status_code == 200

    await advance(5)
    line = await site.daemon.until_logged("job_closed_by_endpoint")

    assert "410" in line["error"]
    assert site.runs == 0


async def test_every_answer_to_a_machine_has_the_header(site: Site) -> None:
    http = site.server.http
    base = "/api/v1/github/dispatch"
    for path in (
        f"{base}/pull",
        f"{base}/j/accept",
        f"{base}/j/finish",
        f"{base}/j/heartbeat",
        f"{base}/j/release",
        f"{base}/j/no-such-call",
        "/api/v1/licenses/activate",
        "/api/v1/licenses/heartbeat",
    ):
        for content in ("{}", "no JSON"):
            reply = await http.post(path, content=content)
            assert reply.status_code >= 400
            assert reply.headers.get_list("dispatch-contract") == ["1"], path
        assert (await http.get(path)).headers["dispatch-contract"] == "1"
    assert "dispatch-contract" not in (await http.get("/healthz")).headers


def of_the_release_before(
    status: int, headers: Headers, body: bytes
) -> tuple[Headers, bytes]:
    """Return an answer as a hub without the header gives it."""
    if status == 200 and b'"extensions"' in body:
        body = body.replace(b', "contract-header"', b"")
    return without_the_header(status, headers, body)


def without_the_header(
    _status: int, headers: Headers, body: bytes
) -> tuple[Headers, bytes]:
    """Return an answer as a proxy passes it on that takes off what it doesn't know."""
    return [each for each in headers if each[0] != b"dispatch-contract"], body


@pytest.mark.parametrize("reword", [of_the_release_before, without_the_header])
async def test_a_hub_whose_header_does_not_arrive_gets_its_jobs_done(
    site: Site, reword: Any
) -> None:
    site.way.reword = reword
    await site.daemon.stop()
    site.daemon.start()
    await site.server.submit({"id": "a", "dag_name": "once"})
    assert (await site.ended("a"))["state"] == "succeeded"

    # A page is none of its answers; its own refusal, which has a message, is believed.
    site.way.decide = pages(2, PAGES["plain text"], "/finish")
    await site.server.submit({"id": "b", "dag_name": "once"})
    assert (await site.ended("b"))["state"] == "succeeded"
    before = len(site.way.faults)
    site.way.decide = pages(1, Fault(delay_s=5), "/accept")
    await site.server.submit({"id": "c", "dag_name": "once"})
    await site.way.until_done(before + 1)
    await site.server.http.post("/api/v1/jobs/c/cancel")
    await advance(5)

    async def is_over() -> bool:
        # A beat that the cancel has hurried may be there before the accept; then the machine ends the job itself.
        # In small steps: a call on a busy machine must not run out of a time that flies.
        await advance(0.2)
        ends = {"job_closed_by_endpoint", "job_finish_acknowledged"}
        return any(
            line["event"] in ends and line.get("job_id") == "c"
            for line in site.daemon.log()
        )

    await until(is_over)
    assert site.runs == 2
    assert (await site.ended("c"))["state"] == "aborted"


EXTENDED = {
    "id": "j",
    "dag_name": "once",
    "claim_token": "t",
    "lease_seconds": 600,
    "extensions": ["heartbeat", "release", "capabilities"],
}
FIRST = {"id": "j", "dag_name": "once"}
BARE = [
    Answer(
        status=404, body=b"404 page not found", headers={"content-type": "text/plain"}
    ),
    Answer(status=409),
    as_json({}, 410),
]


def refusing(call: str, answer: Answer) -> Any:
    return lambda request: answer if request.call == call else None


async def try_on(e: Endpoint, call: str, tries: int) -> None:
    """Return when a call has been made so often, however long its pauses are."""
    await in_time(lambda: len(e.calls(call)) >= tries)


async def finished_in_time(e: Endpoint) -> dict[str, Any]:
    await in_time(lambda: "j" in e.finished)
    return e.finished["j"]


@pytest.mark.parametrize("call", ["accept", "finish"])
@pytest.mark.parametrize("answer", BARE)
async def test_an_endpoint_of_the_first_protocol_closes_without_a_body_in_time(
    tmp_path: Path, call: str, answer: Answer
) -> None:
    async with endpoint() as e:
        e.script = refusing(call, answer)
        e.hand_out(FIRST)
        config = write_config(tmp_path / "machine", e.url, {"once": ONCE})
        async with running_daemon(config) as daemon:
            await try_on(e, call, BELIEVED_AFTER_TRIES)
            assert not any(
                each.get("event") == "job_closed_by_endpoint" for each in daemon.log()
            )
            await advance(BELIEVED_AFTER_S)
            await daemon.until_logged("job_closed_by_endpoint", call=call)
    assert len(e.calls(call)) <= BELIEVED_AFTER_TRIES + 2


async def test_any_other_answer_between_begins_the_count_anew(tmp_path: Path) -> None:
    async with endpoint() as e:
        busy = as_json({"message": "busy"}, 503)

        def script(request: Request) -> Answer | None:
            if request.call != "finish":
                return None
            tries = len(e.calls("finish"))
            return busy if tries == 4 else BARE[0] if tries < 9 else None

        e.script = script
        e.hand_out(FIRST)
        config = write_config(tmp_path / "machine", e.url, {"once": ONCE})
        async with running_daemon(config) as daemon:
            await try_on(e, "finish", 4)
            await advance(BELIEVED_AFTER_S)
            finished = await finished_in_time(e)
            assert not any(
                each.get("event") == "job_closed_by_endpoint" for each in daemon.log()
            )
    assert finished["result_status"] == "succeeded"


@pytest.mark.parametrize("job", [FIRST, EXTENDED])
@pytest.mark.parametrize("status", [404, 409, 410])
async def test_an_endpoint_without_the_header_closes_with_a_message_at_once(
    tmp_path: Path, job: dict[str, Any], status: int
) -> None:
    async with endpoint() as e:
        e.script = refusing("finish", as_json({"message": "closed"}, status))
        e.hand_out(job)
        config = write_config(tmp_path / "machine", e.url, {"once": ONCE})
        async with running_daemon(config) as daemon:
            await daemon.until_logged("job_closed_by_endpoint", call="finish")
    assert len(e.calls("finish")) == 1


async def test_an_endpoint_with_extensions_never_closes_by_a_page(
    tmp_path: Path,
) -> None:
    async with endpoint() as e:
        e.script = refusing("finish", BARE[0])
        e.hand_out(EXTENDED)
        config = write_config(tmp_path / "machine", e.url, {"once": ONCE})
        async with running_daemon(config) as daemon:
            await try_on(e, "finish", BELIEVED_AFTER_TRIES)
            await advance(BELIEVED_AFTER_S)
            await try_on(e, "finish", 2 * BELIEVED_AFTER_TRIES)
            e.script = None
            await finished_in_time(e)
            assert not any(
                each.get("event") == "job_closed_by_endpoint" for each in daemon.log()
            )


@pytest.mark.parametrize("status", [401, 403, 410])
async def test_a_page_in_place_of_a_pulls_answer_is_named_as_one(
    site: Site, status: int
) -> None:
    gateway = evolve(PAGES["a gateway's JSON"], status=status)
    await site.server.submit({"id": "first", "dag_name": "once"})
    await site.ended("first")
    for fault in (evolve(PAGES["a page"], status=status), gateway):
        site.daemon.log_file.write_text("")
        site.way.decide = pages(2, fault, "/pull")
        await site.server.submit({"id": f"j{fault.content_type}", "dag_name": "once"})
        await in_time(lambda: len(site.logged("pull_failed")) == 2)
        for line in site.logged("pull_failed"):
            assert line["kind"] == "ProtocolError"
            assert "(a proxy's or a login page?)" in line["error"]
