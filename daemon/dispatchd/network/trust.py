"""Trust on the way out: contexts that always verify.

Nothing turns verification off: no argument, no setting and no environment variable.
"""

import ssl
from pathlib import Path


def context_without_tls() -> ssl.SSLContext:
    """Return a context for connections to http URLs: it trusts nobody, since to load the system's CAs takes 20 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client_context(
    ca_file: Path | None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    *,
    beside_system: bool = False,
) -> ssl.SSLContext:
    """Return a context that verifies chain and host name, with TLS 1.2 or newer (RFC 8996).

    Built by hand, since `ssl.create_default_context` writes the session keys to a file that the
    environment names (SSLKEYLOGFILE), and checks more from Python 3.13 on than before.

    Args:
        ca_file: PEM bundle that is trusted instead of the system's; None: the system's.
        cert_file: PEM of the client's certificate and its chain; None: none is offered.
        key_file: PEM of its key; None: the key is in `cert_file`.
        beside_system: Trust the system's CAs beside those of `ca_file`.

    Raises:
        OSError: A file is missing or invalid (ssl.SSLError is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Every certificate in the bundle is trusted, even an intermediate one; this is Python's default from 3.13 on.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    if ca_file is None or beside_system:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    if cert_file is not None:
        # Without this passphrase OpenSSL would ask at the terminal, and wait.
        context.load_cert_chain(cert_file, key_file, password="")
    return context
