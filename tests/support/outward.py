"""The way out as the daemon builds it, for tests that send real requests on it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatchd.agent.endpoint.diagnose import explain
from dispatchd.agent.endpoint.failure_kinds import Explanation
from dispatchd.agent.endpoint.transport import (
    MAX_AGE_S,
    ReloadingTransport,
    TransportSettings,
)
from support.clock import within

WITHIN_S = 5.0
"""Deadline of a call (seconds); an explanation may take 3 s more."""

PULL = "/api/v1/github/dispatch/pull"
BODY = {"license_id": "l", "server_id": "s", "heartbeat_secret": "secret-of-the-test"}


def settings_for(
    url: str, ca_file: Path | None = None, **more: Any
) -> TransportSettings:
    return TransportSettings(
        url=url, ca_file=ca_file, **{"environment": dict[str, str](), **more}
    )


@asynccontextmanager
async def client(
    settings: TransportSettings,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    max_age_s: float = MAX_AGE_S,
) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=8, max_keepalive_connections=8)
    transport = ReloadingTransport(
        settings, limits=limits, monotonic=monotonic, max_age_s=max_age_s
    )
    async with httpx.AsyncClient(
        base_url=settings.url, transport=transport, timeout=None, trust_env=False
    ) as http:
        yield http


async def pull(
    http: httpx.AsyncClient, *, hold_s: int = 0, within_s: float = WITHIN_S
) -> int:
    """Ask for a job and return the status."""
    headers = {"Prefer": f"wait={hold_s}"} if hold_s else {}
    with within(within_s):
        answer = await http.post(PULL, json=BODY, headers=headers)
    return answer.status_code


async def failure(
    http: httpx.AsyncClient, settings: TransportSettings, within_s: float = WITHIN_S
) -> Explanation:
    """Ask for a job, which must fail, and return what is said of it; always in time."""
    try:
        status = await pull(http, within_s=within_s)
    except (httpx.HTTPError, TimeoutError) as error:
        with within(WITHIN_S):
            explanation = await explain(error, settings)
        assert "secret" not in explanation.message
        assert "\n" not in explanation.message
        return explanation
    return pytest.fail(f"answered with {status}")


async def failure_of(settings: TransportSettings) -> Explanation:
    """Ask once on a way of its own, as `failure` does."""
    async with client(settings) as http:
        return await failure(http, settings)
