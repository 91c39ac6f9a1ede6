"""A hub at which people log in, with a GitHub and an OpenID provider on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from attrs import define

from support.hub import NO_TLS, HubHere, hub
from support.people import CLIENT_SECRET, Account, Services, log_in, services, tables
from support.torture import lasting_port

SHOP, SECRET = "acme/shop", "acme/secret"
ROLES = """
viewers = ["vera"]
operators = ["Olga"]
admins = ["id:40"]
"""
GROUPS = """
viewers = ["email:kim@example.org"]
operators = ["group:ops"]
"""


@define
class Scene:
    """A hub, and the services by which people log in there."""

    hub: HubHere
    services: Services

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give the browser of somebody who hasn't logged in."""
        async with httpx.AsyncClient(
            base_url=self.hub.url, timeout=None, verify=NO_TLS
        ) as found:
            yield found

    @asynccontextmanager
    async def person(
        self, who: str = "", **how: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Give the browser of somebody who has logged in."""
        async with self.browser() as found:
            reply = await log_in(self.services, found, who, **how)
            assert reply.status_code == 200, reply.text
            yield found


@asynccontextmanager
async def scene(folder: Path, **more: str) -> AsyncIterator[Scene]:
    """Run both for the length of a block; the texts are keys of the tables, and `more` has further tables."""
    folder.mkdir(exist_ok=True)
    (folder / "github-token").write_text("t0ken-of-the-hub")
    (folder / "client-secret").write_text(CLIENT_SECRET + "\n")
    further = more.pop("more", "")
    port = lasting_port()
    with services() as found:
        for number, login in enumerate(("dev", "vera", "olga", "stranger")):
            found.accounts[login] = Account(number, login)
        found.accounts["ada"] = Account(40, "ada")
        found.accounts["dev"].reads = {SHOP: 7}
        roles = {"github": ROLES, "oidc": GROUPS, **more}
        config = tables(found, f"http://127.0.0.1:{port}", **roles) + further
        async with hub(folder, port=port, more=config) as server:
            yield Scene(server, found)
