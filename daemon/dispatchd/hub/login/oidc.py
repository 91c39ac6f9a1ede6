"""Login with an OpenID provider: discovery, an authorization code with PKCE, an id token (OpenID Connect Core 1.0, 3.1)."""

from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import anyio
from attrs import define, field

from dispatchd.hub.auth.people import Begun, Person, configured
from dispatchd.hub.config.login import OidcLogin, secure_problem
from dispatchd.hub.config.secret_files import read_secret
from dispatchd.hub.context import Context
from dispatchd.hub.login.http import Provider, provider
from dispatchd.hub.login.id_token import BadIdToken, Expected, claims_of
from dispatchd.hub.login.ways import (
    LoginRefused,
    ServiceAway,
    challenge,
    code_in,
)
from dispatchd.network.proxies import url_problem
from dispatchd.protocol.job import Json

_METADATA_S: Final = 300.0
"""Age at which the provider's metadata are read again (seconds)."""

_FAILED_S: Final = 5.0
"""Time after a failure in which the metadata aren't asked for again (seconds): anybody can begin a login."""

_BASIC: Final = "client_secret_basic"
_POST: Final = "client_secret_post"

_LONGEST_NAME: Final = 100
"""Longest name of a person (characters)."""


@define(kw_only=True)
class Oidc:
    """Way by an OpenID provider; implements `Way`."""

    settings: OidcLogin
    provider: Provider
    secret: str = field(repr=False)
    now: Callable[[], float]
    """The hub's clock (seconds since the epoch)."""
    _metadata: Mapping[str, Json] = field(factory=dict, init=False)
    _read_at: float = field(default=0.0, init=False)
    _failure: ServiceAway | None = field(default=None, init=False)
    _reading: anyio.Lock = field(factory=anyio.Lock, init=False)

    @property
    def name(self) -> str:
        """Name in addresses."""
        return "oidc"

    @property
    def label(self) -> str:
        """Name for people."""
        return self.settings.name

    async def address(self, begun: Begun, redirect_uri: str) -> str:
        """Return the address at the provider to which the browser goes."""
        endpoint = await self._endpoint("authorization_endpoint")
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.settings.client_id,
                "redirect_uri": redirect_uri,
                "scope": " ".join(self.settings.scopes),
                "state": begun.state,
                "nonce": begun.nonce,
                "code_challenge": challenge(begun),
                "code_challenge_method": "S256",
            }
        )
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{query}"

    async def person(
        self, begun: Begun, answer: Mapping[str, str], redirect_uri: str
    ) -> Person:
        """Return the person for whom a browser has come back.

        Raises:
            LoginRefused: The provider refuses, or its id token isn't valid.
        """
        await self._require_issuer(answer)
        code = code_in(answer, self.label)
        token = await self._id_token(code, begun, redirect_uri)
        keys = await self.provider.get(await self._endpoint("jwks_uri"))
        expected = Expected(
            issuer=self.settings.issuer,
            client_id=self.settings.client_id,
            nonce=begun.nonce,
            now=self.now(),
        )
        try:
            claims = claims_of(token, keys, expected)
        except BadIdToken as error:
            raise LoginRefused(self.label, f"its id token: {error}") from error
        return self._person(claims)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        shown = (claims.get(key) for key in ("preferred_username", "email", "name"))
        names = tuple(self._names(claims))
        return Person(
            way=self.name,
            subject=claims["sub"],
            name=next(
                (
                    name[:_LONGEST_NAME]
                    for name in shown
                    if name and isinstance(name, str)
                ),
                claims["sub"],
            ),
            names=configured(self.settings, names),
            lasts_s=self.settings.session_s,
        )

    def _names(self, claims: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names to which a role may be given."""
        yield f"sub:{claims['sub']}"
        email = claims.get("email")
        # Else people could give themselves the address of somebody else.
        if isinstance(email, str) and claims.get("email_verified") is True:
            yield f"email:{email}"
        groups = claims.get(self.settings.groups_claim)
        for group in groups if isinstance(groups, list) else [groups]:
            if isinstance(group, str):
                yield f"group:{group}"

    async def _id_token(self, code: str, begun: Begun, redirect_uri: str) -> str:
        """Exchange a code for an id token (RFC 6749, 4.1.3).

        Raises:
            LoginRefused: The provider refuses.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": begun.verifier,
        }
        headers = {}
        if await self._takes_basic():
            # Both parts are encoded as in a form first (RFC 6749, 2.3.1).
            pair = f"{quote_plus(self.settings.client_id)}:{quote_plus(self.secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self.settings.client_id, "client_secret": self.secret}
        endpoint = await self._endpoint("token_endpoint")
        status, document = await self.provider.post(endpoint, form, headers)
        if status != HTTPStatus.OK:
            code_in({"error": str(document.get("error", ""))}, self.label)
            raise LoginRefused(self.label, f"status {status} for the code")
        token = document.get("id_token")
        if not isinstance(token, str):
            raise LoginRefused(self.label, "it has sent no id token")
        return token

    async def _takes_basic(self) -> bool:
        listed = (await self._known()).get("token_endpoint_auth_methods_supported")
        return not isinstance(listed, list) or _BASIC in listed or _POST not in listed

    async def _require_issuer(self, answer: Mapping[str, str]) -> None:
        """Check the issuer that an answer names (RFC 9207, 2.4).

        Raises:
            LoginRefused: It is another one, or is missing where the provider sends it.
        """
        sends = "authorization_response_iss_parameter_supported"
        is_sent = (await self._known()).get(sends) is True
        default = "" if is_sent else self.settings.issuer
        if answer.get("iss", default) != self.settings.issuer:
            raise LoginRefused(self.label, "the answer is from another provider")

    async def _endpoint(self, key: str) -> str:
        """Return an address of the metadata.

        Raises:
            ServiceAway: There is none, or it would get secrets in clear text.
        """
        url = (await self._known()).get(key)
        if not isinstance(url, str) or url_problem(url) or secure_problem(url):
            raise ServiceAway(self.label, f"its metadata have no usable {key}")
        return url

    async def _known(self) -> Mapping[str, Json]:
        """Return the provider's metadata (OpenID Connect Discovery 1.0, 4).

        Raises:
            ServiceAway: They can't be read, or are those of another issuer.
        """
        async with self._reading:
            age_s = self.now() - self._read_at
            if self._failure is not None and 0 <= age_s < _FAILED_S:
                raise ServiceAway(self.label, self._failure.reason)
            if self._failure is None and self._metadata and 0 <= age_s < _METADATA_S:
                return self._metadata
            try:
                self._metadata, self._failure = await self._read(), None
            except ServiceAway as error:
                self._failure = error
                raise
            finally:
                self._read_at = self.now()
            return self._metadata

    async def _read(self) -> Mapping[str, Json]:
        """Read the provider's metadata.

        Raises:
            ServiceAway: They can't be read, or are those of another issuer.
        """
        issuer = self.settings.issuer
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        metadata = await self.provider.get(url)
        if metadata.get("issuer") != issuer:
            raise ServiceAway(self.label, "its metadata name another issuer")
        return metadata


@asynccontextmanager
async def oidc_way(context: Context, settings: OidcLogin) -> AsyncIterator[Oidc]:
    """Yield the way by a provider.

    Raises:
        ConfigError: The secret, the proxy or the certificates can't be used.
    """
    config_file = context.settings.file
    secret = read_secret(
        settings.client_secret_file,
        config_file=config_file,
        key="login.oidc.client_secret_file",
    )
    context.known.know("login with OpenID", [secret])
    async with provider(
        settings.name,
        settings.issuer,
        settings.ca_file,
        context.environment,
        config_file=config_file,
    ) as connection:
        yield Oidc(
            settings=settings, provider=connection, secret=secret, now=context.now
        )
