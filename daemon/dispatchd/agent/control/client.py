"""Client of a daemon's control socket, for commands, which are short and wait."""

import errno
import grp
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

import httpx

from dispatchd.agent.control.calls import OWNER_HEADER, SOCKET, owner_of, socket_address
from dispatchd.agent.control.token import TOKEN_HEADER, read
from dispatchd.agent.store.lock import is_locked
from dispatchd.errors import NotReachable, UsageError
from dispatchd.network.content_coding import coding_problem
from dispatchd.protocol.job import Json

_ORIGIN: Final = "http://dispatchd"
"""Origin of requests: HTTP/1.1 requires a host (RFC 9112, section 3.2), which is never resolved."""

_TIMEOUT_S: Final = 10.0
"""Longest time of one step of a healthy daemon (seconds)."""

_NOBODY: Final = {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}
"""Errors without a daemon: no folder, no socket, or a socket that a killed daemon left."""

_FORBIDDEN: Final = {errno.EACCES, errno.EPERM}

_NOT_OURS: Final = {
    httpx.codes.FORBIDDEN,
    httpx.codes.REQUEST_TIMEOUT,
    httpx.codes.MISDIRECTED_REQUEST,
}
"""Refusals that say nothing about the call itself: it may pass for another user, or later."""


def in_path(text: str) -> str:
    """Return a text, such as a job's id, as one segment of a path."""
    encoded = quote(text, safe="", errors="surrogatepass")
    # Dots alone would mean another folder (RFC 3986, 5.2.4).
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")


def ask(  # noqa: PLR0913  # a call has as many parts
    folder: Path,
    method: str,
    path: str,
    body: Json = None,
    *,
    cannot: str,
    timeout_s: float = _TIMEOUT_S,
    state: Path | None = None,
) -> Json:
    """Return the daemon's answer to one call.

    Args:
        folder: The daemon's control folder.
        method: HTTP method.
        path: Percent-encoded path and query; see `in_path`.
        body: Body of the request; None for none.
        cannot: The action that fails if this call does, for the error's sentence.
        timeout_s: Time limit of each step: connecting, sending, and each part of the answer (seconds).
        state: State folder of the daemon that is meant; another daemon refuses. None: any daemon.

    Raises:
        NotReachable: No daemon answers, or this user may not ask.
        UsageError: The daemon refuses the call.
    """
    content = None if body is None else json.dumps(body).encode()
    request = _request(folder, method, path, state, content)
    with _answer(folder, request, cannot, httpx.Timeout(timeout_s)) as response:
        return _decoded(response.read(), cannot)


def stream(
    folder: Path, path: str, *, cannot: str, state: Path | None = None
) -> Iterator[Json]:
    """Yield the daemon's documents, line by line, until the stream ends.

    Waits as long as it takes for each line. Fails as `ask` does, and with NotReachable if the daemon ends
    in the middle.
    """
    request = _request(folder, "GET", path, state)
    timeout = httpx.Timeout(_TIMEOUT_S, read=None)
    with _answer(folder, request, cannot, timeout) as response:
        for line in response.iter_lines():
            yield _decoded(line.encode(), cannot)


def _request(
    folder: Path,
    method: str,
    path: str,
    state: Path | None,
    content: bytes | None = None,
) -> httpx.Request:
    token = read(folder)
    headers = {TOKEN_HEADER: token} if token else {}
    # A user who can't read the folder can't tell it from others.
    with suppress(PermissionError):
        if state is not None:
            headers[OWNER_HEADER] = owner_of(state)
    url = f"{_ORIGIN}{path}"
    return httpx.Request(method, url, content=content, headers=headers)


@contextmanager
def _answer(
    folder: Path, request: httpx.Request, cannot: str, timeout: httpx.Timeout
) -> Iterator[httpx.Response]:
    """Yield the daemon's successful answer while it is open.

    Raises:
        NotReachable: There is no daemon, or no connection to it, or it has ended meanwhile.
    """
    try:
        _check_owner(folder, cannot)
        with socket_address(folder) as address, _http(address, timeout) as http:
            _knock(address)
            request.extensions["timeout"] = timeout.as_dict()
            response = http.send(request, stream=True)
            with closing(response):
                coding = response.headers.get("content-encoding", "")
                if problem := coding_problem(coding):
                    raise NotReachable(cannot=cannot, reason=problem)
                if not response.is_success:
                    _refuse(response, cannot)
                yield response
    except (OSError, httpx.HTTPError) as error:
        reason = _reason(folder, error)
        raise NotReachable(cannot=cannot, reason=reason) from error


def _check_owner(folder: Path, cannot: str) -> None:
    """Check that a socket is root's or the folder owner's: no other user gets a token or a request.

    Raises:
        NotReachable: Another user's process answers there.
    """
    with suppress(PermissionError):
        owner, expected = (folder / SOCKET).lstat().st_uid, folder.stat().st_uid
        if owner not in {0, expected}:
            reason = f"{folder / SOCKET} belongs to user {owner}, and its folder to user {expected}: another program answers there"
            raise NotReachable(cannot=cannot, reason=reason)


def _knock(address: str) -> None:
    """Fail as a connection would, without making one.

    httpcore 1.0 leaves a socket open when its connect(2) fails. A datagram socket can't connect to a stream
    socket, but gets the other errors first: missing, forbidden or abandoned (unix(7), EPROTOTYPE).

    Raises:
        OSError: There is no live socket at the address that this user may open.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        number = probe.connect_ex(address)
    if number != errno.EPROTOTYPE:
        raise OSError(number, os.strerror(number))


def _http(address: str, timeout: httpx.Timeout) -> httpx.Client:
    # An empty context, because loading the usual certificates takes longer than the call.
    no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    transport = httpx.HTTPTransport(uds=address, verify=no_tls)
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False)


def _refuse(response: httpx.Response, cannot: str) -> NoReturn:
    document = _decoded(response.read(), cannot)
    message = document.get("message") if isinstance(document, dict) else None
    reason = str(message or f"the daemon answered with status {response.status_code}")
    ours = response.is_client_error and response.status_code not in _NOT_OURS
    raise (UsageError if ours else NotReachable)(cannot=cannot, reason=reason)


def _decoded(content: bytes, cannot: str) -> Json:
    try:
        document: Json = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "what answers on the control socket doesn't speak JSON"
        raise NotReachable(cannot=cannot, reason=reason) from error
    return document


def _reason(folder: Path, error: OSError | httpx.HTTPError) -> str:
    number = _errno(error)
    if number == errno.ENOENT and is_locked(folder):
        return f"a daemon holds {folder}, but {folder / SOCKET} is missing; the daemon makes it within 15 s"
    if number in _NOBODY:
        return f"no daemon is running on {folder}; start it with `dispatchd run`"
    if number in _FORBIDDEN:
        return f"this user may not open {folder / SOCKET}; {_who_may(folder)}"
    if isinstance(error, httpx.TimeoutException) or number == errno.EAGAIN:
        return "the daemon doesn't answer"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "the daemon ended the connection before its answer was complete"
    return f"{folder / SOCKET}: {error}"


def _who_may(folder: Path) -> str:
    """Return the advice for this user, naming the group if it is readable."""
    try:
        group = (folder / SOCKET).stat().st_gid
    except OSError:
        return "join the group of that folder, or use sudo"
    return f"join the group {_group_name(group)}, or use sudo"


def _group_name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)


def _errno(error: BaseException) -> int | None:
    """Return the operating system's error number behind an error."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.errno is not None:
            return below.errno
        below = below.__cause__ or below.__context__
    return None
