"""GitHub authentication: an App's key and the tokens of its installations, or one token in a file.

Source: GitHub docs, "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an installation access
token". Tokens are opaque: GitHub changes their form and length.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final, Self

import anyio
from attrs import define, field

from dispatchd.errors import ConfigError
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.github.api.keys import OURS, AppKey, Token, TokenFile
from dispatchd.hub.github.api.responses import (
    GithubError,
    Limited,
    NoCredential,
    Reply,
    Unclear,
)
from dispatchd.hub.github.api.transport import Call, Transport
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import parse_time

WRITE: Final = "write"
"""Access with which something can be changed (GitHub's schema `app-permissions`)."""

_EARLY_S: Final = 5 * 60.0
"""Remaining lifetime at which an installation's token is replaced (seconds)."""

_ASKED_AGAIN_S: Final = 10 * 60.0
"""Least age of an installation's token that is replaced to see changed permissions (seconds). An owner may have changed them."""

_TOKEN_S: Final = 3600.0
"""Lifetime of a token without an expiry in the answer (seconds; the docs' one hour)."""


@define(kw_only=True)
class Credentials:
    """Credentials of the hub for GitHub: the App's JWT, and tokens."""

    transport: Transport
    key: AppKey | None = None
    file: TokenFile | None = None
    _tokens: dict[int, Token] = field(factory=dict, init=False)
    _minting: defaultdict[int, anyio.Lock] = field(
        factory=lambda: defaultdict(anyio.Lock), init=False
    )

    @classmethod
    def open(cls, settings: GithubSettings, transport: Transport) -> Self:
        """Return the credentials of some settings. Blocks.

        Raises:
            ConfigError: A file can't be used.
        """
        known = transport.known
        if settings.private_key_file is not None:
            key = AppKey.read(settings.app_id, settings.private_key_file, known)
            return cls(transport=transport, key=key)
        if settings.token_file is None:
            return cls(transport=transport)
        file = TokenFile(settings.token_file, known)
        file.read()
        return cls(transport=transport, file=file)

    def jwt(self) -> str:
        """Return a JWT that authenticates the App itself.

        Raises:
            NoCredential: The hub isn't an App.
        """
        if self.key is None:
            reason = "the hub has a token, and isn't a GitHub App"
            raise NoCredential(call="speak to GitHub as an App", reason=reason)
        return self.key.jwt(self._github_now())

    async def token(self, installation: int) -> str:
        """Return a token of an installation; without an App the only token there is.

        Raises:
            NoCredential: There is none: the file, the key or the installation is no longer valid.
            Limited: There were too many calls.
            Unclear: GitHub can't be called now.
        """
        if self.file is not None:
            try:
                return self.file.read()
            except ConfigError as error:
                raise NoCredential(call="read the token", reason=str(error)) from error
        return (await self._installation_token(installation)).value

    async def may_write(self, installation: int, permission: str) -> bool | None:
        """Return whether an installation's token has a permission (GitHub's name) with write access; None if that isn't known.

        Fails like `token`.
        """
        if self.file is not None:
            return None
        token = await self._installation_token(installation)
        if token.permissions and token.permissions.get(permission) != WRITE:
            self.doubt(installation)
            token = await self._installation_token(installation)
        if not token.permissions:
            return None
        return token.permissions.get(permission) == WRITE

    def doubt(self, installation: int) -> None:
        """Mint another token next time, unless this one is new: its permissions may have changed."""
        cached = self._tokens.get(installation)
        if (
            cached is not None
            and self._github_now() - cached.minted_at >= _ASKED_AGAIN_S
        ):
            del self._tokens[installation]

    async def _installation_token(self, installation: int) -> Token:
        async with self._minting[installation]:
            cached = self._tokens.get(installation)
            if cached is None or self._github_now() >= cached.expires_at - _EARLY_S:
                cached = await self._mint(installation, {})
                # Texts can quote only the newest token; redaction forgets the one before.
                self.transport.known.forget(f"{OURS} {installation}")
                self.transport.known.know(f"{OURS} {installation}", [cached.value])
                self._tokens[installation] = cached
        return cached

    def drop(self, installation: int, token: str) -> None:
        """Mint another token next time in place of one that GitHub rejected."""
        cached = self._tokens.get(installation)
        if cached is not None and cached.value == token:
            del self._tokens[installation]

    async def run_token(
        self, installation: int, repository: int | str, permissions: Mapping[str, str]
    ) -> Token:
        """Mint a token for one run; it is stored nowhere.

        Args:
            installation: The installation's id.
            repository: The only repository of the token: its id, or its name without the owner.
            permissions: All permissions of the token: permission -> `read` or `write`; at least one.

        Raises:
            ValueError: The token would not be limited: no repository, or no permissions.
            GithubError: GitHub issues none.
        """
        if not repository or not permissions:
            message = "a run's token needs a repository and permissions"
            raise ValueError(message)
        narrowed: dict[str, Json] = (
            {"repository_ids": [repository]}
            if isinstance(repository, int)
            else {"repositories": [repository]}
        )
        return await self._mint(
            installation, {**narrowed, "permissions": {**permissions}}
        )

    async def _mint(self, installation: int, narrowed: Mapping[str, Json]) -> Token:
        call = Call(
            name=f"get a token of the installation {installation}",
            method="POST",
            path=f"app/installations/{installation}/access_tokens",
            body=narrowed or None,
        )
        try:
            document, _ = await self.as_app(call)
        except (Limited, Unclear, NoCredential):
            raise
        except GithubError as error:
            # Else "not found" would look like an answer about the resource that the token is for.
            raise NoCredential(call=error.call, reason=error.reason) from error
        return self._token_of(call, document)

    async def as_app(self, call: Call) -> tuple[Json, Reply]:
        """Make a call as the App itself; repeat it once with a new JWT where the first is rejected.

        Raises:
            NoCredential: The second is rejected too.
            GithubError: The call fails in another way.
        """
        try:
            return await self.transport.json(call, self.jwt())
        except NoCredential:
            if self.key is None:
                raise
            # A JWT contains times, and the answer has given the time of GitHub's clock.
            self.key.drop()
            return await self.transport.json(call, self.jwt())

    async def as_installation(
        self, installation: int, call: Call
    ) -> tuple[Json, Reply]:
        """Make a call for an installation; repeat it once with a new token where the first is rejected.

        Raises:
            NoCredential: The second is rejected too.
            GithubError: The call fails in another way.
        """
        token = await self.token(installation)
        try:
            return await self.transport.json(call, token)
        except NoCredential:
            if self.key is None:
                raise
            self.drop(installation, token)
            return await self.transport.json(call, await self.token(installation))

    def _token_of(self, call: Call, document: Json) -> Token:
        value = document.get("token") if isinstance(document, dict) else None
        if not isinstance(value, str) or not value or not isinstance(document, dict):
            raise Unclear(call=call.name, reason="the answer has no token")
        now, permissions = self._github_now(), document.get("permissions")
        ends = parse_time(str(document.get("expires_at")))
        return Token(
            value=value,
            expires_at=now + _TOKEN_S if ends is None else ends,
            minted_at=now,
            permissions={name: str(level) for name, level in permissions.items()}
            if isinstance(permissions, dict)
            else {},
        )

    def _github_now(self) -> float:
        return self.transport.now() + self.transport.ahead_s
