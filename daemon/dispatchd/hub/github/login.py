"""Login with GitHub by the App's OAuth, and what a person may read there.

Source: GitHub docs, "Generating a user access token for a GitHub App". A person's token may do what the person and the
App may both do. A refresh token isn't stored: a session lasts no longer than the token.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlencode

from attrs import field, frozen

from dispatchd.hub.auth.people import Begun, Person, configured
from dispatchd.hub.auth.sessions import LIFE_S
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.config.login import GithubLogin
from dispatchd.hub.config.secret_files import read_secret
from dispatchd.hub.context import Context
from dispatchd.hub.domain.links import web_url
from dispatchd.hub.github.api.responses import (
    GithubError,
    Invalid,
    Limited,
    NoCredential,
    NotPermitted,
    NotThere,
    Unclear,
)
from dispatchd.hub.github.api.transport import (
    Call,
    Transport,
    repository_path,
    transport,
)
from dispatchd.hub.login.ways import (
    LoginRefused,
    ServiceAway,
    SessionOver,
    challenge,
    code_in,
)
from dispatchd.protocol.job import Json

_LABEL: Final = "GitHub"


@frozen(kw_only=True)
class GithubWay:
    """Way by GitHub; implements `Way` and `Repositories`."""

    settings: GithubLogin
    transport: Transport
    website: str
    """Address of GitHub's website."""
    secret: str = field(repr=False)

    @property
    def name(self) -> str:
        """Name in addresses."""
        return "github"

    @property
    def label(self) -> str:
        """Name for people."""
        return _LABEL

    async def address(self, begun: Begun, redirect_uri: str) -> str:
        """Return the address at GitHub to which the browser goes."""
        query = urlencode(
            {
                "client_id": self.settings.client_id,
                "redirect_uri": redirect_uri,
                "state": begun.state,
                "code_challenge": challenge(begun),
                "code_challenge_method": "S256",
            }
        )
        return f"{self.website}/login/oauth/authorize?{query}"

    async def person(
        self, begun: Begun, answer: Mapping[str, str], redirect_uri: str
    ) -> Person:
        """Return the person for whom a browser has come back.

        Raises:
            LoginRefused: GitHub refuses the code.
            ServiceAway: GitHub can't be asked.
        """
        call = Call(
            name="exchange a person's code",
            method="POST",
            path=f"{self.website}/login/oauth/access_token",
            body={
                "client_id": self.settings.client_id,
                "client_secret": self.secret,
                "code": code_in(answer, self.label),
                "redirect_uri": redirect_uri,
                "code_verifier": begun.verifier,
            },
            accept="application/json",
        )
        granted = await self._document(call, "")
        # GitHub answers an invalid code with 200.
        code_in({"code": "-", **_texts(granted, "error")}, self.label)
        token = granted.get("access_token")
        if not isinstance(token, str) or not token:
            raise LoginRefused(self.label, "it has sent no token")
        lasts_s = granted.get("expires_in")
        user = await self._document(
            Call(name="ask who a person is", path="user"), token
        )
        number, login = user.get("id"), user.get("login")
        if not isinstance(number, int) or not isinstance(login, str):
            raise ServiceAway(self.label, "its answer names no person")
        return Person(
            way=self.name,
            subject=str(number),
            name=login,
            names=configured(self.settings, (login, f"id:{number}")),
            token=token,
            lasts_s=min(float(lasts_s), LIFE_S) if isinstance(lasts_s, int) else LIFE_S,
        )

    async def is_valid(self, token: str) -> bool:
        """Return whether GitHub still accepts a person's token.

        Raises:
            ServiceAway: GitHub can't be asked.
        """
        try:
            await self.transport.send(
                Call(name="ask whether a person's token is valid", path="user"), token
            )
        except NotPermitted as error:
            # A suspended account gets a 403 for everything, with a token that is no other than before.
            if error.is_githubs:
                return False
            raise ServiceAway(_LABEL, error.reason) from error
        except GithubError as error:
            raise ServiceAway(_LABEL, error.reason) from error
        return True

    async def readable_id(self, token: str, repository: str) -> int | None:
        """Return the id of a repository if a person may read it; None if they may not, or there is none.

        Raises:
            SessionOver: GitHub no longer accepts the token.
            ServiceAway: GitHub can't be asked.
        """
        call = Call(
            name="ask whether a person may read a repository",
            path=repository_path(repository),
        )
        try:
            document, _ = await self.transport.json(call, token)
        except NoCredential as error:
            raise SessionOver from error
        except (NotPermitted, NotThere, Invalid):
            return None
        except GithubError as error:
            raise ServiceAway(_LABEL, error.reason) from error
        number = document.get("id") if isinstance(document, dict) else None
        return number if isinstance(number, int) else None

    async def _document(self, call: Call, token: str) -> dict[str, Json]:
        try:
            document, _ = await self.transport.json(call, token)
        except (Limited, Unclear) as error:
            raise ServiceAway(_LABEL, error.reason) from error
        except GithubError as error:
            raise LoginRefused(self.label, error.reason) from error
        if not isinstance(document, dict):
            raise ServiceAway(self.label, "its answer is no JSON object")
        return document


def _texts(document: Mapping[str, Json], *names: str) -> dict[str, str]:
    return {
        name: str(document[name])
        for name in names
        if isinstance(document.get(name), str)
    }


@asynccontextmanager
async def github_way(
    context: Context, settings: GithubLogin, github: GithubSettings
) -> AsyncIterator[GithubWay]:
    """Yield the way by GitHub.

    Raises:
        ConfigError: The secret, the certificates or the proxy can't be used.
    """
    secret = read_secret(
        settings.client_secret_file,
        config_file=context.settings.file,
        key="login.github.client_secret_file",
    )
    context.known.know("login with GitHub", [secret])
    async with transport(
        github, now=context.now, known=context.known, environment=context.environment
    ) as connection:
        yield GithubWay(
            settings=settings,
            transport=connection,
            website=web_url(github.api_url),
            secret=secret,
        )
