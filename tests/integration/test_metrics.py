"""Metrics: over the control socket, over TCP where that is configured, and as a file."""

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from anyio import to_thread
from prometheus_client.parser import text_string_to_metric_families

from dispatchd.agent.control.token import TOKEN_HEADER
from dispatchd.agent.control.token import read as token_of
from dispatchd.errors import NotReachable
from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.daemon_process import DaemonProcess, running
from support.endpoint import Answer, Request, endpoint
from support.until import until
from support.waits import finishes

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
FAILS = ["/bin/sh", "-c", "exit 1"]


def values(text: str) -> dict[str, float]:
    """Return the samples by name and labels as they are written."""
    return {
        sample.name
        + "".join(
            f"[{name}={value}]" for name, value in sorted(sample.labels.items())
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(daemon: DaemonHere) -> dict[str, float]:
    transport = httpx.HTTPTransport(uds=str(daemon.state / "control.sock"))
    headers = {TOKEN_HEADER: token_of(daemon.state)}
    with httpx.Client(
        transport=transport, base_url="http://dispatchd", headers=headers
    ) as http:
        reply = http.get("/v1/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return values(reply.text)


async def test_what_happens_is_counted_and_measured(tmp_path: Path) -> None:
    broken = True

    def script(request: Request) -> Answer | None:
        return Answer(status=503) if broken and request.call == "finish" else None

    async with endpoint() as hub:
        hub.script = script
        config = write_config(
            tmp_path, hub.url, {"good": ["/bin/true"], "bad": FAILS}, runs="slots = 3"
        )
        async with running_daemon(config) as daemon:
            # The first question is answered at once, with nothing.
            await hub.until(lambda it: len(it.calls("pull")) == 2)
            for number, name in enumerate(["good", "good", "bad", "nobody's"]):
                hub.hand_out({"id": f"job-{number}", "dag_name": name})
            await daemon.until_logged("report_failed")
            await daemon.until_logged("job_decided", job_id="job-2")
            broken = False
            await finishes(hub, daemon, *(f"job-{number}" for number in range(4)))
            for number in range(4):
                await daemon.until_logged(
                    "job_finish_acknowledged", job_id=f"job-{number}"
                )
            found = await to_thread.run_sync(scrape, daemon)

    assert found["dispatchd_jobs_total[outcome=succeeded][workflow=good]"] == 2
    assert found["dispatchd_jobs_total[outcome=failed][workflow=bad]"] == 1
    # A name that an endpoint has made up is no label.
    assert found["dispatchd_jobs_total[outcome=rejected][workflow=(unknown)]"] == 1
    assert found["dispatchd_pulls_total[result=job]"] == 4
    assert found["dispatchd_pulls_total[result=none]"] >= 1
    assert found["dispatchd_http_requests_total[call=finish][class=2xx]"] == 4
    assert found["dispatchd_http_requests_total[call=finish][class=5xx]"] >= 1
    assert found["dispatchd_job_start_seconds_count"] == 3
    assert found["dispatchd_job_report_seconds_count"] == 4
    assert found["dispatchd_store_put_seconds_count"] >= 4 * 3
    assert found["dispatchd_ready"] == 1
    assert found["dispatchd_slots"] == 3
    assert found["dispatchd_outbox_depth"] == 0
    assert found["dispatchd_intake_mode[mode=pulling]"] == 1
    assert found["dispatchd_intake_mode[mode=paused]"] == 0
    assert found["dispatchd_free_bytes"] > 0
    assert found["dispatchd_last_pull_age_seconds"] >= 0


async def test_every_metric_is_documented_and_nothing_else(tmp_path: Path) -> None:
    documented = set(
        re.findall(r"^\| `(dispatchd_\w+)", DOCS.read_text(), re.MULTILINE)
    )
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("job_finish_acknowledged")
            found = await to_thread.run_sync(scrape, daemon)

    names = {
        re.sub(r"_(bucket|count|sum)$", "", re.sub(r"\[.*", "", each)) for each in found
    }
    # What is only known of a machine with a license, of an endpoint that sends dates, and of a daemon with a bug.
    rare = {
        *("dispatchd_credential_expires_in_seconds", "dispatchd_clock_skew_seconds"),
        "dispatchd_bugs_total",
    }
    assert names | rare == documented


async def test_metrics_and_health_are_served_over_tcp_where_that_is_wanted(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        with config.open("a") as file:
            file.write('[metrics]\nlisten = "127.0.0.1:0"\n')
        async with running_daemon(config) as daemon:
            line = await daemon.until_logged("metrics_served")
            await daemon.until_logged("endpoint_answers")
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{line['port']}"
            ) as http:
                metrics = await http.get("/metrics")
                health = await http.get("/health")
                orders = [
                    await http.post("/v1/drain"),
                    await http.get("/v1/jobs"),
                    await http.post("/metrics"),
                ]

    assert values(metrics.text)["dispatchd_slots"] == 1
    assert health.json() == {"ready": True, "problems": []}
    assert [each.status_code for each in orders] == [404, 404, 405]


async def test_metrics_are_written_to_a_file_that_is_always_whole(
    tmp_path: Path,
) -> None:
    file = tmp_path / "collected" / "dispatchd.prom"
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"]}, cloud="hold_s = 1"
        )
        with config.open("a") as text:
            text.write(f'[metrics]\ntextfile = "{file}"\n')
        async with running_daemon(config) as daemon:
            trouble = await daemon.until_logged("metrics_not_written")
            file.parent.mkdir()
            await advance(5)  # until it is written next
            await until(file.exists)
            found = values(file.read_text())
            assert daemon.alive

    assert "dispatchd.prom" in trouble["error"]
    assert found["dispatchd_slots"] == 1


async def test_an_address_that_is_taken_is_one_line(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        with config.open("a") as file:
            file.write(f'[metrics]\nlisten = "127.0.0.1:{hub.port}"\n')
        daemon = DaemonProcess(config=config)
        daemon.start()
        code = daemon.process.wait(20)

    [line] = [each["text"] for each in daemon.log() if "text" in each]
    assert code == 69
    assert "metrics.listen" in line


async def test_who_only_connects_takes_neither_the_daemon_nor_its_descriptors(
    tmp_path: Path,
) -> None:
    limited = ("/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        config.write_text(config.read_text() + '[metrics]\nlisten = "127.0.0.1:0"\n')
        with running(config, wrapper=limited) as daemon, ExitStack() as open_sockets:
            await daemon.until_logged("daemon_ready")
            address = (
                "127.0.0.1",
                (await daemon.until_logged("metrics_served"))["port"],
            )
            for _ in range(100):
                open_sockets.enter_context(socket.create_connection(address, 5))
            hub.hand_out({"id": "job", "dag_name": "it"})
            (finish,) = await hub.until_finished("job")
            status = await call(daemon, "GET", "/v1/status")

    assert finish["result_status"] == "succeeded"
    assert status["pid"]


async def test_a_quarantine_that_somebody_has_removed_is_an_empty_one(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            (daemon.state / "quarantine").rmdir()
            status = await call(daemon, "GET", "/v1/status")
            samples = await to_thread.run_sync(scrape, daemon)

    assert status["warnings"] == []
    assert samples["dispatchd_running"] == 0


async def test_a_quarantine_that_cannot_be_looked_into_is_a_warning(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            (daemon.state / "quarantine").rmdir()
            (daemon.state / "quarantine").touch()
            status = await call(daemon, "GET", "/v1/status")

    (warning,) = status["warnings"]
    assert "quarantine can't be looked into" in warning


async def test_a_question_that_cannot_be_answered_ends_nothing(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            (daemon.state / "history").rmdir()
            (daemon.state / "history").touch()
            with pytest.raises(NotReachable, match="bug in dispatchd"):
                await call(daemon, "GET", "/v1/jobs")
            status = await call(daemon, "GET", "/v1/status")
            bug = await daemon.until_logged("bug_contained")

    assert status["pid"]
    assert bug["call"] == "GET /v1/jobs"
