"""The layout of a run's folder, and the durable writing of what the run is given."""

import os
import shutil
from pathlib import Path

from attrs import frozen

from dispatchd.errors import FolderUnusable, StoreUnavailable
from dispatchd.store.durable import FOLDER_MODE, DurableFolder, make_folder
from dispatchd.store.names import file_name


@frozen(kw_only=True)
class RunFolder:
    """Where the files of one run are; all paths are absolute."""

    path: Path

    @property
    def event_file(self) -> Path:
        """The job's payload, as the JSON text that the endpoint sent."""
        return self.path / "event.json"

    @property
    def headers_file(self) -> Path:
        """The job's headers, as the JSON text that the endpoint sent."""
        return self.path / "headers.json"

    @property
    def workspace(self) -> Path:
        """The working directory of the command, kept from one attempt to the next."""
        return self.path / "workspace"

    def attempt(self, number: int) -> Path:
        """Return the folder of one attempt."""
        return self.path / f"attempt-{number}"

    def output_file(self, number: int) -> Path:
        """Return the file with what an attempt wrote to stdout and stderr."""
        return self.attempt(number) / "output.log"


@frozen
class Runs:
    """The folders of all runs below one folder."""

    _root: Path

    @classmethod
    def open(cls, folder: Path) -> "Runs":
        """Open the runs of a state folder, creating what is missing.

        Fails with FolderUnusable: It can't be used.
        """
        make_folder(folder / "runs")
        return cls((folder / "runs").absolute())

    def folder(self, run_id: str) -> RunFolder:
        """Return where a run's files are, whether or not they exist."""
        return RunFolder(path=self._root / file_name(run_id))

    def create(self, run_id: str, *, payload: str, headers: str) -> None:
        """Make a run's folder durable with its payload and headers (JSON texts); may be repeated.

        Raises:
            StoreUnavailable: It may be incomplete; create it again.
        """
        run = self.folder(run_id)
        try:
            run.path.mkdir(mode=FOLDER_MODE, exist_ok=True)
            run.workspace.mkdir(mode=FOLDER_MODE, exist_ok=True)
            self._sync_root()
        except OSError as error:
            raise StoreUnavailable(path=run.path, error=error) from error
        try:
            files = DurableFolder.open(run.path)
        except FolderUnusable as unusable:
            raise StoreUnavailable(path=run.path, error=unusable.error) from unusable
        try:
            texts = {run.event_file.name: payload, run.headers_file.name: headers}
            files.put_all(
                {
                    name: text.encode(errors="surrogatepass")
                    for name, text in texts.items()
                }
            )
        finally:
            files.close()

    def prepare_attempt(self, run_id: str, number: int) -> Path:
        """Return an empty folder for an attempt, whatever a crash has left there.

        Raises:
            StoreUnavailable: It can't be created.
        """
        folder = self.folder(run_id).attempt(number)
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(mode=FOLDER_MODE)
        except OSError as error:
            raise StoreUnavailable(path=folder, error=error) from error
        return folder

    def remove(self, run_id: str) -> None:
        """Remove everything of a run; a missing one is fine.

        Raises:
            StoreUnavailable: Something of it is still there.
        """
        path = self.folder(run_id).path
        try:
            if path.exists():
                shutil.rmtree(path)
        except OSError as error:
            raise StoreUnavailable(path=path, error=error) from error

    def _sync_root(self) -> None:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
