"""Cloning from a real git server that demands a token."""

import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from dispatchd.agent.domain.launch import Checkout
from dispatchd.agent.engines.local.checkout import check_out
from dispatchd.errors import WorkspaceFailed
from support.clock import advance
from support.git_server import GitServer, git, git_server
from support.until import until

TOKEN = "token-of-the-installation-0815"
UNKNOWN = "f" * 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "served", token=TOKEN) as found:
        yield found


@pytest.fixture
def shas(server: GitServer) -> list[str]:
    return server.create("o/r")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose git configuration would do harm if anybody read it."""
    folder = tmp_path / "home"
    (folder / "hooks").mkdir(parents=True)
    hook = folder / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {folder}/hooked\n")
    hook.chmod(0o755)
    (folder / ".gitconfig").write_text(
        f"[core]\nhooksPath = {folder}/hooks\n"
        f'[credential]\nhelper = "!touch {folder}/helped"\n'
        '[url "http://127.0.0.1:1/"]\ninsteadOf = http://127.0.0.1\n'
    )
    return folder


async def clone(
    tmp_path: Path, server: GitServer, token: str | None = TOKEN, **what: str
) -> Path:
    workspace, scratch = tmp_path / "run" / "workspace", tmp_path / "run" / "attempt-1"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    checkout = Checkout(url=f"{server.url}/o/r.git", timeout_s=20, **what)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    await check_out(checkout, workspace, token=token, env=env, scratch=scratch)
    return workspace


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("ref", "index", "text"),
    [
        ("", None, "version 3\n"),
        ("refs/heads/main", None, "version 3\n"),
        ("refs/heads/main", 2, "version 3\n"),
        ("refs/heads/main", 0, "version 1\n"),
        ("", 1, "version 2\n"),
        ("refs/pull/7/head", 3, "version 3\n"),
    ],
)
async def test_a_private_repository_is_cloned_at_its_commit(
    tmp_path: Path,
    server: GitServer,
    shas: list[str],
    ref: str,
    index: int | None,
    text: str,
) -> None:
    sha = "" if index is None else shas[index]

    workspace = await clone(tmp_path, server, ref=ref, sha=sha)

    assert (workspace / "README.md").read_text() == text
    assert git(workspace, "rev-parse", "HEAD") == (sha or shas[2])
    assert git(workspace, "remote", "get-url", "origin") == f"{server.url}/o/r.git"
    assert git(workspace, "status", "--porcelain") == ""
    home = tmp_path / "home"
    assert sorted(each.name for each in home.iterdir()) == [".gitconfig", "hooks"]
    assert sorted(each.name for each in workspace.parent.iterdir()) == [
        "attempt-1",
        "workspace",
    ]


async def test_a_server_that_gives_no_single_commit_is_asked_for_the_ref(
    tmp_path: Path, server: GitServer, shas: list[str]
) -> None:
    # Protocol version 0 is where a server refuses what no ref points at.
    git(server.root / "o/r.git", "config", "uploadpack.allowAnySHA1InWant", "false")
    git(server.root / "o/r.git", "config", "protocol.version", "0")

    workspace = await clone(tmp_path, server, ref="refs/heads/main", sha=shas[0])

    assert git(workspace, "rev-parse", "HEAD") == shas[0]


@pytest.mark.parametrize(
    ("token", "what", "words"),
    [
        ("wrong-token", {}, "Authentication failed"),
        (None, {}, "could not read Username|Authentication failed"),
        (TOKEN, {"sha": UNKNOWN}, "not our ref|upload-pack"),
        (TOKEN, {"ref": "refs/heads/none"}, "couldn't find remote ref"),
        (TOKEN, {"sha": UNKNOWN, "ref": "refs/heads/main"}, "git checkout"),
    ],
)
async def test_what_cannot_be_cloned_says_why_without_the_token(
    tmp_path: Path,
    server: GitServer,
    shas: list[str],
    token: str | None,
    what: dict[str, str],
    words: str,
) -> None:
    assert shas

    with pytest.raises(WorkspaceFailed, match=words) as caught:
        await clone(tmp_path, server, token, **what)

    assert "token" not in caught.value.reason.replace("wrong-token", "")


@pytest.mark.parametrize(
    ("status", "words"), [(403, "403"), (404, "not found"), (500, "500")]
)
async def test_a_server_that_refuses_is_quoted(
    tmp_path: Path, server: GitServer, status: int, words: str
) -> None:
    server.status = status

    with pytest.raises(WorkspaceFailed, match=words):
        await clone(tmp_path, server)


async def test_a_redirect_does_not_carry_the_token_away(
    tmp_path: Path, server: GitServer
) -> None:
    with git_server(tmp_path / "other") as other:
        server.location = other.url

        with pytest.raises(WorkspaceFailed):
            await clone(tmp_path, server)

        assert other.requests == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"url": "file:///etc"}, "http or https"),
        ({"url": "http://user:pass@127.0.0.1/o/r.git"}, "without credentials"),
        ({"url": "--upload-pack=x"}, "http or https"),
        ({"sha": "HEAD"}, "isn't a full commit id"),
        ({"sha": "--upload-pack=x"}, "isn't a full commit id"),
        ({"ref": "--upload-pack=x"}, "isn't a ref"),
        ({"ref": "a..b"}, "isn't a ref"),
        ({"ref": "a b"}, "isn't a ref"),
        ({"ref": "+refs/heads/*:refs/heads/*"}, "isn't a ref"),
        ({"ref": "a\nb"}, "isn't a ref"),
        ({"ref": "a.lock"}, "isn't a ref"),
    ],
)
async def test_what_git_must_not_see_is_refused_before_it(
    tmp_path: Path, what: dict[str, str], words: str
) -> None:
    address = {"url": "http://127.0.0.1:1/o/r.git", **what}
    checkout = Checkout(timeout_s=5, **address)

    with pytest.raises(WorkspaceFailed, match=words):
        await check_out(
            checkout, tmp_path / "workspace", token=None, env={}, scratch=tmp_path
        )

    assert list(tmp_path.iterdir()) == []


async def test_without_git_that_is_said(tmp_path: Path) -> None:
    checkout = Checkout(url="http://127.0.0.1:1/o/r.git", timeout_s=5)

    with pytest.raises(WorkspaceFailed, match="git is not installed"):
        await check_out(
            checkout,
            tmp_path / "workspace",
            token=None,
            env={"PATH": str(tmp_path)},
            scratch=tmp_path,
        )


def gits_in(folder: Path) -> list[bytes]:
    """Return the command lines of the live processes that work below a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            inside = (entry / "cwd").resolve().is_relative_to(folder)
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if inside and line and entry.name != str(os.getpid()):
            found.append(line)
    return found


