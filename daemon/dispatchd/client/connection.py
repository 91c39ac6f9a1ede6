"""Connection to a hub by httpx: its trust, its proxy, and what becomes of its errors."""

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from attrs import define, field, frozen

from dispatchd import __version__
from dispatchd.client.errors import (
    AnswerLost,
    InvalidCall,
    InvalidSetup,
    NotAHub,
    Unreachable,
)
from dispatchd.client.steps import LARGEST_ANSWER, Answer, Call
from dispatchd.errors import ConfigError
from dispatchd.network.content_coding import ACCEPT_IDENTITY, coding_problem
from dispatchd.network.http_headers import no_cookies
from dispatchd.network.proxies import environment_proxy, httpx_proxy, parsed
from dispatchd.network.trust import client_context, context_without_tls

_SETUP: Final = "use the hub"

_VARIABLES: Final = ("DISPATCHD_HUB_URL", "DISPATCHD_HUB_TOKEN")
"""Variables with the address and the token, as for the command line."""

_SCHEMES: Final = ("http", "https")

_LOST: Final = (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError)
"""Errors after which a call may have been carried out."""

_SLOWEST: Final = 16 * 1024
"""Least speed of an answer's body (bytes in a second), as the hub itself wants it."""

_LEAST_S: Final = 1.0
"""Time for an answer that is nearly too late (seconds)."""


@frozen(kw_only=True)
class Access:
    """Address of a hub, and what proves each to the other."""

    url: str
    token: str = field(repr=False)
    ca_file: Path | None
    certificate_file: Path | None
    timeout_s: float
    """Longest wait for an answer (seconds)."""

    def options(self) -> dict[str, Any]:
        """Return the options of an httpx client.

        Raises:
            InvalidSetup: The address, the token, a certificate or a proxy can't be used.
        """
        if problem := address_problem(self.url):
            reason = f"{self.url} is no address of a hub ({problem})"
            raise InvalidSetup(_SETUP, reason)
        if not (self.token and self.token.isascii() and self.token.isprintable()):
            # Checked here, because the HTTP client would show the token.
            reason = "the token is not one line of ASCII"
            raise InvalidSetup(_SETUP, reason)
        return {
            "headers": {
                "Authorization": f"Bearer {self.token}",
                "User-Agent": f"dispatchd/{__version__}",
                **ACCEPT_IDENTITY,
            },
            "cookies": no_cookies(),
            "proxy": self._proxy(),
            "verify": self._context(),
            "trust_env": False,
        }

    def request(self, call: Call) -> dict[str, Any]:
        """Return the arguments of an httpx request.

        Raises:
            InvalidCall: The body is no JSON.
        """
        wait_s = self.timeout_s + call.held_s
        if call.left_s is not None:
            wait_s = min(wait_s, call.left_s + _LEAST_S)
        arguments: dict[str, Any] = {
            "method": call.method,
            "url": self.url.rstrip("/") + call.path,
            "timeout": httpx.Timeout(min(self.timeout_s, wait_s), read=wait_s),
            "headers": {"Content-Type": "application/json"},
        }
        if call.body is not None:
            try:
                # ASCII with escapes can carry all that JSON can.
                arguments["content"] = json.dumps(call.body).encode()
            except (TypeError, ValueError, RecursionError) as error:
                reason = f"the body is no JSON ({error})"
                raise InvalidCall(call.name, reason) from None
        return arguments

    def _context(self) -> ssl.SSLContext:
        """Return the context that checks the hub's certificate.

        With `certificate_file` it is the only certificate trusted, and its name isn't checked.

        Raises:
            InvalidSetup: A file can't be read, or both are given.
        """
        file = self.certificate_file or self.ca_file
        if self.certificate_file and self.ca_file:
            reason = "ca_file and certificate_file exclude each other"
            raise InvalidSetup(_SETUP, reason)
        if file is None and self.url.startswith("http:"):
            return context_without_tls()
        try:
            context = client_context(file)
        except OSError as error:
            cannot = f"read {file}"
            raise InvalidSetup(cannot, str(error)) from None
        context.check_hostname = self.certificate_file is None
        return context

    def _proxy(self) -> httpx.Proxy | None:
        """Return the proxy that the environment names for an https address.

        Raises:
            InvalidSetup: It can't be used.
        """
        url = parsed(self.url)
        if url.scheme != "https" or self.certificate_file:
            # Requests without encryption, and the token in them, are for the hub alone.
            return None
        environment = os.environ  # noqa: TID251  # a program's proxy, as any HTTP client takes it
        try:
            proxy = environment_proxy(url, environment)
        except ConfigError as error:
            raise InvalidSetup(_SETUP, str(error)) from error
        return None if proxy is None else httpx_proxy(proxy)


def url_and_token(environment: Mapping[str, str] | None) -> tuple[str, str]:
    """Return address and token from an environment; None is that of this process.

    Raises:
        InvalidSetup: One is missing.
    """
    given = os.environ if environment is None else environment  # noqa: TID251  # the caller asks for it
    values = [given.get(name, "") for name in _VARIABLES]
    for name, value in zip(_VARIABLES, values, strict=True):
        if not value:
            raise InvalidSetup(_SETUP, f"{name} is not set")
    return values[0], values[1]


def address_problem(url: str) -> str:
    """Return the reason why a text is no address of a hub; empty if it may be one."""
    try:
        address = parsed(url)
    except httpx.InvalidURL as error:
        return str(error)
    if address.scheme not in _SCHEMES or not address.host:
        return "it has to be http:// or https:// with a host"
    return ""


@contextmanager
def in_words(call: Call, url: str) -> Iterator[None]:
    """Report errors of httpx in a block as the client's own.

    Raises:
        AnswerLost: The call may have been carried out.
        Unreachable: It wasn't.
    """
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        kind = AnswerLost if isinstance(error, _LOST) else Unreachable
        said = str(error) or type(error).__name__
        raise kind(call.name, f"no hub answers at {url} ({said})") from None


@define
class Body:
    """Body of an answer while it is read, within its limits."""

    _call: Call
    _url: str
    _reply: httpx.Response
    _begun_at: float
    """Time at which its head was there (seconds)."""
    _content: bytearray = field(factory=bytearray, init=False)

    def require_plain(self) -> None:
        """Check that the body has no content coding.

        Raises:
            NotAHub: It has one, though none was asked for.
        """
        coding = self._reply.headers.get("content-encoding", "")
        if problem := coding_problem(coding):
            reason = f"{self._url}: {problem}"
            raise NotAHub(self._call.name, reason, self._reply.status_code)

    def add(self, piece: bytes, now: float, timeout_s: float) -> None:
        """Add a piece that has arrived at the time `now` (seconds).

        Raises:
            NotAHub: The body is longer than that of any answer.
            AnswerLost: It comes more slowly than any hub sends.
        """
        self._content += piece
        if len(self._content) > LARGEST_ANSWER:
            reason = f"{self._url} answers with more than {LARGEST_ANSWER >> 20} MiB"
            raise NotAHub(self._call.name, reason, self._reply.status_code)
        if now - self._begun_at > timeout_s + len(self._content) / _SLOWEST:
            reason = f"{self._url} answers too slowly"
            raise AnswerLost(self._call.name, reason)

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        headers: Mapping[str, str] = self._reply.headers
        return Answer(
            url=self._url,
            status=self._reply.status_code,
            headers={name.lower(): value for name, value in headers.items()},
            content=bytes(self._content),
        )
