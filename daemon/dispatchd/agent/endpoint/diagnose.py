"""From a failed request to its cause, in words that an administrator can act on.

`cloud.replies` judges the answers of a server; here are the reasons why no answer came. Messages name
hosts, ports, files and certificates, and never credentials, which are in none of the errors. The
texts of strangers (reason phrases, names in certificates) are cut and made printable.
"""

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import anyio
import httpx
from anyio import to_thread

from dispatchd.agent.endpoint.failure_kinds import Explanation, Kind, Place, place_of
from dispatchd.agent.endpoint.transport import (
    FilesUnusable,
    ForeignOrigin,
    TransportSettings,
)
from dispatchd.network.connection_trace import Stage
from dispatchd.network.proxies import port_of
from dispatchd.network.tls_files import (
    SeenCertificate,
    Tunnel,
    glance,
    printable,
    tunnel_of,
)

_GLANCE_S: Final = 3.0
"""Time limit of a look at a refused certificate (seconds); without it the message has less detail."""


_NAMES: Final = 5
"""Most names of a certificate that are repeated (count)."""

_CLOCK: Final = "this machine's clock"

# OpenSSL's names of its own errors and of the alerts that it received (ERR_reason_error_string(3)).
_NOT_TLS: Final = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
_VERSIONS: Final = {
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "UNSUPPORTED_PROTOCOL",
    "NO_PROTOCOLS_AVAILABLE",
}
_HANDSHAKE_FAILURE: Final = "SSLV3_ALERT_HANDSHAKE_FAILURE"
_WANTS_CERTIFICATE: Final = {_HANDSHAKE_FAILURE, "TLSV13_ALERT_CERTIFICATE_REQUIRED"}
_REFUSES_CERTIFICATE: Final = {
    "TLSV1_ALERT_UNKNOWN_CA",
    "TLSV1_ALERT_ACCESS_DENIED",
    "TLSV1_ALERT_DECRYPT_ERROR",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
}

_NO_WAY: Final = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.EADDRNOTAVAIL,
    errno.EACCES,
    errno.EPERM,
}

_DURING: Final = {
    Stage.WAITING: "",
    Stage.CONNECTING: " while connecting",
    Stage.SECURING: " during the TLS handshake",
    Stage.TUNNELLING: " instead of opening a tunnel",
    Stage.ASKING: " without a complete answer",
}


async def explain(error: BaseException, settings: TransportSettings) -> Explanation:
    """Return the cause of a failed request.

    Takes up to 3 s more if a certificate was refused: it is fetched once more, to name its issuer.

    Args:
        error: The exception of httpx, or the TimeoutError of the call's own deadline.
        settings: Those of the transport that sent the request.
    """
    if isinstance(error, FilesUnusable):
        return Explanation(kind=Kind.FILES_UNUSABLE, message=str(error))
    if isinstance(error, ForeignOrigin):
        message = (
            f"the request is for {error}, which is not the endpoint; it was not sent"
        )
        return Explanation(kind=Kind.FOREIGN_ORIGIN, message=message)
    place = place_of(error, settings)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, httpx.ProxyError):
            return _of_proxy(cause, place, settings)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return await _of_certificate(cause, place, settings)
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and (
            explanation := _of_tls(cause, place, settings)
        ):
            return explanation
    return _of_network(causes, place) or _of_protocol(causes, place)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all of its causes, including the members of groups, each once."""
    todo, seen = [error], set[int]()
    while todo:
        cause = todo.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            todo.extend(cause.exceptions)
        todo.extend(below for below in (cause.__cause__, cause.__context__) if below)


def _of_proxy(
    error: httpx.ProxyError, place: Place, settings: TransportSettings
) -> Explanation:
    """Explain an answer of the proxy that opens no tunnel: "<status> <phrase>"."""
    answer = printable(str(error).encode())
    proxy = place.proxy_name
    match answer[:3]:
        case "407":
            known = place.proxy is not None and place.proxy.auth is not None
            message = (
                f"does not take the credentials in {settings.proxy_credentials_file or 'its URL'}"
                if known
                else "wants credentials; put user:password into a file and name it in cloud.proxy_credentials_file"
            )
            kind, message = Kind.PROXY_WANTS_AUTHENTICATION, f"{proxy} {message} (407)"
        case "403":
            kind = Kind.PROXY_FORBIDS
            message = f"{proxy} forbids connections to {place.target} (403); ask its administrator to allow them"
        case _:
            kind = Kind.PROXY_FAILED
            message = (
                f"{proxy} opens no connection to {place.target}: it answered {answer}"
            )
    return Explanation(kind=kind, message=message)


async def _of_certificate(
    error: ssl.SSLCertVerificationError, place: Place, settings: TransportSettings
) -> Explanation:
    seen = await _look(place)
    whose = f"the certificate of {place.peer}"
    match error.verify_code:
        case 10:  # X509_V_ERR_CERT_HAS_EXPIRED, X509_STORE_CTX_get_error(3)
            kind = Kind.CERTIFICATE_EXPIRED
            day = f" (valid until {seen.valid_until})" if seen else ""
            message = f"{whose} or of its issuer has expired{day}, or {_CLOCK} is ahead"
        case 9:  # X509_V_ERR_CERT_NOT_YET_VALID
            kind = Kind.CERTIFICATE_NOT_YET_VALID
            day = f" (valid from {seen.valid_from})" if seen else ""
            message = f"{whose} is not valid yet{day}, or {_CLOCK} is behind"
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
            kind = Kind.HOSTNAME_MISMATCH
            names = ", ".join(seen.names[:_NAMES]) if seen else ""
            message = f"{whose} is for {names or 'other names'}, and not for that host"
        case _:
            kind = Kind.UNTRUSTED
            issuer = f', issued by "{seen.issuer}",' if seen else ""
            trusted = settings.ca_file or "the system's CA certificates"
            message = (
                f"{whose}{issuer} is not vouched for by {trusted} ({error.verify_message}); "
                "if its issuer can be trusted, put that CA into cloud.ca_file"
            )
    return Explanation(kind=kind, message=message)


async def _look(place: Place) -> SeenCertificate | None:
    """Return the refused certificate, if it can be fetched once more in time."""
    host, port = place.endpoint.host, port_of(place.endpoint)
    through: Tunnel | None = None
    if place.proxy is not None:
        url = place.proxy.url
        if place.with_proxy:
            host, port = url.host, port_of(url)
        elif url.scheme == "https":
            return None  # a tunnel within TLS: not worth the code
        else:
            through = tunnel_of(place.proxy)
    with anyio.move_on_after(_GLANCE_S):
        return await to_thread.run_sync(
            glance, host, port, through, _GLANCE_S, abandon_on_cancel=True
        )
    return None


def _of_tls(
    error: ssl.SSLError, place: Place, settings: TransportSettings
) -> Explanation | None:
    """Explain the end of a handshake, or the alert behind it (RFC 8446, 6.2); None for a mere end of the stream."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    if reason in _NOT_TLS:
        kind, message = (
            Kind.NOT_TLS,
            "does not speak TLS: an http port, or the wrong one?",
        )
    elif reason in _VERSIONS:
        kind, message = (
            Kind.TLS_VERSION,
            "speaks no TLS from 1.2 on, which is the least",
        )
    elif reason in _WANTS_CERTIFICATE and settings.client_cert_file is None:
        kind = Kind.CLIENT_CERTIFICATE_REQUIRED
        message = "wants a client certificate; name it in cloud.client_cert_file"
        if reason == _HANDSHAKE_FAILURE:
            message = (
                f"refused the handshake: it {message} (or it has no cipher in common)"
            )
    elif reason in _WANTS_CERTIFICATE or reason in _REFUSES_CERTIFICATE:
        kind = Kind.CLIENT_CERTIFICATE_REFUSED
        message = f"does not take the client certificate {settings.client_cert_file} ({_said(reason)})"
    else:
        kind, message = Kind.TLS_FAILED, f"ended the TLS handshake ({_said(reason)})"
    return Explanation(kind=kind, message=f"{place.peer} {message}")