async def test_a_clone_that_takes_too_long_is_ended_with_all_of_it(
    tmp_path: Path, server: GitServer, shas: list[str]
) -> None:
    assert shas
    server.open_gate.clear()
    failures: list[WorkspaceFailed] = []

    async def too_long() -> None:
        with pytest.raises(WorkspaceFailed, match="longer than 20 s") as caught:
            await clone(tmp_path, server)
        failures.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(too_long)
        await until_asked(server)
        assert gits_in(tmp_path / "run") != []
        # Time passes by itself, too, and much of it on a busy machine.
        await advance(10)
        assert failures == []
        await advance(11)

    assert len(failures) == 1
    assert gits_in(tmp_path / "run") == []


async def until_asked(server: GitServer) -> None:
    await until(lambda: server.requests)


async def test_a_cancelled_clone_leaves_no_git(
    tmp_path: Path, server: GitServer, shas: list[str]
) -> None:
    assert shas
    server.open_gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clone, tmp_path, server)
        await until_asked(server)
        tasks.cancel_scope.cancel()

    assert gits_in(tmp_path / "run") == []


async def test_the_token_is_in_no_argument_and_in_no_file(
    tmp_path: Path, server: GitServer, shas: list[str]
) -> None:
    seen: list[bytes] = []
    server.open_gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clone, tmp_path, server)
        await until_asked(server)
        seen += await to_thread.run_sync(gits_in, tmp_path / "run")
        server.open_gate.set()

    assert shas
    assert any(b"remote-http" in line for line in seen)
    assert not any(TOKEN.encode() in line for line in seen)
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


async def test_a_used_workspace_is_replaced(
    tmp_path: Path, server: GitServer, shas: list[str]
) -> None:
    workspace = await clone(tmp_path, server, sha=shas[0])
    (workspace / "left").write_text("from before")
    (workspace.parent / "workspace.checkout-dead").mkdir()

    await clone(tmp_path, server, sha=shas[1])

    assert not (workspace / "left").exists()
    assert git(workspace, "rev-parse", "HEAD") == shas[1]
    assert not (workspace.parent / "workspace.checkout-dead").exists()


SLOW_TO_GO = """#!/bin/sh
# As git-remote-https does, its child outlives it; with so much memory by milliseconds.
[ "$1" = fetch ] || exit 0
{python} -c 'import os, time
held = bytearray(b"x") * (96 << 20)
open("pid", "w").write(str(os.getpid()))
os.rename("pid", "{pid_file}")
time.sleep(300)' &
wait
"""


@pytest.mark.parametrize("when", ["as git starts", "while git runs"])
async def test_a_cancelled_clone_has_ended_with_all_that_git_started(
    tmp_path: Path, when: str
) -> None:
    pid_file, git_here = tmp_path / "pid", tmp_path / "bin" / "git"
    git_here.parent.mkdir()
    git_here.write_text(SLOW_TO_GO.format(python=sys.executable, pid_file=pid_file))
    git_here.chmod(0o755)
    checkout = Checkout(url="http://127.0.0.1:1/o/r.git", timeout_s=20)
    env = {"PATH": f"{git_here.parent}:{os.environ['PATH']}"}
    check = partial(check_out, token=None, env=env, scratch=tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(check, checkout, tmp_path / "workspace"))
        if when == "as git starts":
            while not any(b"fetch" in each for each in gits_in(tmp_path)):
                await anyio.lowlevel.checkpoint()
            # Before the clone goes on: as if this process were slow, and git fast.
            while not pid_file.exists():
                time.sleep(0.01)  # noqa: ASYNC251  # on purpose
        await until(pid_file.exists)
        tasks.cancel_scope.cancel()

    assert files_of(int(pid_file.read_text())) == []


def files_of(pid: int) -> list[str]:
    """Return what a process has open: nothing once it can do no more, even if the kernel has yet to bury it."""
    try:
        return [each.name for each in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
