"""By what GitHub knows the hub: an App's key and the tokens of its installations, or one token in a file.

Source: GitHub docs, "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an installation access
token". Tokens are opaque: GitHub changes their form and length.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Self

import anyio
from attrs import define, field

from dispatchd.domain.job import Json
from dispatchd.errors import ConfigError
from dispatchd.hub.github.answers import (
    GithubError,
    Limited,
    NoCredential,
    Reply,
    Unclear,
)
from dispatchd.hub.github.keys import OURS, AppKey, Token, TokenFile
from dispatchd.hub.github.needs import WRITE
from dispatchd.hub.github.settings import GithubSettings
from dispatchd.hub.github.transport import Call, Transport

_EARLY_S: Final = 5 * 60.0
"""How long before its end an installation's token is replaced (seconds)."""

_ASKED_AGAIN_S: Final = 10 * 60.0
"""How old an installation's token is at least when another is got for what it may do (seconds): an owner may have changed that."""

_TOKEN_S: Final = 3600.0
"""How long a token counts that doesn't say so (seconds; the docs' one hour)."""


@define(kw_only=True)
class Credentials:
    """What the hub shows GitHub, and where tokens come from."""

    transport: Transport
    key: AppKey | None = None
    file: TokenFile | None = None
    _tokens: dict[int, Token] = field(factory=dict, init=False)
    _minting: defaultdict[int, anyio.Lock] = field(
        factory=lambda: defaultdict(anyio.Lock), init=False
    )

    @classmethod
    def open(cls, settings: GithubSettings, transport: Transport) -> Self:
        """Return the credentials of some settings. Fails with ConfigError if a file can't be used. Blocks."""
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
        """Return what proves the App itself.

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
            NoCredential: There is none: the file, the key or the installation doesn't count any more.

        Fails with Limited or Unclear if GitHub can't be asked now.
        """
        if self.file is not None:
            try:
                return self.file.read()
            except ConfigError as error:
                raise NoCredential(call="read the token", reason=str(error)) from error
        return (await self._installation_token(installation)).value

    async def may_write(self, installation: int, permission: str) -> bool | None:
        """Return whether an installation's token may write something (GitHub's word for a permission); None if it doesn't say.

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
        """Get another token next time, unless this one is new: what it may do may have changed."""
        kept = self._tokens.get(installation)
        if kept is not None and self._github_now() - kept.minted_at >= _ASKED_AGAIN_S:
            del self._tokens[installation]

    async def _installation_token(self, installation: int) -> Token:
        async with self._minting[installation]:
            kept = self._tokens.get(installation)
            if kept is None or self._github_now() >= kept.expires_at - _EARLY_S:
                kept = await self._mint(installation, {})
                # The newest one replaces the one before, which no text can quote any more.
                self.transport.known.forget(f"{OURS} {installation}")
                self.transport.known.know(f"{OURS} {installation}", [kept.value])
                self._tokens[installation] = kept
        return kept

    def drop(self, installation: int, token: str) -> None:
        """Mint another token next time in place of one that GitHub didn't take."""
        kept = self._tokens.get(installation)
        if kept is not None and kept.value == token:
            del self._tokens[installation]

    async def run_token(
        self, installation: int, repository: int | str, permissions: Mapping[str, str]
    ) -> Token:
        """Mint a token for one run, which is kept nowhere.

        Args:
            installation: The installation's id.
            repository: The only one that it is for: its id, or its name without the owner.
            permissions: All that it may do: permission -> `read` or `write`; at least one.

        Raises:
            ValueError: It would be for everything.

        Fails with GithubError if GitHub gives none.
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
            # Else "not there" would be taken for an answer about what the token was wanted for.
            raise NoCredential(call=error.call, reason=error.reason) from error
        return self._token_of(call, document)

    async def as_app(self, call: Call) -> tuple[Json, Reply]:
        """Make a call as the App itself, once more with a new JWT where the first isn't taken.

        Raises:
            NoCredential: The second isn't taken either.

        Fails with GithubError otherwise.
        """
        try:
            return await self.transport.json(call, self.jwt())
        except NoCredential:
            if self.key is None:
                raise
            # A JWT has times in it, and the answer has told what GitHub's clock shows.
            self.key.drop()
            return await self.transport.json(call, self.jwt())

    async def as_installation(
        self, installation: int, call: Call
    ) -> tuple[Json, Reply]:
        """Make a call for an installation, once more with a new token where the first isn't taken.

        Raises:
            NoCredential: The second isn't taken either.

        Fails with GithubError otherwise.
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
        try:
            ends = datetime.fromisoformat(str(document.get("expires_at"))).timestamp()
        except ValueError:
            ends = now + _TOKEN_S
        return Token(
            value=value,
            expires_at=ends,
            minted_at=now,
            permissions={name: str(level) for name, level in permissions.items()}
            if isinstance(permissions, dict)
            else {},
        )

    def _github_now(self) -> float:
        return self.transport.now() + self.transport.ahead_s
