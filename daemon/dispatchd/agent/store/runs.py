"""Layout of a run's folder, and the durable writing of a run's inputs."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog
from attrs import field, frozen

from dispatchd.agent.store.artifacts.keep import keep
from dispatchd.agent.store.artifacts.snapshots import Snapshots
from dispatchd.agent.store.durable import (
    FILE_MODE,
    FOLDER_MODE,
    make_folder,
    put_file,
    put_files,
    sweep,
    sync_folder,
)
from dispatchd.agent.store.names import file_name
from dispatchd.agent.store.trash import Trash, remove_tree
from dispatchd.errors import FolderDamaged, FolderUnusable, StoreUnavailable
from dispatchd.linux.untrusted_files import read_regular

_ATTEMPT: Final = "attempt-"
"""Beginning of the name of an attempt's folder; its number follows."""

_LARGEST_TEXT: Final = 64 << 20
"""Largest file that is read (bytes): more than payload and headers have together, which is at most 32 MiB
(contracts/README.md)."""

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_SHORT: Final = 10
"""Length of a short name for an attempt (hexadecimal digits)."""


@frozen(kw_only=True)
class RunFolder:
    """Files of one run; all paths are absolute."""

    path: Path
    _own: dict[int, Path] = field(factory=dict, init=False, eq=False, repr=False)
    """The commands' folders of attempts, by number; each is looked for once."""

    @property
    def event_file(self) -> Path:
        """Payload of the job, as the JSON text that the endpoint sent."""
        return self.path / "event.json"

    @property
    def headers_file(self) -> Path:
        """Headers of the job, as the JSON text that the endpoint sent."""
        return self.path / "headers.json"

    @property
    def workspace(self) -> Path:
        """Working directory of the command, kept from one attempt to the next."""
        return self.path / "workspace"

    def attempt(self, number: int) -> Path:
        """Return the folder of one attempt."""
        return self.path / f"{_ATTEMPT}{number}"

    def files(self, number: int) -> Path:
        """Return the command's folder of an attempt; the rest of the attempt's folder is the daemon's."""
        if number not in self._own:
            own = self.attempt(number) / "run"
            try:
                is_own = stat.S_ISDIR(own.lstat().st_mode)
            except PermissionError:
                # Somebody has taken the attempt's mode away.
                return own
            except OSError:
                is_own = False
            if not is_own:
                # Attempts of earlier releases had one folder for both.
                return self.attempt(number)
            self._own[number] = own
        return self._own[number]

    def needed(self, number: int) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Return the folders that a live attempt needs, outermost first, and what is in them of files and its workspace."""
        folders = (self.path, self.attempt(number), self.attempt(number) / "run")
        inside = (
            *(self.workspace, self.event_file, self.headers_file),
            *(self.output_file(number), self.events_file(number)),
            # Those of its shim.
            *(self.attempt(number) / "exit.aside", self.attempt(number) / "exit"),
            *(self.outputs_file(number), self.summary_file(number)),
            *(self.brief_file(number), self.result_file(number)),
        )
        return folders, inside

    def home(self, number: int) -> Path:
        """Return the home folder of an attempt."""
        return self.files(number) / "home"

    def temporary(self, number: int) -> Path:
        """Return the folder of an attempt's temporary files."""
        return self.files(number) / "tmp"

    def brief_file(self, number: int) -> Path:
        """Return the file with the brief of a headless command."""
        return self.files(number) / "brief.json"

    def result_file(self, number: int) -> Path:
        """Return the file in which a headless command writes its result."""
        return self.files(number) / "result.json"

    def events_file(self, number: int) -> Path:
        """Return the file to which a command appends the events of its run, as JSON lines."""
        return self.files(number) / "events.ndjson"

    def outputs_file(self, number: int) -> Path:
        """Return the file to which a command appends its outputs, in GitHub's form."""
        return self.files(number) / "outputs"

    def summary_file(self, number: int) -> Path:
        """Return the file to which a command writes its step summary, in Markdown."""
        return self.files(number) / "summary.md"

    def report_file(self, number: int) -> Path:
        """Return the file with the end of an attempt's output as it is reported: without secrets."""
        return self.attempt(number) / "output.report"

    def details_file(self, number: int) -> Path:
        """Return the file with the rest of an attempt's report: JSON, without secrets."""
        return self.attempt(number) / "details.report"

    def sent_file(self, number: int) -> Path:
        """Return the file with the number of an attempt's progress events that were sent to the endpoint."""
        return self.attempt(number) / "progress.told"

    @property
    def private_mark(self) -> Path:
        """File that exists while the workspace holds a checkout, which has to be removed."""
        return self.path / "workspace.private"

    @property
    def artifacts(self) -> Path:
        """Files kept of a private workspace: its required artifacts."""
        return self.path / "artifacts"

    def output_file(self, number: int) -> Path:
        """Return the file with everything that an attempt wrote to stdout and stderr."""
        return self.attempt(number) / "output.log"


