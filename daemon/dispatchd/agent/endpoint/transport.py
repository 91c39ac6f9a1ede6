"""Connections to the endpoint: pooled, and replaced without a restart when their files change.

A pool belongs to one state of the files. When a file changes, or the pool gets old, the next request
opens a new pool. The old one is closed when its last request has ended, so that no call is cut.

Deliberately absent: HTTP/2, redirects, and all settings of the environment but the proxy.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, cast

import anyio
import httpx
import structlog
from attrs import field, frozen
from typing_extensions import override

from dispatchd.agent.endpoint.pool import LastingStream, Pool, as_httpx_errors
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import DispatchdError
from dispatchd.network.connection_trace import ConnectionTrace
from dispatchd.network.direct import DirectTransport
from dispatchd.network.proxies import (
    Proxy,
    check_proxy,
    find_proxy,
    httpx_proxy,
    is_loopback,
    parsed,
    port_of,
    port_problem,
    read_credentials,
    use_proxy,
)
from dispatchd.network.tls_files import check_files
from dispatchd.network.trust import client_context, context_without_tls

MAX_AGE_S: Final = 900.0
"""Longest use of a pool (seconds): a moved name and the system's new CAs are seen after that."""

CONNECT_S: Final = 10.0
"""Time limit of a TCP connection, and of a TLS handshake (seconds each)."""

_FILES_S: Final = 5.0
"""Deadline for checking and reading the files (seconds): their file system may hang."""


@frozen(kw_only=True)
class TransportSettings:
    """Settings of the connection to the endpoint: `[cloud]` of the configuration, with absolute paths.

    `proxy` has no credentials in it; empty means that `environment` decides.
    """

    url: str
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str = ""
    proxy_credentials_file: Path | None = None
    allow_insecure_host: str = ""
    environment: Mapping[str, str] = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that are checked before each request."""
        named = (
            self.ca_file,
            self.client_cert_file,
            self.client_key_file,
            self.proxy_credentials_file,
        )
        return tuple(path for path in named if path is not None)

    def used_proxy(self) -> Proxy | None:
        """Return the proxy for requests, with its current credentials.

        Raises:
            OSError: The proxy's file can't be read.
            ValueError: The proxy or its file can't be used.
        """
        proxy = find_proxy(httpx.URL(self.url), self.proxy, self.environment)
        return None if proxy is None else use_proxy(proxy, self.proxy_credentials_file)


def check(settings: TransportSettings) -> Iterator[tuple[str, str]]:
    """Yield (configuration key, expected value) for each setting that can't be used now."""
    yield from check_url(settings)
    yield from check_files(
        settings.ca_file, settings.client_cert_file, settings.client_key_file
    )
    if (path := settings.proxy_credentials_file) is not None:
        try:
            read_credentials(path)
        except OSError as error:
            expected = f"must be a readable file: {path}: {error.strerror}"
            yield "cloud.proxy_credentials_file", expected
        except ValueError as error:
            yield "cloud.proxy_credentials_file", str(error)


def check_url(settings: TransportSettings) -> Iterator[tuple[str, str]]:
    """Yield key and expected value for an address of the endpoint, or of its proxy, that can't be used."""
    try:
        url = parsed(settings.url)
    except httpx.InvalidURL as error:
        yield "cloud.url", f"must be a URL ({error})"
        return
    if url.scheme not in {"http", "https"} or not url.host:
        yield "cloud.url", "must be an http or https URL with a host"
        return
    if problem := port_problem(url):
        yield "cloud.url", problem
    if url.userinfo:
        yield "cloud.url", "must have no credentials in it"
    if url.query or url.fragment:
        yield "cloud.url", "must have no query and no fragment"
    allowed = settings.allow_insecure_host.lower()
    if url.scheme == "http" and not is_loopback(url.host) and url.host != allowed:
        expected = f'must be https: {url.host} is another machine (to permit http, set cloud.allow_insecure_host = "{url.host}")'
        yield "cloud.url", expected
    proxy = find_proxy(url, settings.proxy, settings.environment)
    if proxy is not None:
        yield from check_proxy(proxy)


class FilesUnusable(DispatchdError, httpx.TransportError):
    """No connection is possible with the files as they are; the error names the problem."""


class ForeignOrigin(DispatchdError, httpx.TransportError):
    """A request for another origin than the endpoint's: it would carry the secret there."""


_Stamp = tuple[tuple[int, int, int] | None, ...]

_HANGS: Final[_Stamp] = ((0, 0, 0),)
"""State of files that can't be checked in time."""


