"""Registration of an App in a browser on this machine: a page that posts the manifest, and the redirect with the code.

Other users of the machine reach the port too. So the page is at a path, and the redirect has a state, that nobody can guess.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from queue import Empty, SimpleQueue
from secrets import token_urlsafe
from socketserver import ThreadingTCPServer
from threading import Lock, Thread
from typing import ClassVar, Final, cast
from urllib.parse import parse_qsl, urlsplit

from attrs import define, field
from typing_extensions import override

from dispatchd.errors import NotReachable

_HOST: Final = "127.0.0.1"
_SILENT_S: Final = 10.0
"""Longest silence within a request (seconds)."""

_MOST_FIELDS: Final = 10
"""Most fields of a query (count)."""

_CODE: Final = re.compile(r"[\w.-]{1,255}", re.ASCII)

_ANSWER: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<p>{text}</p>
</html>
"""

_TAKEN: Final = _ANSWER.format(
    title="GitHub App",
    text="You can close this window. The terminal says what is next.",
)
_REFUSED: Final = _ANSWER.format(
    title="Not for this program",
    text="This address is not the one that the program in the terminal waits for.",
)


@define(eq=False)
class Redirect:
    """Page and redirect of one registration. The first redirect with the right state counts, and no other."""

    make_page: Callable[[str, str], str]
    """Make the page (HTML) of a redirect's address and its state."""
    url: str
    """Address that GitHub sends the browser to."""
    _state: str = field(factory=token_urlsafe, init=False, repr=False)
    _path: str = field(factory=lambda: f"/{token_urlsafe()}", init=False, repr=False)
    _page: str = field(init=False, repr=False)
    _is_taken: bool = field(default=False, init=False)
    _lock: Lock = field(factory=Lock, init=False)
    _codes: SimpleQueue[str] = field(factory=SimpleQueue, init=False)

    def __attrs_post_init__(self) -> None:
        self._page = self.make_page(self.url, self._state)

    @property
    def page_url(self) -> str:
        """Address of the page, for the person at the browser."""
        return self.url.rstrip("/") + self._path

    def code(self, within_s: float) -> str:
        """Wait for the redirect, and return the code in it.

        Raises:
            NotReachable: It didn't come in time.
        """
        try:
            return self._codes.get(timeout=within_s)
        except Empty:
            reason = f"no browser came back from GitHub within {within_s:g} s; call this again"
            raise NotReachable(cannot="make the App", reason=reason) from None

    def answer(self, target: str) -> tuple[HTTPStatus, str, str]:
        """Return status and page (HTML) for a request, and the code if this is the redirect."""
        parts = urlsplit(target)
        if compare_digest(parts.path.encode(), self._path.encode()):
            return HTTPStatus.OK, self._page, ""
        try:
            fields = parse_qsl(parts.query, max_num_fields=_MOST_FIELDS)
        except ValueError:
            fields = []
        query = dict(fields)
        code, state = query.get("code", ""), query.get("state", "")
        if (
            parts.path != "/"
            or len(query) != len(fields)
            or not compare_digest(state.encode(), self._state.encode())
            or _CODE.fullmatch(code) is None
        ):
            return HTTPStatus.NOT_FOUND, _REFUSED, ""
        with self._lock:
            is_first, self._is_taken = not self._is_taken, True
        if not is_first:
            return HTTPStatus.GONE, _REFUSED, ""
        return HTTPStatus.OK, _TAKEN, code

    def take(self, code: str) -> None:
        """Give the code to who waits for it."""
        self._codes.put(code)


@contextmanager
def listening(make_page: Callable[[str, str], str]) -> Iterator[Redirect]:
    """Listen on a free port of loopback for the length of a block.

    Raises:
        NotReachable: This machine has no loopback, or no port.
    """
    try:
        server = _Server(make_page)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotReachable(cannot=f"listen on {_HOST}", reason=reason) from error
    with server:
        thread = Thread(target=server.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield server.redirect
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    # With less, strangers who connect all the time keep the browser waiting.
    request_queue_size = 128

    def __init__(self, make_page: Callable[[str, str], str]) -> None:
        super().__init__((_HOST, 0), _Handler)
        port = self.server_address[1]
        self.redirect = Redirect(make_page, f"http://{_HOST}:{port}/")

    @override
    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that goes away is no concern of the person at the terminal."""


class _Handler(BaseHTTPRequestHandler):
    timeout: ClassVar[float | None] = _SILENT_S

    def do_GET(self) -> None:
        redirect = cast("_Server", self.server).redirect
        status, text, code = redirect.answer(self.path)
        try:
            with suppress(OSError):
                self._reply(status, text.encode())
        finally:
            if code:
                redirect.take(code)

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response_only(status)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    @override
    def version_string(self) -> str:
        return "dispatchd"

    @override
    def log_message(self, *_: object) -> None:
        """Log nothing: a request line may have the code in it."""
