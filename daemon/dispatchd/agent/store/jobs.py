"""The tracked jobs: an index in memory over one durable file for each job.

Everything here is synchronous; `agent/tracking/tracker.py` calls it from worker threads. A job is in `jobs/`
until its finish has been acknowledged, then in `history/`. A crash in that move, or when a job that was handed
back comes again, leaves it in both; then the record that was changed last is valid.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final, Self

import structlog
from attrs import define, field, frozen

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import ENDS, Phase
from dispatchd.agent.store.codec import decode, encode
from dispatchd.agent.store.disk_reserve import Reserve, is_no_room
from dispatchd.agent.store.durable import DurableFolder, make_folder, sweep
from dispatchd.agent.store.names import file_name, identifier
from dispatchd.errors import (
    FolderUnusable,
    RecordUnreadable,
    StoreUnavailable,
)
from dispatchd.linux.untrusted_files import is_missing, read_regular

_SUFFIX: Final = ".json"

_LARGEST: Final = 64 * 1024 * 1024
"""Part of a record that is read (bytes): more than the largest reply can make of one."""


@frozen(kw_only=True)
class Quarantined:
    """Record that could not be read, and the place that it was moved to."""

    path: Path
    moved_to: Path
    reason: str


def _nobody(_: float) -> None:
    """Do nothing with a duration."""


@define
class JobStore:
    """All tracked jobs of one state folder. Safe to call from many threads; one writer for each job."""

    _jobs: DurableFolder
    _history: DurableFolder
    _quarantine: Path
    _reserve: Reserve
    _on_put: Callable[[float], object]
    _records: dict[str, TrackedJob] = field(factory=dict, init=False)
    _by_phase: dict[Phase, dict[str, TrackedJob]] = field(init=False)
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    @_by_phase.default
    def _no_phases(self) -> dict[Phase, dict[str, TrackedJob]]:
        return {phase: {} for phase in Phase}

    @classmethod
    def open(
        cls, folder: Path, on_put: Callable[[float], object] = _nobody
    ) -> tuple[Self, list[Quarantined]]:
        """Open a state folder, create what is missing, and load every tracked job.

        `on_put` is called with the duration of each put (seconds). The caller holds the folder's lock: half-written files of other processes are removed.

        Returns:
            The store, and the records that were moved away because they can't be read.

        Raises:
            FolderUnusable: A folder can't be used.
            RecordTooNew: A newer release wrote a record; nothing has been changed.
        """
        quarantine = folder / "quarantine"
        make_folder(quarantine)
        store = cls(
            DurableFolder.open(folder / "jobs"),
            DurableFolder.open(folder / "history"),
            quarantine,
            Reserve.open(folder),
            on_put,
        )
        for path in (folder, folder / "jobs", folder / "history"):
            sweep(path)
        try:
            return store, store._load()
        except StoreUnavailable as error:
            store.close()
            raise FolderUnusable(folder=folder, error=error.error) from error
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the descriptors."""
        self._jobs.close()
        self._history.close()

    def get(self, job_id: str) -> TrackedJob | None:
        """Return a tracked job, or None."""
        with self._guard:
            return self._records.get(job_id)

    def all(self) -> list[TrackedJob]:
        """Return every tracked job, sorted by id."""
        with self._guard:
            return [self._records[job_id] for job_id in sorted(self._records)]

    def in_phase(self, *phases: Phase) -> list[TrackedJob]:
        """Return the tracked jobs in some phases, oldest first."""
        with self._guard:
            records = [
                record for phase in phases for record in self._by_phase[phase].values()
            ]
        return sorted(records, key=lambda record: record.received_at)

    def count(self, *phases: Phase) -> int:
        """Return the number of tracked jobs in some phases."""
        with self._guard:
            return sum(len(self._by_phase[phase]) for phase in phases)

    def has_past(self, job_id: str) -> bool:
        """Return whether a job may be in history. A look at the disk, which costs less than a thread."""
        return not is_missing(self._history.path / (file_name(job_id) + _SUFFIX))

    def past(self, job_id: str) -> TrackedJob | None:
        """Return a job from history, or None. Reads the disk.

        Raises:
            RecordUnreadable: Its file exists, and can't be understood.
        """
        try:
            return _read(self._history.path, file_name(job_id) + _SUFFIX)
        except FileNotFoundError:
            return None

    def is_quarantined(self, job_id: str) -> bool:
        """Return whether a record of a job was moved away because it can't be read. Reads the disk."""
        try:
            return (self._quarantine / (file_name(job_id) + _SUFFIX)).exists()
        except OSError:
            # A folder that can't be looked into keeps no job away.
            return False

    def id_behind(self, name: str) -> str | None:
        """Return the id of the job with a file name (`names.py`), or None if that can't be known."""
        job_id = identifier(name)
        if job_id is None:
            job_id = next(
                (known_id for known_id in self._ids() if file_name(known_id) == name),
                None,
            )
        if job_id is None:
            with suppress(FileNotFoundError, RecordUnreadable):
                job_id = _read(self._history.path, name + _SUFFIX).job.id
        return job_id

    def _ids(self) -> list[str]:
        with self._guard:
            return list(self._records)

    def put(self, record: TrackedJob) -> None:
        """Make a record durable: a tracked job in `jobs/`, one in phase history in `history/`.

        Raises:
            StoreUnavailable: Nothing has changed for the caller; put it again.
        """
        name = file_name(record.job.id) + _SUFFIX
        began = time.perf_counter()
        if record.phase is Phase.HISTORY:
            self._write(self._history, name, record)
            self._jobs.remove(name)
        else:
            self._write(self._jobs, name, record)
            if record.job.id not in self._records:
                # Of a job that was handed back and has come again: until this is removed, the later record is valid.
                self._history.remove(name, durably=True)
        self._on_put(time.perf_counter() - began)
        self._index(record)

    def keep(self, record: TrackedJob) -> None:
        """Make a record of a tracked job the newest one in memory alone; its next put makes it durable."""
        self._index(record)

    def _write(self, folder: DurableFolder, name: str, record: TrackedJob) -> None:
        """Write a record. One that ends a run on a full disk takes its space from the reserve.

        Raises:
            StoreUnavailable: Nothing has changed for the caller.
        """
        data = encode(record)
        try:
            folder.put(name, data)
        except StoreUnavailable as error:
            last = record.steps[-1].event if record.steps else None
            ends = record.job.is_cancel or last in ENDS
            if not (
                ends and is_no_room(error) and self._reserve.put(folder, name, data)
            ):
                raise
        else:
            self._reserve.refill()

    def newest_past(self, count: int) -> list[TrackedJob]:
        """Return `count` jobs of history, the latest first. Reads the disk."""
        folder = self._history.path
        return list(islice(_readable(folder, _newest_first(folder)), count))

    def past_like(self, beginning: str) -> list[TrackedJob]:
        """Return the jobs of history whose ids begin with a text, sorted by file name. Reads the disk."""
        # Encoding works character by character, so a file name begins as its id does; except for hashed names.
        start = file_name(beginning)
        folder = self._history.path
        names = [name for name in _names(folder) if name.startswith(start)]
        return [
            record
            for record in _readable(folder, names)
            if record.job.id.startswith(beginning)
        ]

    def past_before(self, before: datetime) -> list[TrackedJob]:
        """Return the jobs that were moved to history before a time. Reads the disk."""
        records = []
        folder = self._history.path
        for name in _names(folder):
            # A young file needs no reading. An unreadable one is never counted as old.
            with suppress(OSError, RecordUnreadable):
                if (folder / name).stat().st_mtime < before.timestamp():
                    record = _read(folder, name)
                    # A run can set the times of a file (docs/security.md), and nothing in it.
                    if record.changed_at < before:
                        records.append(record)
        return records

    def forget(self, record: TrackedJob) -> None:
        """Remove a job from history, durably.

        Raises:
            StoreUnavailable: It may still be stored.
        """
        self._history.remove(file_name(record.job.id) + _SUFFIX, durably=True)

    def _index(self, record: TrackedJob) -> None:
        with self._guard:
            known = self._records.pop(record.job.id, None)
            if known is not None:
                del self._by_phase[known.phase][known.job.id]
            if record.phase is not Phase.HISTORY:
                self._records[record.job.id] = record
                self._by_phase[record.phase][record.job.id] = record

    def _load(self) -> list[Quarantined]:
        moved = []
        jobs, history = self._jobs.path, self._history.path
        for name in _names(jobs):
            record, problem = _readable_or_problem(jobs, name)
            if record is None:
                moved.append(self._move_away(jobs / name, problem))
                continue
            past, problem = None, ""
            # Without an exception for each job that has no past: that is nearly all of them.
            if os.path.lexists(f"{history}/{name}"):
                past, problem = _readable_or_problem(history, name)
            if past is not None and past.changed_at >= record.changed_at:
                self._drop(self._jobs, name, "history has a later one")
                continue
            if past is not None:
                self._drop(self._history, name, "the job has come again")
            elif problem:
                moved.append(self._move_away(history / name, problem))
            self._index(record)
        return moved

    def _drop(self, folder: DurableFolder, name: str, reason: str) -> None:
        structlog.get_logger().info(
            "record_dropped", path=str(folder.path / name), reason=reason
        )
        folder.remove(name, durably=True)

    def _move_away(self, path: Path, reason: str) -> Quarantined:
        target = self._quarantine / path.name
        number = 0
        while target.exists():
            number += 1
            target = self._quarantine / f"{path.stem}.{number}{_SUFFIX}"
        try:
            path.rename(target)
        except OSError as error:
            # Such as an immutable file: it is skipped at each start, and named.
            target, reason = path, f"{reason}; it can't be moved: {error.strerror}"
        return Quarantined(path=path, moved_to=target, reason=reason)


