"""The reference endpoint (`examples/endpoint/`) in this process, on a thread of its own, and in broken variants."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from attrs import define, field
from typing_extensions import override

import endpoint as rules
import serve

MACHINE = "m1"


class Server(serve.Server):
    """Closes its connections at its end, as a process does."""

    def __init__(self, *arguments: Any) -> None:
        self.open: list[socket.socket] = []
        super().__init__(*arguments)

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.append(request)
        super().process_request(request, client_address)

    def close_all(self) -> None:
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@define
class Reference:
    """A server of one folder that can be restarted; it keeps its port."""

    folder: Path
    lease_s: float = 60.0
    kind: type[rules.Endpoint] = rules.Endpoint
    handler: type[serve.Handler] = serve.Handler
    before_restart: Callable[["Reference"], None] = lambda _: None
    port: int = 0
    server: Server = field(init=False)
    vendor: serve.Vendor = field(init=False)
    _thread: Thread = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def secret_file(self) -> Path:
        return self.folder / f"{MACHINE}.secret"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def start(self) -> None:
        self.vendor = serve.opened(self.folder, MACHINE, self.lease_s, self.kind)
        self.server = Server(("127.0.0.1", self.port), self.vendor, self.handler)
        self.port = int(self.server.server_address[1])
        self._thread = Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
        self.server.close_all()
        with self.vendor.endpoint.changed:
            self.vendor.endpoint.db.close()

    def restart(self) -> None:
        self.stop()
        self.before_restart(self)
        self.start()


@contextmanager
def reference(folder: Path, **options: Any) -> Iterator[Reference]:
    """Serve a folder for the length of a block."""
    server = Reference(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
