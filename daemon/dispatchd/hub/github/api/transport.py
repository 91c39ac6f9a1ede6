"""HTTP client for GitHub's REST API: one deadline for a whole call, and errors in words."""

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

import anyio
import httpx
from anyio import to_thread
from attrs import define, evolve, field, frozen

from dispatchd import __version__
from dispatchd.errors import ConfigError, Problem
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.github.api.responses import (
    MAX_BYTES,
    GithubError,
    Reply,
    Unclear,
    ahead_s,
    is_githubs,
    json_of,
    refuse_errors,
)
from dispatchd.network.content_coding import ACCEPT_IDENTITY, coding_problem
from dispatchd.network.http_headers import no_cookies
from dispatchd.network.proxies import environment_proxy, httpx_proxy
from dispatchd.network.trust import client_context, context_without_tls
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import duration
from dispatchd.redaction.known_secrets import KnownSecrets

DEADLINE_S: Final = 10.0
"""Deadline of a call (seconds)."""

LONG_S: Final = 60.0
"""Deadline of a call whose answer may have 25 MB (seconds)."""

_MOVED: Final = (
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
)
_MOST_REDIRECTS: Final = 2
"""Most redirects that are followed (count): a renamed repository has one, one that was moved after that has two."""

_THREAD_BYTES: Final = 256 * 1024
"""Size from which an answer is parsed in a worker thread, so that the event loop isn't blocked (bytes)."""


@frozen(kw_only=True)
class Call:
    """One call: `name` in words that go after "cannot", `path` below the API's address, encoded."""

    name: str
    method: str = "GET"
    path: str
    query: Mapping[str, str] = field(factory=dict)
    body: Mapping[str, Json] | None = None
    deadline_s: float = DEADLINE_S
    accept: str = ""
    """Media type of the answer; empty for that of the API."""


@define(kw_only=True)
class Transport:
    """Connection to one GitHub; `now` is the hub's clock (seconds since the epoch)."""

    http: httpx.AsyncClient
    now: Callable[[], float]
    known: KnownSecrets
    """Secrets that are redacted in every error."""
    ahead_s: float = 0.0
    """Least difference by which GitHub's clock is ahead of the hub's, by its newest answer (seconds); 0 where they may agree."""

    async def send(self, call: Call, token: str) -> Reply:
        """Make a call, and return its answer if it is a success.

        Args:
            call: The call.
            token: Token for `Authorization: Bearer`; empty for a call without authentication.

        Raises:
            GithubError: The subclass that the answer means.
        """
        try:
            reply = await self._within_deadline(call, token)
            refuse_errors(call.name, reply, now=self.now())
        except GithubError as error:
            # GitHub quotes the request.
            error.scrub(self.known.scrub)
            raise
        return reply

    async def json(self, call: Call, token: str) -> tuple[Json, Reply]:
        """Make a call, and return the JSON of its answer, and the answer. Fails like `send`."""
        reply = await self.send(call, token)
        if len(reply.body) < _THREAD_BYTES:
            return json_of(call.name, reply), reply
        return await to_thread.run_sync(json_of, call.name, reply), reply

    async def _within_deadline(self, call: Call, token: str) -> Reply:
        asked_at = self.now()
        try:
            with anyio.fail_after(call.deadline_s):
                reply = await self._answer(call, token)
        except TimeoutError as error:
            reason = f"no answer within {duration(call.deadline_s)}"
            raise Unclear(call=call.name, reason=reason) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unclear(call=call.name, reason=_reason_of(error)) from error
        if is_githubs(reply):
            self.ahead_s = ahead_s(reply.headers, asked_at, self.now())
        return reply

    async def _answer(self, call: Call, token: str) -> Reply:
        """Return the answer, also where a repository has another name by now.

        The same call is sent to the target of a redirect (GitHub docs, "Best practices for using the REST API").
        A redirect is followed only to the same GitHub, because the token goes along.
        """
        reply = await self._exchange(call, token)
        for _ in range(_MOST_REDIRECTS):
            there = self._moved_to(reply)
            if there is None:
                break
            reply = await self._exchange(evolve(call, path=there, query={}), token)
        return reply

    def _moved_to(self, reply: Reply) -> str | None:
        location = reply.headers.get("location", "")
        if reply.status not in _MOVED or not location:
            return None
        base = self.http.base_url
        there = base.join(location)
        is_here = (there.scheme, there.netloc) == (base.scheme, base.netloc)
        return str(there) if is_here else None

    async def _exchange(self, call: Call, token: str) -> Reply:
        async with self.http.stream(
            call.method,
            call.path,
            params=dict(call.query) or None,
            json=call.body,
            headers={
                **({"Authorization": f"Bearer {token}"} if token else {}),
                **({"Accept": call.accept} if call.accept else {}),
            },
        ) as answer:
            coding = answer.headers.get("content-encoding", "")
            if problem := coding_problem(coding):
                raise Unclear(call=call.name, reason=problem)
            body = bytearray()
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > MAX_BYTES:
                    reason = f"the answer has more than {MAX_BYTES} bytes"
                    raise Unclear(call=call.name, reason=reason)
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Reply(status=answer.status_code, headers=headers, body=bytes(body))


@asynccontextmanager
async def transport(
    settings: GithubSettings,
    *,
    now: Callable[[], float],
    known: KnownSecrets,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Transport]:
    """Yield the connection to the GitHub of some settings.

    `environment` is the process's; it names the proxy.

    Raises:
        ConfigError: The proxy or the certificates can't be used.
    """
    proxy = environment_proxy(httpx.URL(settings.api_url), environment)
    async with httpx.AsyncClient(
        cookies=no_cookies(),
        base_url=settings.api_url.rstrip("/") + "/",
        headers={
            "Accept": "application/vnd.github+json",
            **ACCEPT_IDENTITY,
            "User-Agent": f"dispatchd/{__version__}",
            "X-GitHub-Api-Version": settings.api_version,
        },
        follow_redirects=False,
        # Deadlines are those of whole calls.
        timeout=None,  # noqa: S113
        verify=_trusted(settings),
        proxy=None if proxy is None else httpx_proxy(proxy),
        # The proxy of the environment is set above; nothing else of the environment counts.
        trust_env=False,
    ) as http:
        yield Transport(http=http, now=now, known=known)


def in_path(part: str) -> str:
    """Return some text as one segment of a path."""
    encoded = quote(part, safe="", errors="surrogatepass")
    # A segment of one or two dots would mean another folder (RFC 3986, 5.2.4).
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")


def repository_path(repository: str) -> str:
    """Return the path of a repository, given as owner/name."""
    owner, _, name = repository.partition("/")
    return f"repos/{in_path(owner)}/{in_path(name)}"


def _trusted(settings: GithubSettings) -> ssl.SSLContext:
    """Return the context of connections with TLS; where the URL has none, one that trusts nobody.

    Raises:
        ConfigError: The certificates can't be used.
    """
    file = settings.ca_file
    if file is None and httpx.URL(settings.api_url).scheme == "http":
        return context_without_tls()
    try:
        # One's own server and a public proxy or redirect may both be on the way.
        return client_context(file, beside_system=file is not None)
    except (OSError, ssl.SSLError) as error:
        expected = f"must be a readable file with certificates in PEM ({error.strerror or error})"
        raise ConfigError(
            [Problem(file=file or Path(), key="", expected=expected)]
        ) from error


def _reason_of(error: Exception) -> str:
    """Return the reason why there was no answer, in one line."""
    said = " ".join(str(error).split())
    return f"{said} ({type(error).__name__})" if said else type(error).__name__