@frozen
class Runs:
    """Folders of all runs below one folder."""

    _root: Path
    snapshots: Snapshots
    """Copies of artifacts that the endpoint doesn't have yet."""

    @classmethod
    def at(cls, folder: Path) -> "Runs":
        """Return the runs of a state folder, for reading beside a daemon."""
        return cls((folder / "runs").absolute(), Snapshots(folder / "artifacts"))

    @classmethod
    def open(cls, folder: Path) -> "Runs":
        """Open the runs of a state folder, and create what is missing.

        Raises:
            FolderUnusable: It can't be used.
        """
        for name in ("runs", "t"):
            make_folder(folder / name)
        return cls((folder / "runs").absolute(), Snapshots.open(folder))

    def folder(self, run_id: str) -> RunFolder:
        """Return the folder of a run, whether or not it exists."""
        return RunFolder(path=self._root / file_name(run_id))

    def create(self, run_id: str, *, payload: str, headers: str) -> None:
        """Make a run's folder durable with its payload and headers (JSON texts); may be repeated.

        Raises:
            StoreUnavailable: It may be incomplete; create it again.
        """
        run = self.folder(run_id)
        is_new = self.trash.make_usable(run.path)
        self.trash.make_usable(run.workspace)
        try:
            sync_folder(self._root)
            if not is_new:
                sweep(run.path)
        except OSError as error:
            raise StoreUnavailable(path=run.path, error=error) from error
        except FolderUnusable as unusable:
            raise StoreUnavailable(path=run.path, error=unusable.error) from unusable
        texts = {run.event_file.name: payload, run.headers_file.name: headers}
        put_files(
            run.path,
            {name: text.encode(errors="surrogatepass") for name, text in texts.items()},
        )

    def has_attempts(self, run_id: str) -> bool:
        """Return whether a run has had an attempt, by its folder."""
        path = self.folder(run_id).path
        return any(path.glob(f"{_ATTEMPT}*"))

    def prepare_attempt(self, run_id: str, number: int) -> Path:
        """Return a new folder for an attempt, with the folders and empty files that its command may write to.

        Leftovers of a crash are removed.

        Raises:
            StoreUnavailable: It can't be created.
        """
        run = self.folder(run_id)
        folder = run.attempt(number)
        self.trash.make_usable(run.path)
        self.trash.make_usable(run.workspace)
        try:
            self.trash.make_new(folder)
            (folder / "run").mkdir(mode=FOLDER_MODE)
            for own in (run.home(number), run.temporary(number)):
                own.mkdir(mode=FOLDER_MODE)
            for file in (run.outputs_file(number), run.summary_file(number)):
                os.close(os.open(file, _NEW_FILE, FILE_MODE))
        except OSError as error:
            raise StoreUnavailable(path=folder, error=error) from error
        return folder

    def read_texts(self, run: RunFolder) -> tuple[str, str]:
        """Return a run's payload and headers (JSON texts).

        Raises:
            FolderDamaged: They don't exist any more, or aren't regular files.
        """
        texts = []
        for file in (run.event_file, run.headers_file):
            try:
                data = read_regular(file, _LARGEST_TEXT)
            except OSError as error:
                reason = error.strerror or str(error)
                raise FolderDamaged(path=file, reason=reason) from error
            if data is None:
                raise FolderDamaged(path=file, reason="it isn't a regular file")
            texts.append(data.decode(errors="surrogatepass"))
        return texts[0], texts[1]

    def workflow_home(self, workflow: str) -> Path:
        """Return the home that runs of a workflow share. A missing one is created.

        Raises:
            StoreUnavailable: It can't be made.
        """
        home = self._root.parent / "homes" / file_name(workflow)
        try:
            home.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
            self.trash.make_usable(home)
        except OSError as error:
            raise StoreUnavailable(path=home, error=error) from error
        return home

    def short_way(self, run: RunFolder, number: int) -> Path:
        """Return a short path to the files of an attempt: the address of a Unix socket has at most 107 bytes (unix(7)).

        Raises:
            StoreUnavailable: It can't be made.
        """
        link, target = self._short_link(run.attempt(number)), run.files(number)
        try:
            link.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
            if not link.is_symlink() or link.readlink() != target:
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        except OSError as error:
            raise StoreUnavailable(path=link, error=error) from error
        return link

    def retire_scratch(self, run: RunFolder, number: int) -> list[Path]:
        """Move the home and the temporary files of an attempt that is over to the trash.

        Returns their new paths.

        Raises:
            StoreUnavailable: Some of it is still in place.
        """
        link = self._short_link(run.attempt(number))
        try:
            link.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(path=link, error=error) from error
        return self.trash.take([run.home(number), run.temporary(number)])

    def _short_link(self, attempt: Path) -> Path:
        digest = sha256(os.fsencode(attempt)).hexdigest()
        return self._root.parent / "t" / digest[:_SHORT]

    def mark_private(self, run_id: str) -> None:
        """Mark durably that a run's workspace will hold code that must not stay there, before it does.

        Raises:
            StoreUnavailable: The mark can't be written.
        """
        run = self.folder(run_id)
        put_file(run.path, run.private_mark.name, b"")

    def retire_workspace(self, run: RunFolder) -> list[Path]:
        """Move a private workspace, and the leftovers of unfinished checkouts beside it, to the trash.

        Afterwards nothing private is in the run's folder, even after a crash. Returns the new paths.

        Raises:
            StoreUnavailable: Some of it may still be in place.
        """
        paths = (run.workspace, *run.path.glob("workspace.*"))
        retired = self.trash.take(path for path in paths if path != run.private_mark)
        try:
            run.workspace.mkdir(mode=FOLDER_MODE, exist_ok=True)
            run.private_mark.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(path=run.path, error=error) from error
        return retired

    def private(self) -> list[str]:
        """Return the names of the folders of the runs whose workspace is private, sorted."""
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if os.path.lexists(RunFolder(path=folder).private_mark)
        )

    def keep_artifacts(self, run_id: str, paths: Iterable[str]) -> tuple[str, ...]:
        """Keep files and folders of a workspace that is about to be removed, and return those that can't be kept.

        Raises:
            OSError: There is no room for any.
        """
        run = self.folder(run_id)
        remove_tree(run.artifacts)
        lost = keep(run.workspace, run.artifacts, paths)
        for path, reason in lost:
            structlog.get_logger().error(
                "artifact_not_kept", path=path, error=reason, run_id=run_id
            )
        return tuple(path for path, _ in lost)

    def write_brief(self, run: RunFolder, number: int, text: str) -> None:
        """Write the brief of a headless command (JSON).

        Raises:
            StoreUnavailable: The disk refuses.
        """
        file = run.brief_file(number)
        try:
            file.write_text(text, encoding="utf-8")
            # The brief as the command got it, whatever it does to its own copy.
            (run.attempt(number) / file.name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise StoreUnavailable(path=file, error=error) from error

    def retire(self, run_id: str) -> list[Path]:
        """Move everything of a run to the trash, durably; a missing run is fine. Returns the new paths.

        Raises:
            StoreUnavailable: It is still in place, or may come back after a power cut.
        """
        run = self.folder(run_id)
        # Links of attempts whose daemon was killed before it removed them.
        for attempt in run.path.glob(f"{_ATTEMPT}*"):
            with suppress(OSError):
                self._short_link(attempt).unlink()
        retired = self.trash.take([run.path])
        sync_folder(self._root)
        return retired

    @property
    def trash(self) -> Trash:
        """Trash: files that are no longer needed, removed later."""
        # No run's folder begins with a dot.
        return Trash(self._root / ".gone")
