"""HTTP client for a provider: one deadline and a largest answer for each call; no redirects, and no cookies."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import anyio
import httpx
from attrs import frozen

from dispatchd import __version__
from dispatchd.errors import ConfigError, Problem
from dispatchd.hub.login.ways import DEADLINE_S, ServiceAway
from dispatchd.network.content_coding import ACCEPT_IDENTITY, coding_problem
from dispatchd.network.http_headers import no_cookies
from dispatchd.network.proxies import environment_proxy, httpx_proxy
from dispatchd.network.trust import client_context, context_without_tls
from dispatchd.protocol.job import Json

_LARGEST: Final = 1 << 20
"""Largest answer that is read (bytes)."""


@frozen(kw_only=True)
class Provider:
    """Connection to a provider."""

    http: httpx.AsyncClient
    label: str

    async def get(self, url: str) -> dict[str, Json]:
        """Return the JSON object at an address.

        Raises:
            ServiceAway: There is none.
        """
        status, document = await self._exchange("GET", url, {}, {})
        if status != HTTPStatus.OK:
            raise ServiceAway(self.label, f"status {status}")
        return document

    async def post(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Json]]:
        """Send a form, and return the answer's status and JSON object.

        Raises:
            ServiceAway: There is no usable answer.
        """
        return await self._exchange("POST", url, form, headers)

    async def _exchange(
        self, method: str, url: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Json]]:
        # No error quotes the request: it has secrets.
        try:
            with anyio.fail_after(DEADLINE_S):
                status, body = await self._answer(method, url, form, headers)
        except TimeoutError as error:
            raise ServiceAway(
                self.label, f"no answer within {DEADLINE_S:.0f} s"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise ServiceAway(self.label, type(error).__name__) from error
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ServiceAway(self.label, f"status {status}")
        try:
            document: Json = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ServiceAway(self.label, f"status {status} without JSON") from error
        if not isinstance(document, dict):
            raise ServiceAway(self.label, f"status {status} without a JSON object")
        return status, document

    async def _answer(
        self, method: str, url: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        async with self.http.stream(
            method, url, data=form or None, headers=headers
        ) as answer:
            coding = answer.headers.get("content-encoding", "")
            if problem := coding_problem(coding):
                raise ServiceAway(self.label, problem)
            body = bytearray()
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > _LARGEST:
                    raise ServiceAway(self.label, f"more than {_LARGEST} bytes")
            return answer.status_code, bytes(body)


@asynccontextmanager
async def provider(
    label: str,
    issuer: str,
    ca_file: Path | None,
    environment: Mapping[str, str],
    *,
    config_file: Path,
) -> AsyncIterator[Provider]:
    """Yield the connection to a provider.

    Args:
        label: Its name for people.
        issuer: Its address.
        ca_file: Certificates to trust beside the system's; None for the system's alone.
        environment: Environment of the process; it names the proxy.
        config_file: The configuration that names the certificates.

    Raises:
        ConfigError: The proxy or the certificates can't be used.
    """
    proxy = environment_proxy(httpx.URL(issuer), environment)
    async with httpx.AsyncClient(
        cookies=no_cookies(),
        headers={
            "Accept": "application/json",
            **ACCEPT_IDENTITY,
            "User-Agent": f"dispatchd/{__version__}",
        },
        follow_redirects=False,
        # Deadlines are those of whole calls.
        timeout=None,  # noqa: S113  # each call has a deadline of its own
        verify=_trusted(issuer, ca_file, config_file),
        proxy=None if proxy is None else httpx_proxy(proxy),
        # The proxy of the environment is set above; nothing else of the environment counts.
        trust_env=False,
    ) as http:
        yield Provider(http=http, label=label)


def _trusted(issuer: str, ca_file: Path | None, config_file: Path) -> ssl.SSLContext:
    """Return the context of connections with TLS.

    Raises:
        ConfigError: The certificates can't be used.
    """
    if ca_file is None and httpx.URL(issuer).scheme == "http":
        return context_without_tls()
    try:
        return client_context(ca_file, beside_system=ca_file is not None)
    except OSError as error:
        expected = f"must name a readable file of certificates ({ca_file}: {error.strerror or error})"
        problem = Problem(file=config_file, key="login.oidc.ca_file", expected=expected)
        raise ConfigError([problem]) from error
