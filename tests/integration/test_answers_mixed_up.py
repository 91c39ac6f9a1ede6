"""An answer that comes twice shifts all later ones of its connection: none is taken for another call's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.daemon import running_daemon, write_config
from support.front import Fault, Front, Headers, front
from support.hub import HubHere, hub
from support.machine import row
from support.torture import few
from support.until import in_time


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[HubHere, Front]]:
    async with hub(tmp_path / "hub") as server, front(server.url) as way:
        yield server, way


@pytest.mark.parametrize("call", few(["accept", "pull", "finish"], 1))
async def test_an_answer_that_comes_twice_is_no_answer_to_the_next_call(
    site: tuple[HubHere, Front], tmp_path: Path, call: str
) -> None:
    server, way = site
    ran = tmp_path / "ran"
    workflows = {
        name: ["/bin/sh", "-c", f"echo ran >> {ran}; exit {code}"]
        for name, code in (("good", 0), ("bad", 1))
    }
    way.decide = lambda path: (
        Fault(answered_twice=True) if path.endswith(f"/{call}") else None
    )
    config = write_config(tmp_path / "machine", way.url, workflows)
    async with running_daemon(config) as daemon:
        jobs = {
            await server.submit({"dag_name": name}): state
            for name, state in (("good", "succeeded"), ("bad", "failed"))
            for _ in range(3)
        }

        await in_time(lambda: server.has_ended(*jobs))
        for job_id, state in jobs.items():
            assert (await row(server, job_id))["state"] == state
    assert len(ran.read_text().splitlines()) == len(jobs)
    text = daemon.log_file.read_text()
    # What follows an answer unasked ends its connection.
    assert "with the answer to another call" not in text
    assert "job_closed_by_endpoint" not in text


@pytest.mark.parametrize("call", few(["accept", "pull", "finish"], 1))
async def test_the_answer_to_another_call_is_asked_for_again(
    site: tuple[HubHere, Front], tmp_path: Path, call: str
) -> None:
    server, way = site
    left = 2

    def mix_up(_status: int, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        nonlocal left
        if not left or not way.answered[-1].endswith(f"/{call}"):
            return headers, body
        left -= 1
        others = [(name, value) for name, value in headers if name != b"dispatch-call"]
        return [*others, (b"dispatch-call", b"another")], body

    way.reword = mix_up
    config = write_config(tmp_path / "machine", way.url, {"good": ["/bin/true"]})
    async with running_daemon(config) as daemon:
        job_id = await server.submit({"dag_name": "good"})

        await in_time(lambda: server.has_ended(job_id))
        assert (await row(server, job_id))["state"] == "succeeded"
    assert not left
    assert "with the answer to another call" in daemon.log_file.read_text()


async def test_the_hub_repeats_what_a_call_is_known_by(
    site: tuple[HubHere, Front],
) -> None:
    server, _ = site
    for path in ("/api/v1/github/dispatch/pull", "/api/v1/licenses/heartbeat"):
        reply = await server.http.post(
            path, content="{}", headers={"Dispatch-Call": "abc123"}
        )
        assert reply.headers.get_list("dispatch-call") == ["abc123"]
        assert (
            "dispatch-call" not in (await server.http.post(path, content="{}")).headers
        )
