"""Search for the license: the first source that has one, and its status on this machine."""

from collections.abc import Callable
from hashlib import sha256

from attrs import evolve, frozen

from dispatchd.agent.store.identity import IdentityStore
from dispatchd.errors import LicenseInvalid, RecordUnreadable
from dispatchd.protocol.license import (
    Activation,
    Claims,
    Fingerprint,
    LicenseSource,
    LicenseStatus,
)
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class LicenseSources:
    """Sources of a license, in the order of `LicenseSource`; each returns it, or an empty string."""

    inline_token: str
    inline_key: str
    configured_key: Callable[[], str]
    file_token: Callable[[], str]


@frozen(kw_only=True)
class LicenseSearch:
    """Result of a search: a status, or a key that has yet to be activated."""

    status: LicenseStatus
    key: str = ""


@frozen(kw_only=True)
class LicenseFinder:
    """Reads the sources at each call. Calls block."""

    sources: LicenseSources
    identity: IdentityStore
    fingerprint: Fingerprint
    verify: Callable[[str], Claims]
    known: KnownSecrets

    def find(self, server_id: str) -> LicenseSearch:
        """Return the license, or the key, of the first source that has one."""
        sources = self.sources
        if sources.inline_token:
            return LicenseSearch(
                status=self.of_token(sources.inline_token, LicenseSource.INLINE_TOKEN)
            )
        stored, problem = self.stored()
        for key, source in (
            (sources.inline_key, LicenseSource.INLINE_KEY),
            (sources.configured_key(), LicenseSource.CONFIGURED_KEY),
        ):
            if key:
                return self._of_key(key, source, stored, server_id)
        if stored is not None:
            source = LicenseSource.ACTIVATION
            return LicenseSearch(status=self.of_activation(stored, source, server_id))
        token = sources.file_token()
        if token:
            return LicenseSearch(status=self.of_token(token, LicenseSource.FILE))
        return LicenseSearch(status=LicenseStatus(problem=problem))

    def stored(self) -> tuple[Activation | None, str]:
        """Return the stored activation, and the reason if it can't be read."""
        try:
            return self.identity.activation(), ""
        except RecordUnreadable as error:
            return None, f"{error}; run `dispatchd activate` again"

    def of_activation(
        self, activation: Activation, source: LicenseSource, server_id: str
    ) -> LicenseStatus:
        """Return the status of an activation on this machine."""
        self.known.know("license", [activation.token, activation.heartbeat_secret])
        copied = self._copied(activation, server_id)
        if copied:
            problem = f"the activation belongs to another machine ({copied}): two machines with one identity take each other's jobs; run `dispatchd activate` here"
            return LicenseStatus(source=source, problem=problem)
        return evolve(self.of_token(activation.token, source), activation=activation)

    def of_token(self, token: str, source: LicenseSource) -> LicenseStatus:
        """Return the status of a token, with its claims if it is valid."""
        self.known.know("license", [token])
        try:
            return LicenseStatus(source=source, claims=self.verify(token))
        except LicenseInvalid as error:
            problem = f"the license from {source} is invalid: {error.reason}"
            return LicenseStatus(source=source, problem=problem)

    def _of_key(
        self,
        key: str,
        source: LicenseSource,
        stored: Activation | None,
        server_id: str,
    ) -> LicenseSearch:
        self.known.know("license", [key])
        same = stored is not None and stored.key_hash == hash_of(key)
        if stored is not None and same and not self._copied(stored, server_id):
            return LicenseSearch(status=self.of_activation(stored, source, server_id))
        return LicenseSearch(status=LicenseStatus(source=source), key=key)

    def _copied(self, activation: Activation, server_id: str) -> str:
        if activation.server_id != server_id:
            return "another server id"
        return activation.fingerprint.difference(self.fingerprint)


def hash_of(key: str) -> str:
    """Return the hash of a key, which an activation stores to recognize it (SHA-256 in hex)."""
    return sha256(key.encode()).hexdigest()