def read_all(folder: Path) -> Iterator[TrackedJob]:
    """Yield every readable record of a state folder, tracked and past, without taking its lock.

    For reading beside a running daemon: files are whole, so a record is at worst a moment old.

    Raises:
        FolderUnusable: This user may not read it.
    """
    seen = set()
    for part in ("jobs", "history"):
        try:
            names = _names(folder / part)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise FolderUnusable(folder=folder / part, error=error) from error
        for record in _readable(folder / part, names):
            if record.job.id not in seen:
                seen.add(record.job.id)
                yield record


def _names(folder: Path) -> list[str]:
    """Return the sorted names of the records in a folder; half-written files aren't among them.

    Names, because a path costs as much as the reading of a small record.

    Raises:
        OSError: The folder may not be read: `glob` would return nothing.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208  # see above
    except FileNotFoundError:
        # Somebody has removed it; it is made again with its next record.
        return []
    return [
        name for name in names if name.endswith(_SUFFIX) and not name.startswith(".")
    ]


def _newest_first(folder: Path) -> list[str]:
    ages = []
    for name in _names(folder):
        # The record may be pruned after it was listed, and anything else may lie here, such as a link to itself.
        with suppress(OSError):
            ages.append(((folder / name).stat().st_mtime_ns, name))
    return [name for _, name in sorted(ages, reverse=True)]


def _readable(folder: Path, names: Iterable[str]) -> Iterator[TrackedJob]:
    for name in names:
        # The record may move to history, or to quarantine, between the listing and the reading.
        with suppress(FileNotFoundError, RecordUnreadable):
            yield _read(folder, name)


def _readable_or_problem(folder: Path, name: str) -> tuple[TrackedJob | None, str]:
    """Return a record, or None and the reason why it can't be read; a missing one has no reason."""
    try:
        return _read(folder, name), ""
    except FileNotFoundError:
        return None, ""
    except RecordUnreadable as error:
        return None, error.reason


def _read(folder: Path, name: str) -> TrackedJob:
    path = f"{folder}/{name}"
    try:
        data = read_regular(path, _LARGEST)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordUnreadable(
            path=path, reason=error.strerror or str(error)
        ) from error
    if data is None:
        raise RecordUnreadable(path=path, reason="it isn't a regular file")
    record = decode(data, path=path)
    if file_name(record.job.id) + _SUFFIX != name:
        raise RecordUnreadable(
            path=path, reason=f"it holds another job's record: {record.job.id}"
        )
    return record
