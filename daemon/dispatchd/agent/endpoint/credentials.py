"""The machine's credentials: its identity, and the secret that proves it, which is read again for calls a second apart."""

from functools import partial
from pathlib import Path
from typing import Final, Protocol

import anyio
from attrs import define, field

from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import Unauthorized
from dispatchd.protocol.license import LicenseStatus
from dispatchd.redaction.known_secrets import KnownSecrets

_FILE_S: Final = 10.0
"""Deadline for reading the secret's file (seconds): its file system may hang."""

_FRESH_S: Final = 1.0
"""Time for which a secret counts as it was read (seconds): a job makes several calls in it, and each look needs a thread."""

_LONGEST: Final = 64 * 1024
"""Longest secret (characters): more is another file, and to look for it in every text would take for ever."""


class Credentials(Protocol):
    """Identity of a machine at the endpoint, as of this moment."""

    @property
    def license_id(self) -> str:
        """Id of the license; empty where there are no credentials."""
        ...

    @property
    def server_id(self) -> str:
        """Id of the machine."""
        ...

    @property
    def known(self) -> KnownSecrets:
        """Secrets that are removed from every outgoing text."""
        ...

    async def secret(self, call: str) -> str:
        """Return the machine's secret.

        Raises:
            Unauthorized: None is available now.
        """
        ...


@define(kw_only=True)
class ConfiguredCredentials:
    """Identity that the machine's owner has written into the configuration.

    The secret stays in its file, so that rotating it needs no restart: a call reads it again, unless another one has just
    done so. Each secret that has been read joins the `known` secrets.
    """

    license_id: str
    server_id: str
    secret_file: Path
    known: KnownSecrets
    _threads: OwnThreads = field(factory=OwnThreads, init=False)
    _newest: tuple[str, float] | None = field(default=None, init=False, repr=False)
    """Secret that was read last, and the loop's time then (seconds)."""

    async def secret(self, call: str) -> str:
        """Return the machine's secret, without surrounding white space.

        Args:
            call: The call that needs it, for the error.

        Raises:
            Unauthorized: No secret is available now.
        """
        begun = anyio.current_time()
        if self._newest is not None and begun < self._newest[1] + _FRESH_S:
            return self._newest[0]
        try:
            text = await self._threads.run(
                self.secret_file,
                partial(_beginning, self.secret_file),
                within_s=_FILE_S,
            )
            secret = text.strip()
        except TimeoutError as error:
            raise Unauthorized(
                call=call,
                reason=f"the machine secret {self.secret_file} can't be read: {error}",
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise Unauthorized(
                call=call,
                reason=f"the machine secret {self.secret_file} can't be read: {reason}",
            ) from error
        if len(text) > _LONGEST:
            reason = f"the machine secret {self.secret_file} is longer than {_LONGEST} characters"
            raise Unauthorized(call=call, reason=reason)
        if not secret:
            raise Unauthorized(
                call=call, reason=f"the machine secret {self.secret_file} is empty"
            )
        self.known.know("machine", [secret])
        self._newest = secret, begun
        return secret


def _beginning(file: Path) -> str:
    """Return the text of a file, as far as a secret may be long, and one character more."""
    # The encoding removes a byte order mark, which some editors write.
    with file.open(encoding="utf-8-sig") as opened:
        return opened.read(_LONGEST + 1)


class License(Protocol):
    """License of this machine, which is refreshed meanwhile."""

    @property
    def status(self) -> LicenseStatus:
        """Its status at this moment."""
        ...

    @property
    def server_id(self) -> str:
        """Id of the machine."""
        ...


@define(kw_only=True)
class LicensedCredentials:
    """Identity that comes from an activated license."""

    known: KnownSecrets
    license: License

    @property
    def license_id(self) -> str:
        """Id of the license."""
        claims = self.license.status.claims
        return "" if claims is None else claims.license_id

    @property
    def server_id(self) -> str:
        """Id of the machine."""
        return self.license.server_id

    async def secret(self, call: str) -> str:
        """Return the machine's secret.

        Raises:
            Unauthorized: The license gives no credentials; the error names the missing part.
        """
        status = self.license.status
        if not status.has_credentials or status.activation is None:
            raise Unauthorized(call=call, reason=status.blocked_reason)
        return status.activation.heartbeat_secret
