"""Ways in which people log in beside access tokens: those that the configuration names, opened for the life of a hub's process."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from dispatchd.hub.context import Context
from dispatchd.hub.login.ways import Repositories, Way, Ways


@asynccontextmanager
async def login_ways(context: Context) -> AsyncIterator[Ways]:
    """Yield the ways.

    Raises:
        ConfigError: A secret, certificates or the proxy can't be used.
    """
    login, github = context.settings.login, context.settings.github
    by_name: dict[str, Way] = {}
    repositories: Repositories | None = None
    async with AsyncExitStack() as stack:
        if login is not None and login.github is not None and github is not None:
            # It imports the client of GitHub, which a hub without GitHub doesn't need.
            from dispatchd.hub.github.login import github_way  # noqa: PLC0415  # only where it is configured

            by_github = github_way(context, login.github, github)
            github_login = await stack.enter_async_context(by_github)
            by_name[github_login.name] = repositories = github_login
        if login is not None and login.oidc is not None:
            # It imports PyJWT, which a hub without it doesn't need at its start.
            from dispatchd.hub.login.oidc import oidc_way  # noqa: PLC0415  # likewise

            by_oidc = oidc_way(context, login.oidc)
            by_name["oidc"] = await stack.enter_async_context(by_oidc)
        yield Ways(by_name=by_name, repositories=repositories)
