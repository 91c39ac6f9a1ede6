"""Checks of TLS files, and a look at a certificate that was refused.

The only unverified handshake, in `shown_certificate`, carries no request. It ends as soon as the certificate is known.
"""

import base64
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import field, frozen

from dispatchd.network.proxies import Proxy, authority, port_of

_SHOWN: Final = 120
"""Longest part of a certificate's own text that is repeated (characters); a stranger wrote it."""

_HEAD_BYTES: Final = 16 * 1024
"""Largest answer of a proxy to CONNECT that is read (bytes)."""

# X.501 attribute types (RFC 5280, A.1) as DER, with the short names of RFC 4514.
_ATTRIBUTES: Final = {
    bytes.fromhex("550403"): "CN",
    bytes.fromhex("55040a"): "O",
    bytes.fromhex("55040b"): "OU",
    bytes.fromhex("550406"): "C",
}
_ALT_NAME: Final = bytes.fromhex("551d11")
"""id-ce-subjectAltName as DER (RFC 5280, 4.2.1.6)."""

_VERSION, _EXTENSIONS, _DNS, _IP = 0xA0, 0xA3, 0x82, 0x87
_UTC_TIME: Final = 0x17


def check_files(
    ca_file: Path | None, cert_file: Path | None, key_file: Path | None
) -> Iterator[tuple[str, str]]:
    """Yield (configuration key, expected value) for each file that can't be used."""
    if ca_file is not None and (problem := _no_certificates(ca_file)):
        yield "cloud.ca_file", problem
    if cert_file is None:
        if key_file is not None:
            yield "cloud.client_key_file", "needs cloud.client_cert_file beside it"
        return
    if problem := _no_certificates(cert_file):
        yield "cloud.client_cert_file", problem
        return
    key = "cloud.client_cert_file" if key_file is None else "cloud.client_key_file"
    if problem := _no_key(cert_file, key_file or cert_file):
        yield key, problem


def _no_certificates(path: Path) -> str:
    try:
        path.read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return f"must be a PEM file with certificates, and {path} has none to read"
    except OSError as error:
        return f"must be a readable file: {path}: {error.strerror}"
    return ""


def _no_key(cert_file: Path, key_file: Path) -> str:
    try:
        key_file.read_bytes()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"must hold the key of the certificate {cert_file}, not another one"
        return f"must hold a PEM key without a passphrase, and {key_file} has none"
    except OSError as error:
        return f"must be a readable file: {key_file}: {error.strerror}"
    return ""


@frozen(kw_only=True)
class SeenCertificate:
    """Claims of a server's certificate; none of them is verified.

    `names` are its hosts, `valid_from` and `valid_until` days as YYYY-MM-DD.
    """

    issuer: str
    names: tuple[str, ...]
    valid_from: str
    valid_until: str


@frozen(kw_only=True)
class Tunnel:
    """A plain-HTTP proxy on the way: its address, and the value of Proxy-Authorization or ""."""

    host: str
    port: int
    authorization: str = field(repr=False)


def basic(user: str, password: str) -> str:
    """Return the value of an Authorization header (RFC 7617, 2)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def tunnel_of(proxy: Proxy) -> Tunnel:
    """Return the tunnel through a proxy.

    Raises:
        ValueError: The way to the proxy is itself TLS.
    """
    if proxy.url.scheme == "https":
        message = f"the way leads through the https proxy {proxy.at}, which can't be looked through"
        raise ValueError(message)
    return Tunnel(
        host=proxy.url.host,
        port=port_of(proxy.url),
        authorization=basic(*proxy.auth) if proxy.auth else "",
    )


def glance(
    host: str, port: int, through: Tunnel | None, within_s: float
) -> SeenCertificate | None:
    """Return the claims of the certificate that a server shows, or None if it can't be read. Blocks."""
    try:
        return read_certificate(shown_certificate(host, port, through, within_s))
    except (OSError, ValueError, IndexError):
        return None


def shown_certificate(
    host: str, port: int, through: Tunnel | None, within_s: float
) -> bytes:
    """Return the certificate (DER) that a server shows. Blocks.

    Nothing is sent after the handshake, because the other end isn't verified.

    Raises:
        OSError: There is no connection or no handshake.
        ValueError: The host can't be a host's name.
        IndexError: A proxy answers with something else than HTTP.
    """
    first = (through.host, through.port) if through else (host, port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(first, timeout=within_s) as plain:
        if through is not None:
            _ask_tunnel(plain, through, authority(host, port), within_s)
        with context.wrap_socket(plain, server_hostname=host) as secured:
            return secured.getpeercert(binary_form=True) or b""


def _ask_tunnel(
    plain: socket.socket, through: Tunnel, target: str, within_s: float
) -> None:
    until_s = time.monotonic() + within_s
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if through.authorization:
        head += f"Proxy-Authorization: {through.authorization}\r\n"
    plain.sendall(f"{head}\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        # Byte by byte: bytes behind the head belong to the handshake.
        byte = plain.recv(1)
        if not byte or len(answer) > _HEAD_BYTES or time.monotonic() > until_s:
            raise ConnectionResetError
        answer += byte
    if not answer.split(b" ", 2)[1].startswith(b"2"):
        raise ConnectionRefusedError


def read_certificate(der: bytes) -> SeenCertificate:
    """Return the claims of a DER certificate (RFC 5280, 4.1) that name it to a person.

    Own code, because `ssl` decodes a certificate only once it is trusted.

    Raises:
        ValueError: It is no certificate.
        IndexError: Likewise.
    """
    ((_, certificate),) = _elements(der)
    fields = _elements(_elements(certificate)[0][1])
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    _serial, _algorithm, issuer, validity, _subject, _key, *more = fields
    since, until = _elements(validity[1])
    return SeenCertificate(
        issuer=_name(issuer[1]),
        names=tuple(_alternatives(more)),
        valid_from=_day(*since),
        valid_until=_day(*until),
    )


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return the (tag, content) pairs that follow each other in DER (X.690, 8.1)."""
    elements: list[tuple[int, bytes]] = []
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size])
            at += size
        elements.append((tag, der[at : at + length]))
        at += length
    return elements


def _name(der: bytes) -> str:
    parts: list[str] = []
    for _, attributes in _elements(der):
        for _, attribute in _elements(attributes):
            (_, kind), (_, value) = _elements(attribute)
            if kind in _ATTRIBUTES:
                parts.append(f"{_ATTRIBUTES[kind]}={printable(value)}")
    return ", ".join(parts)


def _alternatives(fields: list[tuple[int, bytes]]) -> Iterator[str]:
    extensions = [content for tag, content in fields if tag == _EXTENSIONS]
    sequences = (
        element for extension in extensions for element in _elements(extension)
    )
    for _, sequence in sequences:
        for _, extension in _elements(sequence):
            (_, kind), *_critical, (_, value) = _elements(extension)
            if kind == _ALT_NAME:
                for tag, name in _elements(_elements(value)[0][1]):
                    if tag == _DNS:
                        yield printable(name)
                    elif tag == _IP:
                        yield str(ipaddress.ip_address(name))


def _day(tag: int, value: bytes) -> str:
    digits = value.decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year: RFC 5280, 4.1.2.5.1.
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"


def printable(value: bytes) -> str:
    """Return a stranger's text as one short line without control characters."""
    text = value.decode("utf-8", "replace")[:_SHOWN]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