class ReloadingTransport(httpx.AsyncBaseTransport):
    """An httpx transport that takes changed files into use and lets no connection grow old.

    If files can't be used, or hang, the previous pool stays in use, with one warning
    (`transport_files_unusable`) for each such state. Without a previous pool, requests fail with
    FilesUnusable until the files are valid. Requests to another origin than the endpoint's fail.
    """

    def __init__(
        self,
        settings: TransportSettings,
        *,
        limits: httpx.Limits,
        monotonic: Callable[[], float],
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._settings, self._limits = settings, limits
        self._monotonic, self._max_age_s = monotonic, max_age_s
        self._origin = _origin(httpx.URL(settings.url))
        self._pool: Pool | None = None
        self._stamp: _Stamp | None = None
        self._warned: _Stamp | None = None
        self._threads, self._choosing = OwnThreads(), anyio.Lock()

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a pool for the current files.

        Raises:
            ForeignOrigin: The request is for another server.
            ProxyError: The proxy asks for other credentials.
        """
        if _origin(request.url) != self._origin:
            raise ForeignOrigin(str(request.url.host), request=request)
        pool = await self._current(request)
        trace = ConnectionTrace(pool.proxy)
        times = request.extensions.get("timeout", {})
        request.extensions = {
            **request.extensions,
            "trace": trace,
            "timeout": {**times, "connect": times.get("connect") or CONNECT_S},
        }
        if pool.proxy is not None and (target := request.extensions.pop("target", b"")):
            # httpcore would send it as it is, also where a proxy needs the whole URL.
            request.url = request.url.copy_with(raw_path=target)
        pool.enter()
        try:
            with as_httpx_errors(request):
                response = await pool.inner.handle_async_request(request)
        except BaseException:
            await pool.leave()
            raise
        body = cast("httpx.AsyncByteStream", response.stream)
        response.stream = LastingStream(body, pool, request)
        if (
            pool.proxy is not None
            and response.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED
        ):
            # Plain HTTP through a proxy: the error is that of a tunnel, because the answer isn't the endpoint's.
            await response.aclose()
            raise httpx.ProxyError("407", request=request)
        return response

    @override
    async def aclose(self) -> None:
        """Close the connections as soon as they are out of use."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.retire()

    async def _current(self, request: httpx.Request) -> Pool:
        """Return the pool to use: a new one if the time of the old one is over.

        Raises:
            FilesUnusable: There is none, and none can be made.
        """
        # Checked before the files are read: a change in between is seen the next time.
        stamp = await self._look()
        if pool := self._still_usable(stamp, self._monotonic()):
            return pool
        # One request after the other, so that the others use the pool that the first one has opened.
        async with self._choosing:
            return await self._choose(request, stamp)

    def _still_usable(self, stamp: _Stamp, now_s: float) -> Pool | None:
        """Return the pool in use, unless its time is over."""
        pool = self._pool
        if pool is None or now_s - pool.since_s >= self._max_age_s:
            return None
        return pool if stamp in {self._stamp, self._warned} else None

    async def _choose(self, request: httpx.Request, stamp: _Stamp) -> Pool:
        now_s = self._monotonic()
        if pool := self._still_usable(stamp, now_s):
            return pool
        old = self._pool
        try:
            new = await self._threads.run(
                "open", partial(self._open, now_s), within_s=_FILES_S
            )
        except (OSError, ValueError) as error:
            self._warn(stamp, str(error))
            if old is None:
                raise FilesUnusable(str(error), request=request) from error
            return old
        self._pool, self._stamp, self._warned = new, stamp, None
        if old is not None:
            await old.retire()
        return new

    async def _look(self) -> _Stamp:
        """Return the state of the files."""
        files = self._settings.files
        if not files:
            return ()
        try:
            return await self._threads.run(
                "look", partial(_stamp, files), within_s=_FILES_S
            )
        except TimeoutError:
            return _HANGS

    def _warn(self, stamp: _Stamp, reason: str) -> None:
        if stamp != self._warned:
            structlog.get_logger().warning("transport_files_unusable", reason=reason)
        self._warned = stamp

    def _open(self, now_s: float) -> Pool:
        """Return a new pool.

        Raises:
            ValueError: A setting can't be used; the error names its key.
            OSError: A file has changed again meanwhile.
        """
        settings = self._settings
        if problems := [f"{key} {expected}" for key, expected in check(settings)]:
            raise ValueError("; ".join(problems))
        proxy = settings.used_proxy()
        context = (
            client_context(
                settings.ca_file, settings.client_cert_file, settings.client_key_file
            )
            if httpx.URL(settings.url).scheme == "https"
            else context_without_tls()
        )
        inner: httpx.AsyncBaseTransport
        if proxy is None:
            inner = DirectTransport(context, self._limits)
        else:
            inner = httpx.AsyncHTTPTransport(
                verify=context,
                trust_env=False,
                limits=self._limits,
                proxy=httpx_proxy(proxy, settings.ca_file),
            )
        return Pool(inner, proxy=proxy, since_s=now_s)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, port_of(url)


def _stamp(files: tuple[Path, ...]) -> _Stamp:
    return tuple(_stamp_of(path) for path in files)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
