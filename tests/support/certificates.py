"""Certificates of a CA of the test's own, and a TLS server that shows them.

Real ones, made afresh: nothing secret is kept in the tree, and nothing in it expires.
"""

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream
from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typing_extensions import override

from support.endpoint import Endpoint
from support.servers import tcp_server

_Result = TypeVar("_Result")
_Args = TypeVarTuple("_Args")

_DAY = dt.timedelta(days=1)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Testing"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey, passphrase: str = "") -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption(),
    )


@define
class Authority:
    """A CA that lives as long as the test; what it issues is written to `folder`."""

    folder: Path
    name: str = "The test's CA"
    key: ec.EllipticCurvePrivateKey = field(init=False)
    certificate: x509.Certificate = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 100 * _DAY)
            .not_valid_after(now + 100 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(self.key, hashes.SHA256())
        )
        self.file.write_bytes(self.pem)

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *hosts: str,
        name: str = "leaf",
        days: tuple[int, int] = (-1, 30),
        passphrase: str = "",
    ) -> Path:
        """Return a PEM file with certificate and key, valid between two days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(now + days[1] * _DAY)
        )
        if hosts:
            alternatives = [_alternative(host) for host in hosts]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), False
            )
        certificate = builder.sign(self.key, hashes.SHA256())
        path = self.folder / f"{name}-{certificate.serial_number:x}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + _key_pem(key, passphrase)
        )
        return path


def self_signed(folder: Path, *hosts: str, name: str = "self-signed") -> Path:
    """Return a PEM file with a certificate that is its own issuer, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM) + _key_pem(key)
    )
    return path


def serial_of(issued: Path) -> int:
    """Return the serial number of a certificate that an Authority issued."""
    return int(issued.stem.rpartition("-")[2], 16)


def server_context(
    certificate: Path, *, clients: Authority | None = None, tls13: bool = True
) -> ssl.SSLContext:
    """Return a server's context; with `clients` it wants a certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if not tls13:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)
    return context


class _Alerting(TLSStream):
    """Tells the other side why a handshake failed, which anyio keeps for itself."""

    @override
    async def _call_sslobject_method(
        self, func: Callable[[*_Args], _Result], *args: *_Args
    ) -> _Result:
        try:
            return await super()._call_sslobject_method(func, *args)
        except ssl.SSLError:
            if alert := self._write_bio.read():
                await self.transport_stream.send(alert)
            raise


@define
class _Recorded:
    """A secured connection whose bytes are kept."""

    stream: TLSStream
    received: bytearray

    async def receive(self) -> bytes:
        chunk = await self.stream.receive()
        self.received += chunk
        return chunk

    async def send(self, chunk: bytes) -> None:
        await self.stream.send(chunk)


@define
class TlsEndpoint(Endpoint):
    """The endpoint behind TLS.

    `context` is read at each connection, so that a test can change the certificate. `connections` counts
    those that came; `received` is all that came after a handshake, in the clear; `clients` are the serial
    numbers of the clients' certificates, 0 for none.
    """

    context: ssl.SSLContext = field(kw_only=True)
    host: str = "127.0.0.1"
    connections: int = 0
    received: bytearray = field(factory=bytearray)
    clients: list[int] = field(factory=list)

    @property
    @override
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    @override
    async def connection(self, stream: ByteStream) -> None:
        self.connections += 1
        try:
            secured = await _Alerting.wrap(
                stream,
                server_side=True,
                ssl_context=self.context,
                standard_compatible=False,
            )
        except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
            await _drain(stream)
            return
        shown = secured.extra(TLSAttribute.peer_certificate) or {}
        self.clients.append(int(str(shown.get("serialNumber", "0")), 16))
        recorded = _Recorded(secured, self.received)
        await super().connection(recorded)  # type: ignore[arg-type]  # all that it uses


async def _drain(stream: ByteStream) -> None:
    """Read on until the other side has gone, as a reset could overtake the alert."""
    try:
        with anyio.move_on_after(5):
            await stream.send_eof()
            async for _ in stream:
                pass
    except (anyio.BrokenResourceError, OSError):
        pass


@asynccontextmanager
async def tls_endpoint(
    context: ssl.SSLContext, host: str = "127.0.0.1"
) -> AsyncIterator[TlsEndpoint]:
    """Serve an endpoint over TLS on a free loopback port."""
    server = TlsEndpoint(context=context, host=host)
    async with tcp_server(server.connection) as server.port:
        yield server
    assert not server.complaints
