"""TLS of the hub itself. Its certificate is read again when the files change; each new connection gets the newest one."""

import ssl
from pathlib import Path
from typing import Final

import structlog
from attrs import define, field

from dispatchd.errors import ConfigError, Problem

CHECKED_EVERY_S: Final = 5.0
"""Interval of checks of the files (seconds)."""

_State = tuple[tuple[int, int, int], ...]
"""State of the files, by which a change is noticed: inode, size and time of change (ns) of each."""


@define
class ServerTls:
    """Certificate of a server.

    Args:
        cert_file: The certificate with its chain (PEM).
        key_file: Its key (PEM); may be the same file.
    """

    cert_file: Path
    key_file: Path
    context: ssl.SSLContext = field(init=False)
    """Context for the server; it passes each connection on to the newest context."""
    _newest: ssl.SSLContext = field(init=False)
    _seen: _State = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._seen = self._state()
        self._newest = self._loaded()
        self.context = self._loaded()
        self.context.sni_callback = self._choose

    @classmethod
    def of(cls, cert_file: Path, key_file: Path, config_file: Path) -> "ServerTls":
        """Return the TLS of a server. Blocks.

        Raises:
            ConfigError: The files can't be used.
        """
        try:
            return cls(cert_file, key_file)
        except OSError as error:
            # Errors of OpenSSL are OSErrors, too.
            key, expected = _problem(error, cert_file, key_file)
            raise ConfigError(
                [Problem(file=config_file, key=key, expected=expected)]
            ) from error

    def refresh(self) -> None:
        """Load the files if they have changed; if they can't be used, the old certificate stays. Blocks."""
        try:
            seen = self._state()
            if seen == self._seen:
                return
            self._seen = seen
            self._newest = self._loaded()
        except OSError as error:
            key, expected = _problem(error, self.cert_file, self.key_file)
            structlog.get_logger().warning("tls_not_reloaded", key=key, reason=expected)
            return
        structlog.get_logger().info("tls_reloaded", file=str(self.cert_file))

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: object
    ) -> None:
        connection.context = self._newest

    def _state(self) -> _State:
        stats = [file.stat() for file in (self.cert_file, self.key_file)]
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Without this OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(self.cert_file, self.key_file, password="")
        context.set_alpn_protocols(["http/1.1"])
        return context


def pinned_certificate(cert_file: str) -> bytes:
    """Return the SHA-256 of a certificate (PEM file) that is its own issuer, so that only a pin can vouch for it. Blocks.

    Empty for no file, and for a certificate of a CA: that is renewed, and machines trust it by the CA.
    """
    from cryptography import x509  # noqa: PLC0415  # slow to load, and seldom needed
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    if not cert_file:
        return b""
    certificate = x509.load_pem_x509_certificate(Path(cert_file).read_bytes())
    if certificate.issuer != certificate.subject:
        return b""
    return certificate.fingerprint(SHA256())


def _problem(error: OSError, cert_file: Path, key_file: Path) -> tuple[str, str]:
    """Return the key of the configuration that is wrong, and the expectation."""
    for key, file in (
        ("tls_cert_file", cert_file),
        ("tls_key_file", key_file),
    ):
        try:
            file.read_bytes()
        except OSError as unreadable:
            return key, f"must be a readable file: {file}: {unreadable.strerror}"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return "tls_key_file", f"must hold the key of {cert_file}"
    expected = f"must be PEM, with a key without a passphrase ({error})"
    return "tls_cert_file", expected
