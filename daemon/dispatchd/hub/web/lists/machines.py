"""Page of the machines: how each is, and what it runs."""

from collections import Counter
from typing import Final
from urllib.parse import urlencode

from attrs import frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dispatchd.hub.context import Context
from dispatchd.hub.web.lists.workers import STATES, Row, rows
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.render import Visitor, answering, render

_LISTED: Final = 50
"""Machines on a page (count)."""

_DIGITS: Final = 4
"""Longest number of a page (digits)."""

_WORDS: Final = {
    "away": "away",
    "busy": "busy",
    "idle": "idle",
    "never": "never seen",
    "invited": "not activated",
    "revoked": "revoked",
}
"""States in words."""


@frozen
class MachinesPage:
    """Route of the list of machines."""

    entry: Entry

    def routes(self) -> list[Route]:
        """Return the route, for the application."""
        return [Route("/machines", answering(self.show), methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Return the machines that fit the filter in the address."""
        visitor = await self.entry.visitor(request)
        query = request.query_params
        words, state = query.get("q", "").strip(), query.get("state", "")
        number = query.get("page", "1")
        is_number = number.isascii() and number.isdecimal() and len(number) <= _DIGITS
        page = int(number) if is_number else 1
        context = self.entry.context
        return HTMLResponse(
            await context.use_for_list(
                lambda: _page(context, visitor, words, state, max(1, page))
            )
        )


def _page(context: Context, visitor: Visitor, words: str, state: str, page: int) -> str:
    known = rows(context)
    counts = Counter(row.state for row in known)
    fit = [row for row in known if state in ("", row.state) and _has(row, words)]
    start = (page - 1) * _LISTED
    return render(
        "machines.html",
        visitor,
        now=context.now(),
        rows=fit[start : start + _LISTED],
        states=[(name, counts[name]) for name in STATES if counts[name]],
        total=len(known),
        fitting=len(fit),
        state=state if state in STATES else "",
        words=words,
        words_of=_WORDS,
        newest=_address(words, state, 1) if page > 1 else "",
        older=_address(words, state, page + 1) if len(fit) > start + _LISTED else "",
    )


def _address(words: str, state: str, page: int) -> str:
    fields = {"q": words, "state": state, "page": str(page) if page > 1 else ""}
    said = {name: value for name, value in fields.items() if value}
    query = urlencode(said, errors="surrogatepass")
    return f"/machines?{query}" if query else "/machines"


def _has(row: Row, words: str) -> bool:
    workflows = row.document["workflows"]
    named = workflows if isinstance(workflows, list) else []
    said = " ".join(
        (str(row.document["name"]), str(row.document["server_id"]), *map(str, named))
    )
    return all(word in said.lower() for word in words.lower().split())
