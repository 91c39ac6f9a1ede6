"""Places and names of the starts of an engine beyond this machine's own processes, and what it needs for each."""

import glob
import math
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

import anyio
import structlog
from anyio import to_thread
from attrs import field, frozen

from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.start_claims import Claim, Files, remove, sync
from dispatchd.errors import SpawnFailed
from dispatchd.linux.clock import TimeSource

PREFIX: Final = "dd-"
"""Beginning of the names of all starts of dispatchd, from any machine."""

_MARGIN_S: Final = 900.0
"""Time after its limit at which a start is lost that has begun and that its engine has forgotten (seconds)."""

_CLAIM_S: Final = 1.0
"""Pause between two looks for the claim of a script that is about to begin (seconds)."""

_PROLOG_S: Final = 3600.0
"""Longest wait for the claim of a script that runs for its engine (seconds): the prolog of a node comes before it."""


class Supplier(Protocol):
    """Source of what every attempt needs before its start, and of the daemon's environment."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The daemon's own environment."""
        ...

    async def supply(self, launch: Launch) -> dict[str, str]:
        """Read the secrets, fill the workspace, and return the environment; RunError if that can't be done."""
        ...

    def knows(self, folder: Path) -> bool:
        """Return whether the secrets of an attempt are known."""
        ...


def prefix_of(state_folder: Path, engine: str, installation: str = "") -> str:
    """Return the beginning of the names of all starts of an engine that come from a state folder.

    Without the id of the installation another machine may have the same, by the names of its host and folder.
    """
    place = f"{socket.gethostname()}:{state_folder}:{engine}"
    if installation:
        place = f"{place}:{installation}"
    digest = sha256(place.encode(errors="surrogateescape")).hexdigest()[:12]
    return f"{PREFIX}{digest}-"


def installation_of(state_folder: Path) -> str:
    """Return the id of a state folder, made at the first call; empty if the disk refuses it. Blocks."""
    file, new = state_folder / "installation", secrets.token_hex(16)
    aside = state_folder / f"installation.{new}"
    try:
        if not file.exists():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(aside, flags, 0o600), "w") as text:
                text.write(new)
                text.flush()
                os.fsync(text.fileno())
            aside.rename(file)
            sync(state_folder)
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        return ""


