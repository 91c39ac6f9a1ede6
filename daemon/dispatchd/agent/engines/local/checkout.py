"""Filling a workspace: a shallow clone of one repository at one commit, with a token that touches no disk.

git gets the token by GIT_ASKPASS (gitcredentials(7)): a program in the attempt's folder prints a variable
of git's own environment. The token is in no argument, configuration, address or reflog. git's environment is built,
not inherited, so neither the machine's nor the user's configuration can run a hook, a helper or another address.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Final
from urllib.parse import urlsplit

import anyio
import anyio.abc
from anyio import to_thread
from attrs import field, frozen

from dispatchd.agent.domain.launch import Checkout
from dispatchd.agent.engines.local.git_way import GitWay
from dispatchd.agent.engines.local.process import kill_group
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.errors import WorkspaceFailed
from dispatchd.linux.folder_tree import remove_tree
from dispatchd.protocol.times import duration
from dispatchd.redaction.quoted import quoted
from dispatchd.redaction.redactor import scrub

_ASKPASS: Final = """\
#!/bin/sh
case $1 in
Username*) echo x-access-token ;;
*) printf '%s\\n' "$DISPATCHD_GIT_TOKEN" ;;
esac
"""

_TOKEN: Final = "DISPATCHD_GIT_TOKEN"  # noqa: S105  # a variable's name

_SETTINGS: Final = {
    "advice.detachedHead": "false",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "credential.helper": "",
    "gc.auto": "0",
    # A redirect must not carry the token to another host.
    "http.followRedirects": "false",
    "init.defaultBranch": "main",
    "protocol.allow": "never",
    "protocol.http.allow": "always",
    "protocol.https.allow": "always",
    "submodule.recurse": "false",
}
"""All settings of git that matter here (git-config(1)), passed through its environment."""

_SHA: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF: Final = re.compile(
    r"(?!-)(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|$)))[^\s~^:?*\[\\\x00-\x1f\x7f]+(?<![./])"
)
"""Form of a ref that git-check-ref-format(1) accepts, and that is no option."""

_REFUSED: Final = re.compile(
    r"repository .* not found|returned error: (?:401|403|404|410|422)|Authentication failed"
    r"|could not read (?:Username|Password)",
    re.IGNORECASE,
)
"""Messages of git when a server has refused this caller or doesn't know the repository. All others may pass: a
commit may also reach the server a moment after the event about it."""

_REACHED: Final = re.compile(
    r"not found|returned error: (?!407|5)\d{3}|Authentication failed|could not read (Username|Password)|access denied",
    re.IGNORECASE,
)
"""Messages of git when a server has answered about a repository that it doesn't have, or doesn't show."""

_DEEPER: Final = 50
"""Commits of a ref that are fetched if a server doesn't serve a single commit (count)."""

_KEPT: Final = 64 * 1024
"""Longest part of git's output that is read (bytes)."""

_LONGEST_REASON: Final = 300
"""Longest part of it that is reported (characters)."""

_REMOVE_S: Final = 60.0
"""Longest wait for the removal of a folder that is no longer needed (seconds)."""

_KILL_S: Final = 5.0
"""Longest wait for the end of a stopped git and its children (seconds)."""


async def check_out(
    checkout: Checkout,
    workspace: Path,
    *,
    token: str | None,
    env: Mapping[str, str],
    scratch: Path,
    way: GitWay | None = None,
) -> None:
    """Replace a workspace by a shallow clone of a repository at its commit.

    Args:
        checkout: The repository and commit to clone.
        workspace: The folder to fill; its content is removed.
        token: Token for a private repository.
        env: The variables that git gets beside its own: PATH, HOME and the like.
        scratch: A folder of this attempt, mode 0700, for the askpass program and the CAs.
        way: Git's connection to the server; None: a direct one.

    Raises:
        WorkspaceFailed: It can't be done, or takes too long; the workspace is empty or as before.
    """
    problem = _problem(checkout)
    if problem:
        raise WorkspaceFailed(url=checkout.url, reason=problem, refused=True)
    try:
        # Not in the workspace itself: a git that survived a killed daemon may still be writing there.
        await _remove(workspace.parent.glob(f"{workspace.name}.checkout-*"))
        there = await to_thread.run_sync(
            (way or GitWay()).settings, checkout.url, scratch
        )
        aside = await to_thread.run_sync(_prepare, workspace, scratch)
        git = _Git(
            url=checkout.url,
            folder=aside,
            secrets=(*there.secrets, *([token] if token else [])),
            env=_environment(env, token, scratch, there.settings),
        )
        with anyio.move_on_after(checkout.timeout_s) as scope:
            await _fill(git, checkout)
        if scope.cancelled_caught:
            reason = f"it took longer than {duration(checkout.timeout_s)}"
            raise WorkspaceFailed(url=checkout.url, reason=reason)
        await _remove([await to_thread.run_sync(_replace, workspace, aside)])
    except OSError as error:
        raise WorkspaceFailed(url=checkout.url, reason=str(error.strerror)) from error
    except ValueError as error:
        raise WorkspaceFailed(url=checkout.url, reason=str(error)) from error


async def try_way(
    url: str, way: GitWay, *, env: Mapping[str, str], scratch: Path, within_s: float
) -> str:
    """Return the reason why git can't reach a server of repositories, or "". The server may well refuse this caller.

    Args:
        url: The address below which repositories are.
        way: Git's connection to it.
        env: As for `check_out`.
        scratch: A new folder, mode 0700.
        within_s: Time limit (seconds).
    """
    # No repository has that name, and none is needed: any answer of the server proves the connection.
    address = f"{url}/dispatchd/doctor.git"
    try:
        there = await to_thread.run_sync(way.settings, address, scratch)
        git = _Git(
            url=address,
            folder=scratch,
            secrets=there.secrets,
            env=_environment(env, None, scratch, there.settings),
        )
        with anyio.fail_after(within_s):
            await git.run("ls-remote", "--quiet", "--end-of-options", address)
    except WorkspaceFailed as error:
        return "" if _REACHED.search(error.reason) else error.reason
    except TimeoutError:
        return f"no answer within {duration(within_s)}"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


