"""The key with which a machine joins a hub: the secret, and what the machine trusts the hub by.

Text form: `dhub1.PUBLIC.CERTIFICATE.SECRET`. PUBLIC is the public half (32 bytes) of the Ed25519 key that signs licenses.
CERTIFICATE is the SHA-256 of the hub's certificate in DER; empty if the system's CAs vouch for it, or if there is none.
Both are in base64url without padding (RFC 4648, 5). Pure.
"""

from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from attrs import field, frozen

_PREFIX: Final = "dhub1"
_PARTS: Final = 4
_BYTES: Final = 32
"""Length of an Ed25519 public key (RFC 8032, 5.1.5), and of a SHA-256."""

_DER: Final = bytes.fromhex("302a300506032b6570032100")
"""Beginning of an Ed25519 public key in DER (RFC 8410, 4)."""


@frozen(kw_only=True)
class EnrolmentKey:
    """The parts of a key; `certificate` is empty if the hub's certificate isn't pinned."""

    public: bytes
    certificate: bytes = b""
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The key as it is handed to a machine."""
        return ".".join(
            (_PREFIX, _text(self.public), _text(self.certificate), self.secret)
        )

    @classmethod
    def of_pem(cls, public_pem: str, certificate: bytes, secret: str) -> "EnrolmentKey":
        """Return the key for a public key (PEM)."""
        body = "".join(public_pem.split("-----")[2].split())
        return cls(
            public=b64decode(body)[-_BYTES:],
            certificate=certificate,
            secret=secret,
        )

    @classmethod
    def parse(cls, text: str) -> "EnrolmentKey":
        """Return the key that a text is, also where a terminal or a mail has broken its line.

        Raises:
            ValueError: It is none; the message doesn't quote it.
        """
        prefix, *parts = "".join(text.split()).split(".")
        if prefix != _PREFIX or len(parts) != _PARTS - 1 or not parts[-1]:
            message = "it doesn't have the form dhub1.PUBLIC.CERTIFICATE.SECRET; is a part of it missing?"
            raise ValueError(message)
        public, certificate = (_bytes(part) for part in parts[:2])
        if len(public) != _BYTES or len(certificate) not in {0, _BYTES}:
            message = "a part of it is cut off"
            raise ValueError(message)
        return cls(public=public, certificate=certificate, secret=parts[2])

    @property
    def public_pem(self) -> str:
        """The public key in PEM."""
        body = b64encode(_DER + self.public).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"


def secret_of(text: str) -> str:
    """Return the secret of a key, or the text itself if it is a secret alone, as keys of earlier releases are."""
    return text.rpartition(".")[2] if text.startswith(f"{_PREFIX}.") else text


def _text(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    if not text.isascii():
        message = "it has characters that a key hasn't"
        raise ValueError(message)
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
