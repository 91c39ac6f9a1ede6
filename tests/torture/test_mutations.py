"""Thousands of webhooks that GitHub would never send: each is routed or ignored with a reason, and none is an error.

The whole of what test_github_webhook.py has a sample of.
"""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest

from dispatchd.protocol.contracts import check
from support.github_hub import CONFIG, prepared
from support.hub_process import hub
from support.machine import Held, Machine
from support.mutations import Flood
from support.torture import Torture

PARTS = 4
IN_EACH = 500
LEAST = 50
"""How many are sent in each part even if the time is over."""


@pytest.mark.torture(least_s=20)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
async def test_two_thousand_mutations_are_routed_or_ignored_with_a_reason(
    tmp_path: Path,
    new_database_url: Callable[[], str],
    part: int,
    torture: Torture,
) -> None:
    folder = prepared(tmp_path / "hub")
    url = new_database_url()
    async with hub(folder, database_url=url, more=CONFIG) as server:
        flood = Flood(
            server,
            torture.chance(("mutations", part)),
            lambda: not torture.is_over or flood.statuses.total() < LEAST,
        )
        count = IN_EACH * torture.size
        await flood.run(count)

        sent = flood.statuses.total()
        assert flood.statuses == {202: sent}
        assert sent == count or (torture.is_over and sent >= LEAST)
        machine = Machine(http=server.http)
        pulled = 0
        while (reply := await machine.ask()).status_code == HTTPStatus.OK:
            # A job that breaks its contract would end here.
            job = reply.json()
            check("dispatch-job", job)
            await Held(machine=machine, job=job, text=reply.text).finish()
            pulled += 1
        assert pulled > 0