@frozen(kw_only=True)
class Starts:
    """Names of the starts of one engine, and their files."""

    engine: str
    folder: Path
    """Folder of short ways to attempts: paths in it hold nothing of a job."""
    prefix: str
    """Beginning of the names of all starts that come from this state folder."""
    former_prefix: str = field()
    """The same of releases that had no id of an installation; other machines' may begin so too."""
    time: TimeSource

    @former_prefix.default
    def _no_former(self) -> str:
        return self.prefix

    def now(self) -> datetime:
        """Return the wall-clock time."""
        return datetime.fromtimestamp(self.time.wall(), UTC)

    def new_name(self) -> str:
        """Return a name that no start has had."""
        return self.prefix + secrets.token_hex(8)

    def link(self, name: str) -> Path:
        """Return the short way to the files of a start."""
        return self.folder / name

    def names(self) -> set[str]:
        """Return the names of all starts of this engine that have files here. Blocks."""
        try:
            return {
                path.name
                for path in self.folder.iterdir()
                if path.name.startswith((self.prefix, self.former_prefix))
            }
        except OSError:
            return set()

    def is_here(self, name: str) -> bool:
        """Return whether a start is this machine's, by its prefix, or by its files if it has the former one. Blocks."""
        if name.startswith(self.prefix):
            return True
        if os.sep in name or not name.startswith(self.former_prefix):
            return False
        attempts = self.folder.parent.glob(f"runs/*/attempt-*/{glob.escape(name)}")
        return os.path.lexists(self.link(name)) or any(attempts)

    def remove_launch(self, name: str) -> None:
        """Remove the launch of a start that nobody owns, with its secrets. Blocks."""
        with suppress(OSError):
            Files(self.link(name)).remove_launch()

    def remove_start(self, name: str) -> None:
        """Remove the launch of a start that nobody owns, and the short way to it. Blocks."""
        self.remove_launch(name)
        remove(self.link(name))

    async def clear(self, name: str, attempt_folder: Path) -> None:
        """Remove what is left in the files of a start that has ended."""
        files = self.files(name, attempt_folder)
        await to_thread.run_sync(files.remove_launch)
        await to_thread.run_sync(remove, self.link(name))

    def may_run(self, begun_ns: int | None, limit_s: float) -> bool:
        """Return whether a start that its engine has forgotten may still run.

        Args:
            begun_ns: Stamp of its script's claim (nanoseconds since the epoch); None if nobody can read one.
            limit_s: Its time limit (seconds).
        """
        if begun_ns is None:
            return False
        return self.time.wall() < begun_ns / 1e9 + limit_s + _MARGIN_S

    async def is_lost(self, files: Files, limit_s: float, *, in_time: bool) -> bool:
        """Return whether a script has begun, and ended without its exit code, as far as its files tell.

        Args:
            files: Files of its start.
            limit_s: Its time limit (seconds).
            in_time: True if its engine may still say more: then only a script that was killed counts.

        Raises:
            OSError: Its files can't be used now.
        """
        if await to_thread.run_sync(lambda: files.claim) is not Claim.JOB:
            return False
        if await to_thread.run_sync(lambda: files.has_left):
            return True
        stamp = await to_thread.run_sync(lambda: files.begun_ns)
        return not in_time and not self.may_run(stamp, limit_s)

    def files(self, name: str, attempt_folder: Path) -> Files:
        """Return the files of a start."""
        return Files(attempt_folder / name)

    async def had_secrets(self, name: str, attempt_folder: Path) -> bool:
        """Return whether a start was given secrets."""
        files = self.files(name, attempt_folder)
        return await to_thread.run_sync(lambda: files.had_secrets)

    async def until_claimed(
        self, name: str, attempt_folder: Path, ended: anyio.Event
    ) -> int | None:
        """Wait until a script has claimed its start, or that has ended, or `_PROLOG_S` has passed.

        Returns:
            The claim's stamp (nanoseconds since the epoch), if there is one that can be read.
        """
        files = self.files(name, attempt_folder)
        stamp: int | None = None
        with anyio.move_on_after(_PROLOG_S):
            while stamp is None:
                is_last = ended.is_set()
                with suppress(OSError):
                    stamp = await to_thread.run_sync(lambda: files.begun_ns)
                if is_last:
                    break
                with anyio.move_on_after(0 if stamp else _CLAIM_S):
                    await ended.wait()
        return stamp

    async def has_begun(
        self, name: str, attempt_folder: Path, begun: anyio.Event
    ) -> bool:
        """Return whether a script has claimed its start, and set `begun` then. True if nobody can read that now, which is logged."""
        files = self.files(name, attempt_folder)
        try:
            claim = await to_thread.run_sync(lambda: files.claim)
        except OSError as error:
            structlog.get_logger().error(  # a disk's refusal is no bug
                "attempt_unreadable", name=name, error=str(error)
            )
            return True
        if claim is Claim.JOB:
            begun.set()
        return claim is Claim.JOB

    async def permit(
        self, name: str, attempt_folder: Path, left_s: float, *, by: str
    ) -> None:
        """Let a start that has not begun begin within a time (seconds), and not later: its script looks at the clock.

        Args:
            name: Its name.
            attempt_folder: The folder of its attempt.
            left_s: The time; infinite for no limit.
            by: Program by which it was started, for the error.

        Raises:
            SpawnFailed: The disk refuses it; the permission before it expires.
        """
        if math.isinf(left_s):
            return
        files, until_s = (
            self.files(name, attempt_folder),
            int(self.time.wall() + left_s),
        )
        try:
            await to_thread.run_sync(files.permit, until_s)
        except OSError as error:
            reason = f"its permission to begin can't be written: {error.strerror}"
            raise SpawnFailed(command=by, reason=reason) from error

    async def is_taken_back(self, name: str, attempt_folder: Path) -> bool:
        """Take a start back if it has not begun; return whether it never will. A disk that refuses it is logged."""
        files = self.files(name, attempt_folder)
        try:
            return await to_thread.run_sync(files.take) is Claim.DAEMON
        except OSError as error:
            structlog.get_logger().error(  # a disk's refusal is no bug
                "attempt_unreadable", name=name, error=str(error)
            )
            return False
