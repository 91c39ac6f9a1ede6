"""Calls of the control socket that a running daemon refuses, each with its reason, and what it answers without a license."""

from pathlib import Path
from typing import Any

import pytest

from dispatchd.errors import UsageError
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

REFUSED = [
    ("/v1/jobs/j/block", {"reason": "  "}, "a reason is needed, and is blank"),
    ("/v1/jobs/nobody/block", {"reason": "why"}, "it has ended, or was never here"),
    ("/v1/jobs/nobody/resolve", {"as": "maybe"}, "`as` must be one of: "),
    ("/v1/jobs/nobody/resolve", {"as": "retry"}, "it has ended, or was never here"),
    ("/v1/jobs/nobody/cancel", {}, "it has ended, or was never here"),
    ("/v1/jobs/past/cancel", {}, "it "),
    *(
        ("/v1/drain", {"deadline_s": value}, "`deadline_s` must be a number of seconds")
        for value in (True, "1", -1, 1e12)
    ),
]

UNANSWERED = [
    ("/v1/jobs?past=x", "`past` must be a whole number"),
    ("/v1/jobs?past=-1", "`past` must be a whole number"),
    ("/v1/jobs/nobody", "there is no job nobody"),
]


async def refusal(daemon: Any, method: str, path: str, body: Any = None) -> str:
    with pytest.raises(UsageError) as refused:
        await call(daemon, method, path, body)
    return str(refused.value)


async def test_what_cannot_be_done_is_refused_in_words(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "past", "dag_name": "it"})
            await hub.until_finished("past")
            await daemon.until_logged("job_finish_acknowledged")
            for path, body, expected in REFUSED:
                assert expected in await refusal(daemon, "POST", path, body), path
            for path, expected in UNANSWERED:
                assert expected in await refusal(daemon, "GET", path), path
            alike = await call(daemon, "GET", "/v1/jobs?like=pa")
            unlike = await call(daemon, "GET", "/v1/jobs?like=x")
            license_ = await call(daemon, "GET", "/v1/license")
            looked = await call(daemon, "POST", "/v1/license/look")

    assert [each["job"]["id"] for each in alike["jobs"]] == ["past"]
    assert unlike["jobs"] == []
    assert (license_, looked) == ({"source": "configuration"}, {})
