"""A real PostgreSQL on a free loopback port, for the length of a block: for tests and benchmarks."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psycopg
from attrs import frozen

_USER = "postgres"
"""User of Debian's package, which runs the server if the caller is root: PostgreSQL refuses to run as root."""


def find() -> Path | None:
    """Return the folder with PostgreSQL's programs, the newest version's, or None."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if programs:
        return programs[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).parent


@frozen(kw_only=True)
class Postgres:
    """A running server."""

    port: int

    def new_database(self, like: str = "", encoding: str = "") -> str:
        """Return the URL of a new database: an empty one, or a copy of an unused one, by its URL.

        One with an encoding of its own is empty.
        """
        name = f"hub_{uuid4().hex}"
        template = like.rpartition("/")[2] or "template1"
        if encoding:
            template = f"template0 ENCODING '{encoding}' LOCALE 'C'"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._address(name)

    def drop(self, url: str) -> None:
        """Remove a database, even if clients are still connected to it."""
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    @contextmanager
    def away(self, url: str) -> Iterator[None]:
        """Keep all clients out of a database for the length of a block."""
        name = url.rpartition("/")[2]
        with psycopg.connect(self._address("postgres"), autocommit=True) as server:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            server.execute(end, (name,))
            yield
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._address("postgres"), autocommit=True) as server:
            server.execute(statement.encode())

    def _address(self, name: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgres(*, synced: bool = True) -> Iterator[Postgres]:
    """Run a server for the length of a block. One that isn't synced survives all but a power cut, and is faster."""
    programs = find()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="dispatchd-postgres-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
        prefix = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    data = folder / "data"
    make = [
        "--auth=trust",
        f"--username={_USER}",
        "--encoding=UTF8",
        "--locale=C",
        *([] if synced else ["--no-sync"]),
    ]
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder),
        "max_connections": "100",
        **({} if synced else {"fsync": "off", "full_page_writes": "off"}),
    }
    arguments = [
        word for name, value in options.items() for word in ("-c", f"{name}={value}")
    ]
    log = (folder / "log").open("wb")
    try:
        subprocess.run(
            [*prefix, programs / "initdb", *make, "-D", data],
            check=True,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        process = subprocess.Popen(
            [*prefix, programs / "postgres", "-D", data, "-p", str(port), *arguments],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
        try:
            server = Postgres(port=port)
            _until_ready(server, process, folder / "log")
            yield server
        finally:
            _stop(process)
    finally:
        log.close()
        shutil.rmtree(folder)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server in fast mode, which waits for no client, or at once if that takes long (PostgreSQL docs, 19.5)."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait(10)


def _until_ready(server: Postgres, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with suppress(psycopg.OperationalError):
            server.drop(server.new_database())
            return
        # Another process's start: nothing announces it.
        time.sleep(0.05)
