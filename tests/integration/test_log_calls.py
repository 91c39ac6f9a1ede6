"""Calls that a log takes: none without a text, one for a short one of which nothing was sent before."""

import base64
import gzip
from pathlib import Path

from support.daemon import running_daemon, write_config
from support.endpoint import Answer, Request, as_json, endpoint
from support.waits import finishes


async def test_a_short_log_takes_one_call_and_an_empty_one_none(tmp_path: Path) -> None:
    workflows = {"silent": ["/bin/true"], "loud": ["/bin/echo", "hello"]}
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, workflows)
        async with running_daemon(config) as daemon:
            for number, name in enumerate(["silent", "loud", "silent", "loud"]):
                job = {"id": f"{name}-{number}", "dag_name": name}
                hub.hand_out({**job, "extensions": ["log"]})
                await finishes(hub, daemon, job["id"])
            await hub.until(lambda it: len(it.calls("log")) == 2)

        calls = hub.calls("log")

    assert [call.job_id for call in calls] == ["loud-1", "loud-3"]
    for call in calls:
        assert call.body["offset"] == 0
        assert gzip.decompress(base64.b64decode(call.body["data"])) == b"hello\n"
        assert call.body["whole_sha256"]


async def test_an_endpoint_that_never_has_more_is_given_up(tmp_path: Path) -> None:
    def stuck(request: Request) -> Answer | None:
        return as_json({"offset": 5}) if request.call == "log" else None

    script = "head -c 2000000 /dev/urandom | base64"
    async with endpoint() as hub:
        hub.script = stuck
        config = write_config(tmp_path, hub.url, {"it": ["/bin/sh", "-c", script]})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it", "extensions": ["log"]})
            await finishes(hub, daemon, "j")
            await daemon.until_logged("log_not_sent")

        calls = hub.calls("log")

    assert [call.body["offset"] for call in calls] == [0, 5, 5, 5, 5]
