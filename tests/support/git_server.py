"""A real git server on loopback: `git http-backend` behind an HTTP server that demands a token."""

import atexit
import base64
import gzip
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from urllib.parse import urlsplit

from attrs import define, field

from support.servers import Reply, Request, http_server

IDENTITY = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *IDENTITY, *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    ).stdout.strip()


@define
class GitServer:
    """What it serves, and what it was asked."""

    root: Path
    token: str
    port: int = 0
    status: int = 0
    """An answer to everything, in place of git's."""
    location: str = ""
    """Where it redirects everything to."""
    open_gate: threading.Event = field(factory=threading.Event)
    """Requests wait for it; set at the start."""
    requests: list[tuple[str, str]] = field(factory=list)
    """Path and Authorization header of each request, in order."""
    at_request: Callable[[], None] = field(default=lambda: None)
    """Called at each request, while the git that asks waits for its answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create(self, name: str) -> list[str]:
        """Make a repository with three commits on main, one on a pull request; return their ids in order."""
        made, shas = _template()
        shutil.copytree(made, self.root / f"{name}.git")
        return [*shas]


@cache
def _template() -> tuple[Path, tuple[str, ...]]:
    """Return a repository, from which others are copied, and the ids of its commits: to make one takes a while."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        git(work, "init", "--quiet", "-b", "main")
        shas = []
        for number in (1, 2, 3):
            (work / "README.md").write_text(f"version {number}\n")
            git(work, "add", ".")
            git(work, "commit", "--quiet", "-m", f"commit {number}")
            shas.append(git(work, "rev-parse", "HEAD"))
        git(work, "checkout", "--quiet", "-b", "feature")
        (work / "feature.txt").write_text("new\n")
        git(work, "add", ".")
        git(work, "commit", "--quiet", "-m", "feature")
        shas.append(git(work, "rev-parse", "HEAD"))
        bare = Path(mkdtemp(prefix="dispatchd-repository-"))
        atexit.register(shutil.rmtree, bare)
        git(bare, "clone", "--quiet", "--bare", str(work), ".")
    git(bare, "update-ref", "refs/pull/7/head", shas[-1])
    git(bare, "update-ref", "-d", "refs/heads/feature")
    git(bare, "symbolic-ref", "HEAD", "refs/heads/main")
    git(bare, "config", "http.receivepack", "true")
    return bare, tuple(shas)


@contextmanager
def git_server(
    root: Path, *, token: str = "", tls: ssl.SSLContext | None = None
) -> Iterator[GitServer]:
    """Serve repositories below a folder for the length of a block."""
    root.mkdir(parents=True, exist_ok=True)
    server = GitServer(root, token)
    server.open_gate.set()

    with http_server(lambda request: _answer(server, request), tls=tls) as server.port:
        try:
            yield server
        finally:
            server.open_gate.set()


def _answer(server: GitServer, request: Request) -> Reply:
    given = request.headers.get("authorization", "")
    server.requests.append((request.path, given))
    server.at_request()
    server.open_gate.wait(60)
    login = base64.b64encode(f"x-access-token:{server.token}".encode()).decode()
    if server.location:
        return Reply(302, {"Location": server.location + request.path})
    if server.status:
        return Reply(server.status, body=b"no\n")
    if server.token and given != f"Basic {login}":
        return Reply(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"who?\n")
    return _backend(server, request)


def _backend(server: GitServer, request: Request) -> Reply:
    zipped = request.headers.get("content-encoding") == "gzip"
    body = gzip.decompress(request.body) if zipped else request.body
    parts = urlsplit(request.path)
    done = subprocess.run(
        ["git", "http-backend"],
        input=body,
        capture_output=True,
        # It ends with 1 where it has told the client why.
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "x-access-token",
            "REMOTE_ADDR": "127.0.0.1",
        },
    ).stdout
    head, _, content = done.partition(b"\r\n\r\n")
    lines = [line.partition(":") for line in head.decode().split("\r\n")]
    headers = {name: value.strip() for name, _, value in lines}
    status = headers.pop("Status", "200")
    return Reply(int(status.split()[0]), headers, content)
