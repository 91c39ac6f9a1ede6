"""Folder of downloads: nothing is written outside of it, no link in it is followed, and a file appears once it is whole."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dispatchd.client.errors import NotAHub, NotStored, PathTaken
from dispatchd.client.records import Artifact
from dispatchd.protocol.uploads.artifacts import path_problem

_PIECE: Final = 8 << 20
"""Part of a file that is read at a time (bytes)."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_UNIQUE_BYTES: Final = 6


class DownloadFolder:
    """A folder that artifacts are downloaded into; it is made if it is missing. Open until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = f"download into {path}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._top = os.open(path, _FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise NotStored(self._name, str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self._top)

    def has(self, artifact: Artifact) -> bool:
        """Return whether an artifact has been downloaded before."""
        try:
            with _parent(self._top, artifact.path, make=False) as (parent, name):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=parent)
                with os.fdopen(fd, "rb") as file:
                    digest = sha256()
                    while piece := file.read(_PIECE):
                        digest.update(piece)
        except OSError:
            return False
        return digest.hexdigest() == artifact.sha256

    def is_taken(self, artifact: Artifact) -> bool:
        """Return whether something is at an artifact's path, or where one of its folders has to be.

        Raises:
            NotStored: It can't be looked for, as where a link is in the place of a folder.
        """
        with self._in_words():
            try:
                with _parent(self._top, artifact.path, make=False) as (parent, name):
                    os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    @contextmanager
    def new_file(
        self, artifact: Artifact, *, replace: bool
    ) -> Iterator[Callable[[bytes], object]]:
        """Yield a function that writes a piece of an artifact. Its file appears at the end of the block, if that has no error.

        Args:
            artifact: The artifact; its path was checked.
            replace: True to replace what is in its place.

        Raises:
            PathTaken: Something else is in its place.
            NotStored: It can't be written.
        """
        with (
            self._in_words(),
            _parent(self._top, artifact.path, make=True) as (parent, name),
        ):
            aside = f".dispatchd-{os.urandom(_UNIQUE_BYTES).hex()}"
            fd = os.open(aside, _NEW, 0o666, dir_fd=parent)
            try:
                with os.fdopen(fd, "wb") as file:
                    yield file.write
                if replace or not _linked(parent, aside, name):
                    os.rename(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
                    aside = ""
            finally:
                if aside:
                    os.unlink(aside, dir_fd=parent)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Report what the file system refuses.

        Raises:
            PathTaken: Something is there.
            NotStored: It refuses.
        """
        try:
            yield
        except OSError as error:
            kind = PathTaken if isinstance(error, FileExistsError) else NotStored
            raise kind(self._name, str(error)) from None


def require_path(artifact: Artifact) -> None:
    """Check that an artifact's path stays below any folder.

    Raises:
        NotAHub: It doesn't.
    """
    if problem := path_problem(artifact.path):
        reason = f"{artifact.path!r} is no path of an artifact: {problem}"
        cannot = "download an artifact"
        raise NotAHub(cannot, reason)


def _linked(parent: int, aside: str, name: str) -> bool:
    """Give a file another name, unless something has that by now. Return False where there are no hard links.

    Raises:
        PermissionError: There are none, and something is there.
        OSError: Something has come there meanwhile.
    """
    try:
        os.link(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
    except (PermissionError, NotImplementedError):
        if name in os.listdir(parent):
            raise
        return False
    return True


@contextmanager
def _parent(top: int, path: str, *, make: bool) -> Iterator[tuple[int, str]]:
    """Yield the folder of a path below an open one, opened without following links, and the last name.

    Raises:
        OSError: There is no such folder, or a link or a file is in its place.
    """
    *folders, name = path.split("/")
    fd = os.dup(top)
    try:
        for folder in folders:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=fd)
            below = os.open(folder, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, name
    finally:
        os.close(fd)
