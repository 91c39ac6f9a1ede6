"""Jobs with logs that may still have to be sent, noted for a restart of the daemon: in history nothing else says so.

A note is not synced to the disk. What a power cut takes of these notes are logs that stay on this machine.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import structlog
from attrs import frozen

from dispatchd.agent.store.durable import FILE_MODE, make_folder
from dispatchd.agent.store.names import file_name
from dispatchd.agent.store.runs import RunFolder
from dispatchd.linux.untrusted_files import read_regular

_MARK: Final = "log.sent"
"""Name of the empty file in the folder of an attempt whose log needs no further calls."""

_LARGEST: Final = 64 * 1024
"""Largest note that is read (bytes): an id has at most 512 characters."""


@frozen
class LogDebts:
    """Notes in a folder, one for each job. Calls block."""

    _folder: Path

    @classmethod
    def open(cls, state_folder: Path) -> Self:
        """Open the notes of a state folder.

        Raises:
            FolderUnusable: It can't be used.
        """
        folder = state_folder / "logs"
        make_folder(folder)
        return cls(folder)

    def add(self, job_id: str) -> None:
        """Note that logs of a job may have to be sent."""
        self._write(self._folder / file_name(job_id), json.dumps(job_id))

    def remove(self, job_id: str) -> None:
        """Remove the note of a job; a missing one is fine."""
        with suppress(OSError):
            (self._folder / file_name(job_id)).unlink()

    def list(self) -> list[str]:
        """Return the ids of the jobs with a note. One that can't be read is left out."""
        ids: list[str] = []
        try:
            files = sorted(self._folder.iterdir())
        except OSError as error:
            structlog.get_logger().warning(
                "log_notes_unreadable", path=str(self._folder), error=error.strerror
            )
            return ids
        for file in files:
            try:
                job_id = json.loads(read_regular(file, _LARGEST) or b"")
            except (OSError, ValueError):
                continue
            if isinstance(job_id, str):
                ids.append(job_id)
        return ids

    def is_paid(self, run: RunFolder, number: int) -> bool:
        """Return whether the log of an attempt needs no further calls."""
        return (run.attempt(number) / _MARK).exists()

    def pay(self, run: RunFolder, number: int) -> None:
        """Note that the log of an attempt needs no further calls."""
        self._write(run.attempt(number) / _MARK, "")
        with suppress(OSError):
            self.saved(run, number).unlink()

    def saved(self, run: RunFolder, number: int) -> Path:
        """Return the file with the log of an attempt without secrets, until it has been sent."""
        return run.attempt(number) / "log.clean"

    def _write(self, file: Path, text: str) -> None:
        try:
            file.write_text(text)
            file.chmod(FILE_MODE)
        except OSError as error:
            # At worst a restarted daemon asks the endpoint how much it has, or keeps a log to itself.
            structlog.get_logger().debug(
                "log_note_failed", path=str(file), error=error.strerror
            )
