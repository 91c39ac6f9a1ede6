"""Artifacts of jobs: listed by machines, brought in chunks, read by people, removed when they are old.

A machine lists the files of an attempt, and brings the bytes of those that the hub doesn't have from it. Bytes of others
count only once the machine has brought them, too: who knows a hash doesn't get at the file. What has its hash is stored
once, however many jobs have it, and goes with the last row that names it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import structlog
from attrs import asdict, frozen
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from dispatchd.hub.config.load import ArtifactSettings
from dispatchd.hub.domain.errors import ArtifactsFull, NoSuchArtifact, OlderArtifacts
from dispatchd.hub.storage.artifacts.files import ArtifactFiles, size_of
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.schema import ARTIFACTS
from dispatchd.hub.storage.shared_folder import is_shared_folder
from dispatchd.protocol.uploads.artifacts import Artifact, ArtifactChunk, ArtifactList

ARTIFACT_MARK: Final = "folder of artifacts"
"""Name of the mark with the id of the folder that the hub processes of a database share."""

_LEAST_FREE: Final = 256 << 20
"""Free space that artifacts leave on their disk (bytes): the database may be on the same one."""

_GRACE_S: Final = 3600.0
"""Time for which a file stays that no row names (seconds): its row may be about to be written."""

_PARTS_S: Final = 2 * 86_400.0
"""Time for which an incomplete file is kept (seconds): machines send for a day after the end of a job."""

_OF: Final = ARTIFACTS.c


@frozen(kw_only=True)
class Sender:
    """Machine that sends artifacts of a job: its server id, and the number of its newest claim of it."""

    job_id: str
    machine: str
    claim: int


@frozen(kw_only=True)
class Standing:
    """Artifact as the hub has it: up to where (bytes), whether all of it, or why it takes none."""

    file: Artifact
    offset: int = 0
    is_whole: bool = False
    refused: str = ""


@frozen(kw_only=True)
class Row:
    """Artifact of a job, as it was listed. `stored_at` is 0 until the hub has all of it."""

    job_id: str
    number: int
    path: str
    size: int
    sha256: str
    machine: str
    claim: int
    attempt: int
    listed_at: float
    stored_at: float
    refused: str

    @property
    def file(self) -> Artifact:
        """File that was listed."""
        return Artifact(path=self.path, size=self.size, sha256=self.sha256)


@frozen(kw_only=True)
class ArtifactStore:
    """Artifacts in a folder and a database. Calls block, and may come from any thread.

    Each raises StorageBusy if the database can't be used now.
    """

    files: ArtifactFiles
    settings: ArtifactSettings
    database: Database
    is_shared: bool = True
    """False where other hub processes of the same database have another folder."""

    @classmethod
    def open(cls, folder: Path, settings: ArtifactSettings, database: Database) -> Self:
        """Return the artifacts of a hub. Find out whether its folder is that of all processes of the database.

        Raises:
            FolderUnusable: It can't be used.
            StorageBusy: The database can't be used now.
        """
        return cls(
            files=ArtifactFiles(folder),
            settings=settings,
            database=database,
            is_shared=is_shared_folder(folder, ARTIFACT_MARK, database),
        )

    @property
    def is_open(self) -> bool:
        """True if machines may send artifacts."""
        return self.is_shared and self.settings.job_mib > 0

    def put_list(
        self, sender: Sender, listed: ArtifactList, *, now: float
    ) -> list[Standing]:
        """Store the list of an attempt's artifacts in place of an older one; return what the hub has of each.

        Raises:
            OlderArtifacts: A newer attempt has listed its own.
            ArtifactsFull: The folder can't be used.
        """
        refusals = self._refusals(listed.files)

        gone: set[Path] = set()

        def work(db: Connection) -> list[Row]:
            before = _rows(db, _OF.job_id == sender.job_id)
            if before and (before[0].claim, before[0].attempt) > (
                sender.claim,
                listed.attempt,
            ):
                raise OlderArtifacts
            brought = self._brought(db, sender, listed.files, now=now)
            after = [
                Row(
                    job_id=sender.job_id,
                    number=number,
                    path=file.path,
                    size=file.size,
                    sha256=file.sha256,
                    machine=sender.machine,
                    claim=sender.claim,
                    attempt=listed.attempt,
                    listed_at=now,
                    stored_at=0.0 if refused else brought.get(file.sha256, 0.0),
                    refused=refused,
                )
                for number, (file, refused) in enumerate(
                    zip(listed.files, refusals, strict=True), 1
                )
            ]
            listed_now = {(row.machine, row.sha256) for row in after}
            gone.update(
                self.files.part(row.job_id, row.machine, row.sha256)
                for row in before
                if (row.machine, row.sha256) not in listed_now
            )
            db.execute(delete(ARTIFACTS).where(_OF.job_id == sender.job_id))
            if after:
                db.execute(insert(ARTIFACTS), [asdict(row) for row in after])
            return after

        with _full_is_said(), self.files.locked():
            rows = self.database.write(work)
            for path in gone:
                path.unlink(missing_ok=True)
        return [self._standing(row) for row in rows]

    def append(self, sender: Sender, chunk: ArtifactChunk, *, now: float) -> Standing:
        """Store a chunk of a listed file, and return what the hub has of it.

        A chunk behind the end of what is stored isn't stored. If the file doesn't have its hash in the end, nothing of
        it is kept.

        Raises:
            NoSuchArtifact: The machine hasn't listed it, or it was refused.
            ArtifactsFull: The disk has no space for it.
        """
        mine = (
            _OF.job_id == sender.job_id,
            _OF.machine == sender.machine,
            _OF.sha256 == chunk.file,
            _OF.refused == "",
        )
        row = self._row(*mine)
        if row is None or chunk.end > row.size:
            raise NoSuchArtifact
        path = self.files.part(sender.job_id, sender.machine, row.sha256)
        with _full_is_said():
            if row.stored_at:
                # A call may have begun it again while another one was completing it.
                path.unlink(missing_ok=True)
                return Standing(file=row.file, offset=row.size, is_whole=True)
            self._require_space(len(chunk.data))
            before, size = self.files.append(path, chunk)
            newest = row if before else self._row(*mine)
            if newest is None or newest.stored_at:
                # A call at the same time has completed it, or has taken it from the list.
                path.unlink(missing_ok=True)
                if newest is None:
                    raise NoSuchArtifact
                return Standing(file=row.file, offset=row.size, is_whole=True)
            if size < row.size:
                return Standing(file=row.file, offset=size)
            with self.files.completing(path, row.sha256, now=now) as is_whole:
                if not is_whole:
                    return Standing(file=row.file)
                stored = update(ARTIFACTS).where(*mine).values(stored_at=now)
                self.database.write(lambda db: db.execute(stored).rowcount)
        return Standing(file=row.file, offset=row.size, is_whole=True)

    def _row(self, *conditions: ColumnElement[bool]) -> Row | None:
        with self.database.snapshot() as db:
            return next(iter(_rows(db, *conditions)), None)

    def of_job(self, job_id: str) -> list[Row]:
        """Return the artifacts of a job, in the order of its list."""
        with self.database.snapshot() as db:
            return _rows(db, _OF.job_id == job_id)

    def has(self, row: Row) -> bool:
        """Return whether the bytes of an artifact are here."""
        return bool(row.stored_at) and self.files.has(row.sha256, row.size)

    def read(self, row: Row, offset: int, most: int) -> bytes:
        """Return at most `most` bytes of an artifact from an offset; empty where it has none."""
        try:
            with self.files.whole(row.sha256).open("rb") as file:
                return os.pread(file.fileno(), most, offset)
        except OSError as error:
            structlog.get_logger().warning(
                "artifact_not_read", sha256=row.sha256, error=error.strerror
            )
            return b""

    def prune(self, *, before: float) -> None:
        """Remove the artifacts that were listed before a time."""
        old = delete(ARTIFACTS).where(_OF.listed_at < before)
        self.database.write(lambda db: db.execute(old).rowcount)

    def remove_unused(self, *, now: float) -> int:
        """Remove files that no row names, and those that aren't completed any more; return their number."""
        with self.database.snapshot() as db:
            named = set(db.execute(select(_OF.sha256).distinct()).scalars())
        removed = 0
        for path in self.files.all():
            if path.name not in named and _age_s(path, now) > _GRACE_S:
                removed += self._remove(path, now)
        for path in self.files.parts():
            if _age_s(path, now) > _PARTS_S:
                with _trouble_is_said(path):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _remove(self, path: Path, now: float) -> int:
        """Remove a file, unless it has become part of an artifact meanwhile; return the number removed."""
        query = select(_OF.job_id).where(_OF.sha256 == path.name).limit(1)
        with _trouble_is_said(path), self.files.locked():
            with self.database.snapshot() as db:
                is_named = db.execute(query).first() is not None
            if not is_named and _age_s(path, now) > _GRACE_S:
                path.unlink(missing_ok=True)
                return 1
        return 0

    def _refusals(self, files: Sequence[Artifact]) -> list[str]:
        """Return for each file why it isn't taken, in words; empty if it is."""
        settings, used = self.settings, 0
        refusals = []
        for file in files:
            if file.size > settings.most_file_bytes:
                reason = f"it is larger than {settings.file_mib} MiB (artifacts.file_mib of the hub)"
            elif used + file.size > settings.most_bytes:
                reason = f"the artifacts of the job are larger than {settings.job_mib} MiB (artifacts.job_mib of the hub)"
            else:
                reason = ""
                used += file.size
            refusals.append(reason)
        return refusals

    def _brought(
        self, db: Connection, sender: Sender, files: Sequence[Artifact], *, now: float
    ) -> dict[str, float]:
        """Return the hashes of files that the machine has brought before and that are here, with the time.

        Called with the lock.
        """
        query = select(_OF.sha256).where(
            _OF.machine == sender.machine,
            _OF.stored_at > 0,
            _OF.sha256.in_({file.sha256 for file in files}),
        )
        known = set(db.execute(query).scalars())
        brought = {}
        for file in files:
            if file.sha256 in known and self.files.has(file.sha256, file.size):
                os.utime(self.files.whole(file.sha256), (now, now))
                brought[file.sha256] = now
        return brought

    def _standing(self, row: Row) -> Standing:
        if row.refused or row.stored_at:
            size = row.size if row.stored_at else 0
            return Standing(
                file=row.file,
                offset=size,
                is_whole=bool(row.stored_at),
                refused=row.refused,
            )
        part = self.files.part(row.job_id, row.machine, row.sha256)
        return Standing(file=row.file, offset=max(0, min(size_of(part), row.size)))

    def _require_space(self, more: int) -> None:
        """Refuse bytes for which the disk has no space.

        Raises:
            ArtifactsFull: It has none.
        """
        self.files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(self.files.folder)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE + more:
            message = f"less than {_LEAST_FREE >> 20} MiB are free"
            raise ArtifactsFull(message)


def _rows(db: Connection, *conditions: ColumnElement[bool]) -> list[Row]:
    query = select(ARTIFACTS).where(*conditions).order_by(_OF.number)
    return [Row(**row) for row in db.execute(query).mappings()]


def _age_s(path: Path, now: float) -> float:
    """Return the time since the last use of a file (seconds); 0 if it has gone."""
    try:
        return now - path.stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def _trouble_is_said(path: Path) -> Iterator[None]:
    """End a block at an error of a path, and log it: the others are removed."""
    try:
        yield
    except OSError as error:
        structlog.get_logger().warning(
            "artifacts_not_removed", path=str(path), error=error.strerror
        )


@contextmanager
def _full_is_said() -> Iterator[None]:
    """Raise an error of the folder as that of the hub.

    Raises:
        ArtifactsFull: The folder can't be used.
    """
    try:
        yield
    except OSError as error:
        raise ArtifactsFull(error.strerror or str(error)) from error
