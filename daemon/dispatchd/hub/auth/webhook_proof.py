"""Proof that comes with a webhook's delivery: a token, or signatures of its body, perhaps with a time."""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final

from attrs import field, frozen

from dispatchd.hub.auth.webhook_signature import SignedBody
from dispatchd.hub.domain.webhooks.senders import (
    BODY,
    HEADER,
    ID,
    TIMESTAMP,
    Check,
    Encoding,
    Form,
)

_KEY: Final = "whsec_"
_MOST_SIGNATURES: Final = 8
"""Most signatures of a delivery that count; a sender that changes its secret sends two."""

_LONGEST_DIGITS: Final = 15
_SHA256: Final = 32


@frozen(kw_only=True)
class DeliveryProof:
    """Proof of one delivery, read from its headers."""

    before: bytes = b""
    """Bytes that are signed before the body."""
    signatures: Sequence[bytes] = field(default=(), repr=False)
    has_token: bool = False
    """True if a header has the token."""
    problem: str = ""
    """Reason, in words, why it can't be valid whatever the body is; empty if it may be."""
    sent_at: float | None = None
    """Signed time of sending (seconds since the epoch); None for none."""

    def fits(self, body: SignedBody) -> bool:
        """Return whether the delivery comes from the sender."""
        return self.has_token or body.is_signed(self.signatures)


def read_proof(
    form: Form, secrets: Sequence[bytes], headers: Mapping[str, str]
) -> DeliveryProof:
    """Return the proof in the headers of a delivery.

    Args:
        form: The form of the sender's deliveries.
        secrets: The hook's secrets, each of which is valid.
        headers: The headers, by names in lower case.
    """
    text = headers.get(form.header, "").strip()
    if not text:
        return DeliveryProof(problem=f"the header {form.header} is missing")
    if form.check is Check.TOKEN:
        return _token(form, secrets, text)
    signatures = [*_signatures(form, text)][:_MOST_SIGNATURES]
    if not signatures:
        shape = f"{form.prefix}{form.encoding}"
        problem = f"{form.header} has no HMAC-SHA256 in the form {shape}"
        return DeliveryProof(problem=problem)
    time = headers.get(form.timestamp, "").strip() if form.timestamp else ""
    if form.timestamp and not _is_time(time):
        problem = f"{form.timestamp} has no time in seconds since 1970"
        return DeliveryProof(problem=problem)
    before = form.signed.removesuffix(BODY).replace(TIMESTAMP, time)
    if ID in before:
        name = form.id[0].removeprefix(HEADER).lower()
        before = before.replace(ID, headers.get(name, "").strip())
    return DeliveryProof(
        # Headers are bytes, which the server has read as Latin-1.
        before=before.encode("latin-1", "replace"),
        signatures=signatures,
        sent_at=float(time) if time else None,
    )


def key_of(form: Form, secret: str) -> bytes:
    """Return the key of a secret.

    Raises:
        ValueError: It isn't one of the sender's form.
    """
    if not form.is_key_encoded:
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_KEY), validate=True)
    except (binascii.Error, ValueError) as error:
        message = "whsec_ and a key in Base64, as the sender shows it"
        raise ValueError(message) from error
    if not key:
        message = "whsec_ and a key that isn't empty"
        raise ValueError(message)
    return key


def _token(form: Form, secrets: Sequence[bytes], text: str) -> DeliveryProof:
    if not text.lower().startswith(form.prefix.lower()):
        problem = f"{form.header} doesn't begin with {form.prefix.strip()}"
        return DeliveryProof(problem=problem)
    # Of hashes, which are of one length.
    given = sha256(
        text[len(form.prefix) :].strip().encode("latin-1", "replace")
    ).digest()
    fits = [hmac.compare_digest(given, sha256(each).digest()) for each in secrets]
    if any(fits):
        return DeliveryProof(has_token=True)
    return DeliveryProof(problem=f"the token in {form.header} isn't the hook's")


def _signatures(form: Form, text: str) -> list[bytes]:
    """Return the signatures in a header; a sender may give several with spaces between them."""
    decode: Callable[[str], bytes] = (
        bytes.fromhex
        if form.encoding is Encoding.HEX
        else lambda part: base64.b64decode(part, validate=True)
    )
    found = []
    for part in [text] if " " in form.prefix else text.split():
        if not part.startswith(form.prefix):
            continue
        try:
            signature = decode(part.removeprefix(form.prefix))
        except ValueError:
            continue
        if len(signature) == _SHA256:
            found.append(signature)
    return found


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _LONGEST_DIGITS
