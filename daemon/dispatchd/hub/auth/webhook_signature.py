"""Reception of a webhook's body: it goes to disk beyond 256 KiB, and its signature is computed on the way.

The sender is known only when the body is complete. So a body that a stranger sends slowly delays nobody, and takes
little memory.
"""

import hmac
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import Final, Self

from attrs import define, field
from starlette.requests import Request

from dispatchd.hub.http_bodies import TooLarge, require_length

IN_MEMORY: Final = 256 * 1024
"""Largest body that stays in memory, and is parsed as JSON at once (bytes)."""


@define
class SignedBody:
    """A complete body; to be closed."""

    size: int
    _file: "SpooledTemporaryFile[bytes]" = field(repr=False)
    _signatures: Sequence[bytes] = field(repr=False)

    @classmethod
    async def receive(
        cls,
        request: Request,
        most: int,
        secrets: Sequence[bytes],
        grown: Callable[[], None],
        *,
        before: bytes = b"",
        is_kept: bool = True,
    ) -> Self:
        """Receive a request's body.

        Args:
            request: The request.
            most: Largest size of the body (bytes).
            secrets: Secrets, each of which may have signed it.
            grown: Called once if it goes to disk.
            before: Bytes that are signed before the body.
            is_kept: False to drop what comes: its sender is refused whatever it is, but not before others would be.

        Raises:
            TooLarge: It is larger.
        """
        require_length(request, most)
        reckoned = [hmac.new(secret, before, sha256) for secret in secrets]
        size = 0
        with ExitStack() as opened:
            file = opened.enter_context(SpooledTemporaryFile(max_size=IN_MEMORY))
            async for chunk in request.stream():
                if is_kept and size <= IN_MEMORY < size + len(chunk):
                    grown()
                size += len(chunk)
                if size > most:
                    raise TooLarge(most)
                if not is_kept:
                    continue
                file.write(chunk)
                for mac in reckoned:
                    mac.update(chunk)
            opened.pop_all()
        return cls(size, file, [mac.digest() for mac in reckoned])

    def is_signed(self, given: Sequence[bytes]) -> bool:
        """Return whether one of the secrets has signed it. The comparison takes constant time.

        Args:
            given: The signatures that came with it, each an HMAC-SHA256; one valid one is enough.
        """
        # All of them, so that the time doesn't show which one matched.
        fits = [
            hmac.compare_digest(signature, expected)
            for signature in given
            for expected in self._signatures
        ]
        return any(fits)

    def read(self) -> bytes:
        """Return the body. Blocks where it is on disk."""
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Close the file; the body is gone then."""
        self._file.close()
