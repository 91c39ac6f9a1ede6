"""Files of an attempt on the file system that the nodes share: its claim, its exit code, its launch. All of it blocks.

A claim is made with O_EXCL or link(2), which are atomic on NFS (version 3 and newer), Lustre and GPFS.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.agent.engines.start_script import (
    CLAIM,
    EXIT,
    LAUNCH,
    LEFT,
    SECRETS,
    STOP,
    STOPPED,
    UNTIL,
)
from dispatchd.linux.untrusted_files import read_regular

_DAEMON: Final = b"daemon\n"
"""Content of a claim of the daemon; that of a job is its id."""

_NUMBER: Final = re.compile(rb"[0-9]{1,12}\n")

_CODE: Final = re.compile(rb"[0-9]{1,3}\n")

_CODES: Final = range(256)

_LONGEST: Final = 32
"""Largest claim or exit file that is read (bytes)."""


class Claim(Enum):
    """Owner of the claim of an attempt."""

    NOBODY = "nobody's"
    """There is none, or its script has begun to write it and got no further."""
    JOB = "the job's"
    DAEMON = "the daemon's"


@frozen(kw_only=True)
class Legacy:
    """Traces that a script has left behind.

    `has_left` is true if it was killed, and nothing of its command runs any more. `was_stopped` is true if it was told to
    end its command, `was_ordered` if the daemon has told it. The exit code isn't the command's own choice then.
    """

    code: int | None = None
    has_left: bool = False
    was_stopped: bool = False
    was_ordered: bool = False


@frozen
class Files:
    """Files of one start of an attempt."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, link: Path) -> Self:
        """Return a new folder for a start, and the short way to it.

        Raises:
            OSError: It can't be made.
        """
        folder.mkdir(mode=0o700)
        link.parent.mkdir(mode=0o700, exist_ok=True)
        link.symlink_to(os.path.relpath(folder, link.parent))
        return cls(folder)

    def write_launch(self, text: str, *, has_secrets: bool) -> None:
        """Write what the batch script reads.

        Raises:
            OSError: The disk refuses it.
        """
        if has_secrets:
            (self.folder / SECRETS).touch(mode=0o600)
        with _written(self.folder / LAUNCH) as fd, os.fdopen(fd, "wb") as file:
            file.write(text.encode(errors="surrogateescape"))
            file.flush()
            os.fsync(file.fileno())

    def permit(self, until_s: int) -> None:
        """Let the script begin until a time (seconds since the epoch).

        Raises:
            OSError: The disk refuses it.
        """
        aside = self.folder / f"{UNTIL}.aside"
        aside.write_text(f"{until_s}\n")
        aside.replace(self.folder / UNTIL)

    def take(self) -> Claim:
        """Decide that the attempt doesn't begin, unless that is decided already. Return whose claim stands.

        Raises:
            OSError: Nobody knows.
        """
        # A claim stays as it is, and a full disk must not hide it.
        claim = self.claim
        if claim is Claim.JOB:
            return claim
        # A link is made with its content or not at all; the script's claim may be empty for a moment.
        try:
            with self._laid_aside() as aside:
                (self.folder / CLAIM).hardlink_to(aside)
        except (FileExistsError, FileNotFoundError):
            # Without its folder no script begins, and nobody claims it.
            return self.claim
        # Its engine may have a queue that outlives a power cut, which must not undo this.
        sync(self.folder)
        self.remove_launch()
        return Claim.DAEMON

    def remove_launch(self) -> None:
        """Remove what the script would read, with its secrets."""
        with suppress(FileNotFoundError):
            (self.folder / LAUNCH).unlink()

    @property
    def claim(self) -> Claim:
        """Owner of the claim."""
        content = self._read(CLAIM)
        if content == _DAEMON:
            return Claim.DAEMON
        return Claim.JOB if _NUMBER.fullmatch(content) else Claim.NOBODY

    def last_claim(self) -> Claim:
        """Return whose claim stands when no script can begin any more, past what a client of NFS may have cached."""
        with suppress(FileNotFoundError), self._laid_aside():
            pass
        return self.claim

    @property
    def begun_ns(self) -> int | None:
        """Stamp of the beginning (nanoseconds since the epoch), or None.

        Raises:
            OSError: Nobody knows.
        """
        try:
            stamp = (self.folder / CLAIM).lstat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if self.claim is Claim.DAEMON else stamp

    @property
    def exit_code(self) -> int | None:
        """Exit code that the script has left, or None."""
        content = self._read(EXIT)
        code = int(content) if _CODE.fullmatch(content) else None
        return code if code in _CODES else None

    @property
    def has_left(self) -> bool:
        """True if the script was killed, and nothing of its command runs any more."""
        return (self.folder / LEFT).exists()

    @property
    def legacy(self) -> "Legacy":
        """Everything that says how its script has ended."""
        was_stopped = (self.folder / STOPPED).exists()
        return Legacy(
            code=self.exit_code,
            has_left=self.has_left,
            was_stopped=was_stopped,
            was_ordered=was_stopped and (self.folder / STOP).exists(),
        )

    @property
    def had_secrets(self) -> bool:
        """True if the attempt was given secrets."""
        return (self.folder / SECRETS).exists()

    @contextmanager
    def _laid_aside(self) -> Iterator[Path]:
        """Lay a claim of the daemon aside, under a name that nothing else has: what is linked is never written again."""
        aside = self.folder / f"claim.{secrets.token_hex(4)}"
        try:
            with _written(aside) as fd, os.fdopen(fd, "wb") as file:
                file.write(_DAEMON)
                file.flush()
                os.fsync(file.fileno())
            yield aside
        finally:
            with suppress(OSError):
                aside.unlink()

    def _read(self, name: str) -> bytes:
        try:
            return read_regular(self.folder / name, _LONGEST) or b""
        except FileNotFoundError:
            return b""


@contextmanager
def _written(path: Path) -> Iterator[int]:
    yield os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def sync(folder: Path) -> None:
    """Make what was made or removed in a folder outlive a power cut; OSError if the disk refuses it. Blocks."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(link: Path) -> None:
    """Remove the short way to an attempt, and nothing behind it."""
    with suppress(OSError):
        link.unlink()
