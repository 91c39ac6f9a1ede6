"""The hub's web page as a browser without scripts has it: its login, and what can be read of it."""

import re
from html import unescape
from urllib.parse import quote

import httpx

from support.hub import Hub


def admin_token(server: Hub) -> str:
    return server.headers["authorization"].removeprefix("Bearer ")


def form_token(page: httpx.Response) -> str:
    [*_, found] = re.findall(r'name="form_token" value="([^"]+)"', page.text)
    assert isinstance(found, str)
    return unescape(found)


async def login(
    guest: httpx.AsyncClient, token: str, path: str = "/"
) -> httpx.Response:
    """Send the form of the login as the page has it."""
    page = await guest.get(f"/login?next={quote(path, safe='')}")
    [wanted] = re.findall(r'name="next" value="([^"]*)"', page.text)
    form = {
        "form_token": form_token(page),
        "next": unescape(wanted),
        "token": token,
    }
    return await guest.post("/login", data=form)


def text(page: httpx.Response) -> str:
    """Return what can be read of a page's content."""
    main = page.text.partition("<main")[2].partition("</main>")[0]
    return unescape(re.sub(r"<[^>]*>", " ", main))