@frozen(kw_only=True)
class _Git:
    """git in one folder, for one repository."""

    url: str
    folder: Path
    secrets: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)

    async def run(self, *arguments: str) -> str:
        """Return the output of a git command.

        Raises:
            WorkspaceFailed: The command fails; carries git's message.
        """
        try:
            # A cancellation in here would end git alone, without the processes that it may have started by then.
            with anyio.CancelScope(shield=True):
                process = await anyio.open_process(
                    ["git", *arguments],
                    cwd=self.folder,
                    env=dict(self.env),
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=STDOUT,
                    start_new_session=True,
                )
        except FileNotFoundError as error:
            reason = "git is not installed (there is none on PATH)"
            raise WorkspaceFailed(url=self.url, reason=reason, refused=True) from error
        try:
            said = await _read(process)
            code = await process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                # This also ends git's children: git-remote-https survives git.
                kill_group(process.pid)
                with anyio.move_on_after(_KILL_S):
                    # The output ends when the last of them is gone, which may be after git itself.
                    await _read(process)
                with anyio.move_on_after(_KILL_S):
                    await process.aclose()
        if code != 0:
            reason = f"git {arguments[0]}: {self._telling(said, code)}"
            raise WorkspaceFailed(
                url=self.url, reason=reason, refused=bool(_REFUSED.search(reason))
            )
        return said

    def _telling(self, said: str, code: int) -> str:
        """Return the most informative line of git's output, without secrets."""
        lines = [line.strip() for line in scrub(said, self.secrets).splitlines()]
        lines = [line for line in lines if line]
        telling = [
            line for line in lines if line.startswith(("fatal:", "error:", "remote:"))
        ]
        return quoted((telling or lines or [f"exit code {code}"])[-1], _LONGEST_REASON)


async def _fill(git: _Git, checkout: Checkout) -> None:
    await git.run("init", "--quiet", "--template=")
    await git.run("remote", "add", "origin", checkout.url)
    await _fetch(git, checkout)
    await git.run("checkout", "--quiet", "--detach", checkout.sha or "FETCH_HEAD")


async def _fetch(git: _Git, checkout: Checkout) -> None:
    what = checkout.sha or checkout.ref or "HEAD"
    try:
        await _fetch_one(git, what, depth=1)
    except WorkspaceFailed:
        # A server may refuse to serve a commit that no ref points at (git-config(1), uploadpack.allowAnySHA1InWant).
        if not checkout.sha or not checkout.ref:
            raise
        await _fetch_one(git, checkout.ref, depth=_DEEPER)


async def _fetch_one(git: _Git, what: str, *, depth: int) -> None:
    await git.run(
        "fetch",
        "--quiet",
        f"--depth={depth}",
        "--no-tags",
        "--no-recurse-submodules",
        "--end-of-options",
        "origin",
        what,
    )


async def _read(process: anyio.abc.Process) -> str:
    tail = b""
    if process.stdout is not None:
        async for chunk in process.stdout:
            tail = (tail + chunk)[-_KEPT:]
    return tail.decode(errors="replace")


def _problem(checkout: Checkout) -> str:
    """Return the reason why a checkout is invalid, before git sees it; empty if it is valid."""
    url = urlsplit(checkout.url)
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
        return "its address must be http or https, with a host and without credentials"
    if checkout.sha and not _SHA.fullmatch(checkout.sha):
        return f"{checkout.sha!r:.80} isn't a full commit id"
    if checkout.ref and not _REF.fullmatch(checkout.ref):
        return f"{checkout.ref!r:.80} isn't a ref"
    return ""


def _environment(
    env: Mapping[str, str],
    token: str | None,
    scratch: Path,
    way: Mapping[str, str],
) -> dict[str, str]:
    pairs = {**_SETTINGS, **way}
    settings = {
        f"GIT_CONFIG_{kind}_{number}": text
        for number, pair in enumerate(pairs.items())
        for kind, text in zip(("KEY", "VALUE"), pair, strict=True)
    }
    return {
        **env,
        **settings,
        "GIT_CONFIG_COUNT": str(len(pairs)),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": str(scratch / "askpass") if token else "/bin/false",
        **({_TOKEN: token} if token else {}),
    }


def _prepare(workspace: Path, scratch: Path) -> Path:
    """Return a new folder beside the workspace, and write the askpass program."""
    askpass = scratch / "askpass"
    askpass.write_text(_ASKPASS)
    askpass.chmod(0o700)
    return _new_folder(workspace)


def _new_folder(workspace: Path) -> Path:
    return Path(
        tempfile.mkdtemp(prefix=f"{workspace.name}.checkout-", dir=workspace.parent)
    )


async def _remove(folders: Iterable[Path]) -> None:
    """Remove folders that are no longer needed. A cancelled caller doesn't wait; the rest goes with the workspace."""
    for folder in folders:
        with suppress(TimeoutError):
            await OwnThreads().run(
                folder,
                partial(remove_tree, folder),
                within_s=_REMOVE_S,
            )


def _replace(workspace: Path, aside: Path) -> Path:
    """Put a folder in the place of the workspace. Return the new path of the old workspace."""
    old = _new_folder(workspace)
    if workspace.exists():
        workspace.rename(old)
    aside.rename(workspace)
    return old
