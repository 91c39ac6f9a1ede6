"""Credential files for GitHub: an App's private key, or a token."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from attrs import define, field, frozen

from dispatchd.errors import ConfigError, Problem
from dispatchd.redaction.known_secrets import KnownSecrets

if TYPE_CHECKING:
    # Slow to load, and a hub without an App never needs it.
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_BACKDATED_S: Final = 60.0
"""Time by which a JWT's issue time is set back (seconds), for a clock that is ahead."""

_JWT_S: Final = 9 * 60.0
"""Lifetime of a JWT (seconds); GitHub accepts at most 10 minutes."""

_RENEWED_S: Final = 2 * 60.0
"""Remaining lifetime at which a JWT is replaced (seconds)."""

_UNREADABLE: Final = "must be a readable file ({})"

OURS: Final = "github"
"""Owner of the App's key, or of the token in the file, among the known secrets."""


@frozen(kw_only=True)
class Token:
    """A token with its expiry (seconds since the epoch, by GitHub's clock; 0 = not known)."""

    value: str = field(repr=False)
    expires_at: float = 0
    minted_at: float = 0
    permissions: Mapping[str, str] = field(factory=dict)
    """Permissions of the token, with GitHub's names: permission -> `read` or `write`; empty = not known."""


class AppKey:
    """An App's private key, and the JWT in use that was made with it."""

    def __init__(self, app_id: int, key: "RSAPrivateKey", known: KnownSecrets) -> None:
        self._app_id, self._key, self._known = app_id, key, known
        self._jwt = Token(value="")

    @classmethod
    def read(cls, app_id: int, file: Path, known: KnownSecrets) -> Self:
        """Return the key in a file.

        Raises:
            ConfigError: It can't be read, isn't PEM, or is no RSA key.
        """
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

        text = _read(file)
        try:
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError) as error:
            expected = "must be a private key in PEM without a passphrase, as GitHub gives it for the App"
            _refuse(file, expected, error)
        if not isinstance(key, rsa.RSAPrivateKey):
            _refuse(file, "must be an RSA key, as GitHub gives it for the App")
        known.know(OURS, [text.strip()])
        return cls(app_id, key, known)

    def jwt(self, now: float) -> str:
        """Return a JWT that is valid at `now` (seconds since the epoch, by GitHub's clock)."""
        if now >= self._jwt.expires_at - _RENEWED_S:
            import jwt  # noqa: PLC0415

            expires_at = now + _JWT_S
            claims = {
                "iat": int(now - _BACKDATED_S),
                "exp": int(expires_at),
                "iss": str(self._app_id),
            }
            value = jwt.encode(claims, self._key, algorithm="RS256")
            self._known.forget(f"{OURS} jwt")
            self._known.know(f"{OURS} jwt", [value])
            self._jwt = Token(value=value, expires_at=expires_at)
        return self._jwt.value

    def drop(self) -> None:
        """Make another JWT next time."""
        self._jwt = Token(value="")


@define
class TokenFile:
    """A token in a file; it is read again when the file changes."""

    _file: Path
    _known: KnownSecrets
    _version: tuple[int, int, int] = field(default=(0, 0, 0), init=False)
    _value: str = field(default="", init=False, repr=False)

    def read(self) -> str:
        """Return the token.

        Raises:
            ConfigError: The file can't be read, or is empty.
        """
        try:
            stat = self._file.stat()
        except OSError as error:
            _refuse(self._file, _UNREADABLE.format(error.strerror), error)
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if version != self._version or not self._value:
            value = _read(self._file).strip()
            if not value or len(value.split()) != 1 or not value.isascii():
                _refuse(self._file, "must have a token in it, and nothing else")
            self._known.know(OURS, [value])
            self._value, self._version = value, version
        return self._value


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        _refuse(file, _UNREADABLE.format(error.strerror), error)
    except ValueError as error:
        _refuse(file, "must be text in UTF-8", error)


def _refuse(file: Path, expected: str, error: Exception | None = None) -> NoReturn:
    raise ConfigError([Problem(file=file, key="", expected=expected)]) from error
