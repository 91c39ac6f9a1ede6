"""A webhook's body as it comes in: on disk beyond 256 KiB, and its signature reckoned on the way.

Who sends it is known only when it is there whole. So nobody waits for a body that a stranger sends slowly, and it
takes no memory to speak of.
"""

import hmac
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import Final, Self

from attrs import define, field
from starlette.requests import Request

from dispatchd.hub.bodies import TooLarge, require_length

IN_MEMORY: Final = 256 * 1024
"""Up to this size a body stays in memory, and is read as JSON at once (bytes)."""


@define
class SignedBody:
    """A body that has come in whole; to be closed."""

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
    ) -> Self:
        """Take a request's body in.

        Args:
            request: The request.
            most: How large it may be (bytes).
            secrets: Each of which may have signed it.
            grown: Called once if it goes to disk.

        Raises:
            TooLarge: It is larger.
        """
        require_length(request, most)
        reckoned = [hmac.new(secret, digestmod=sha256) for secret in secrets]
        size = 0
        with ExitStack() as opened:
            file = opened.enter_context(SpooledTemporaryFile(max_size=IN_MEMORY))
            async for chunk in request.stream():
                if size <= IN_MEMORY < size + len(chunk):
                    grown()
                size += len(chunk)
                if size > most:
                    raise TooLarge(most)
                file.write(chunk)
                for each in reckoned:
                    each.update(chunk)
            opened.pop_all()
        signatures = [b"sha256=" + each.hexdigest().encode() for each in reckoned]
        return cls(size, file, signatures)

    def is_signed(self, signature: str) -> bool:
        """Return whether one of the secrets has signed it, in a time that doesn't tell how near it is.

        Args:
            signature: `sha256=` and the HMAC in hex, as in X-Hub-Signature-256.
        """
        given = signature.encode(errors="replace")
        # All of them, so that the time doesn't tell which one it was.
        fits = [hmac.compare_digest(given, each) for each in self._signatures]
        return any(fits)

    def read(self) -> bytes:
        """Return the body. Blocks where it is on disk."""
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Let it go."""
        self._file.close()