def _said(reason: str) -> str:
    """Return OpenSSL's name of an alert as words, without its versions of the protocol."""
    return reason.rpartition("ALERT_")[2].lower().replace("_", " ") or "no reason"


def _of_network(causes: list[BaseException], place: Place) -> Explanation | None:
    peer, proxy = place.peer, place.with_proxy
    if any(isinstance(cause, socket.gaierror | UnicodeError) for cause in causes):
        message = (
            f"the name of {peer} does not resolve here; check it and this machine's DNS"
        )
        kind = Kind.PROXY_UNRESOLVED if proxy else Kind.NAME_RESOLUTION
        return Explanation(kind=kind, message=message)
    numbers = _numbers(causes)
    if errno.ECONNREFUSED in numbers:
        kind = Kind.PROXY_REFUSED if proxy else Kind.REFUSED
        message = f"{peer} refuses connections: nothing listens there, or a firewall rejects them"
        return Explanation(kind=kind, message=message)
    kind = Kind.PROXY_UNREACHABLE if proxy else Kind.UNREACHABLE
    if blocked := numbers & _NO_WAY:
        message = f"{peer} can't be reached: {os.strerror(min(blocked))}"
        return Explanation(kind=kind, message=message)
    if place.stage is Stage.CONNECTING and _timed_out(causes, numbers):
        message = (
            f"{peer} does not answer the attempt to connect: down, or a firewall drops"
        )
        return Explanation(kind=kind, message=message)
    return None


def _of_protocol(causes: list[BaseException], place: Place) -> Explanation:
    error, peer, during = causes[0], place.peer, _DURING[place.stage]
    numbers = _numbers(causes)
    # A server that closes without an alert while it refuses a client's certificate looks the same.
    hint = (
        ", which may mean that it wants another client certificate"
        if place.fresh and place.endpoint.scheme == "https" and not place.with_proxy
        else ""
    )
    if _timed_out(causes, numbers):
        kind, message = Kind.TIMEOUT, f"{peer} gave no complete answer in time"
    elif numbers & {errno.ECONNRESET, errno.EPIPE}:
        kind, message = Kind.RESET, f"{peer} reset the connection{during}{hint}"
    elif isinstance(error, httpx.RemoteProtocolError) and not _is_end(error):
        kind, message = Kind.NOT_HTTP, f"{peer} answers something that is not HTTP"
    elif isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        kind, message = Kind.CLOSED, f"{peer} closed the connection{during}{hint}"
    else:
        message = f"{peer}: {type(error).__name__}{during}"
        kind = Kind.OTHER
    return Explanation(kind=kind, message=message)


def _numbers(causes: list[BaseException]) -> set[int]:
    """Return the operating system's error numbers; `ssl` and name resolution have numbers of their own."""
    return {
        cause.errno
        for cause in causes
        if isinstance(cause, OSError)
        and not isinstance(cause, ssl.SSLError | socket.gaierror)
        and cause.errno is not None
    }


def _timed_out(causes: list[BaseException], numbers: set[int]) -> bool:
    return errno.ETIMEDOUT in numbers or any(
        isinstance(cause, httpx.TimeoutException | TimeoutError) for cause in causes
    )


def _is_end(error: httpx.RemoteProtocolError) -> bool:
    """Return whether the peer ended the connection, and didn't send invalid data (messages of httpcore and h11)."""
    return any(part in str(error) for part in ("disconnected", "closed connection"))
