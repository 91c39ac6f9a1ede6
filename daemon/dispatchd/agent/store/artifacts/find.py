"""Search of a workspace for the files that paths and patterns name. A run has written everything in it.

Folders are opened one below the other, without following links, so that nothing outside of the workspace is reached
however the run renames meanwhile. The search ends after a number of entries, and when its caller says so.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

MOST_PATHS: Final = 1000
"""Most paths and patterns that are searched for (count)."""

_MOST_ENTRIES: Final = 100_000
"""Most entries of folders that are looked at (count), which takes about a second."""

_DEEPEST: Final = 64
"""Deepest folder that is searched, below the workspace (count): each one on the way takes a descriptor."""

_MOST_PROBLEMS: Final = 20
"""Most reasons that are kept (count)."""

_ANY_DEPTH: Final = "**"
_WILD: Final = frozenset("*?[")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen
class _Part:
    """Part of a path or pattern, for one name. A wild one has `*`, `?` or `[...]`, or is `**`."""

    text: str
    is_wild: bool

    @property
    def is_deep(self) -> bool:
        return self.is_wild and self.text == _ANY_DEPTH

    def matches(self, name: str) -> bool:
        if not self.is_wild:
            return name == self.text
        # As in a shell: what is hidden has to be named.
        if name.startswith(".") and not self.text.startswith("."):
            return False
        return self.is_deep or fnmatchcase(name, self.text)


_Parts = tuple[_Part, ...]

_FILE: Final[_Parts] = (_Part("", is_wild=False),)
"""Rest of a pattern behind an entry that it matches if that is a file."""

_ALL: Final = _Part("", is_wild=True)
"""Part that stands for everything below a folder that was named."""


@define(kw_only=True)
class Search:
    """Search of one workspace. Blocks.

    In a pattern `*`, `?` and `[...]` stand for a part of one name, `**` for any folders, and at its end for any files.
    They match no name that begins with a dot, and at the end of a pattern files alone. A path is that of a file, or of
    a folder with everything in it; so is a pattern without them.
    """

    workspace: Path
    take: Callable[[str, int], None]
    """Takes a file: its path relative to the workspace, and its descriptor (open(2), O_PATH)."""
    is_over: Callable[[], bool] = lambda: False
    """Returns whether no further file is to be looked for."""
    most_entries: int = _MOST_ENTRIES
    """Most entries of folders that are looked at (count)."""
    problems: list[str] = field(factory=list, init=False)
    """Reasons why the search isn't complete, in words."""
    _entries: int = field(default=0, init=False)
    _taken: set[str] = field(factory=set, init=False)

    def run(self, paths: Iterable[str], patterns: Iterable[str]) -> None:
        """Take each file that one of the paths or patterns names, once; those of the paths first."""
        groups = [
            [*islice(filter(None, wanted), MOST_PATHS + 1)]
            for wanted in (
                (_parts(path, may_be_wild=False) for path in paths),
                (_parts(pattern, may_be_wild=True) for pattern in patterns),
            )
        ]
        if not any(groups):
            return
        if max(map(len, groups)) > MOST_PATHS:
            self._note(f"more than {MOST_PATHS} paths are named")
        try:
            fd = os.open(self.workspace, _FOLDER)
        except OSError as error:
            self._note(f"the workspace can't be opened ({error.strerror})")
            return
        try:
            for wanted in groups:
                if wanted:
                    self._folder(fd, "", wanted[:MOST_PATHS], 0)
        finally:
            os.close(fd)

    def _folder(
        self, fd: int, prefix: str, given: Sequence[_Parts], depth: int
    ) -> None:
        """Search one open folder for what is wanted in it."""
        if depth > _DEEPEST:
            self._note(f"{prefix} is deeper than {_DEEPEST} folders")
            return
        wanted = [*dict.fromkeys(_unfolded(given))]
        names = {parts[0].text for parts in wanted if not parts[0].is_wild}
        for name in sorted(names):
            self._entry(fd, f"{prefix}{name}", name, wanted, depth)
        wild = [parts for parts in wanted if parts[0].is_wild]
        if wild:
            self._list(fd, prefix, wild, names, depth)

    def _list(
        self,
        fd: int,
        prefix: str,
        wild: Sequence[_Parts],
        names: AbstractSet[str],
        depth: int,
    ) -> None:
        """Search each entry of an open folder but those with some names, which have been looked at."""
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._entries += 1
                    if self._entries > self.most_entries:
                        self._note(f"it has more than {self.most_entries} entries")
                        return
                    if self.is_over():
                        return
                    if entry.name not in names:
                        path = f"{prefix}{entry.name}"
                        self._entry(fd, path, entry.name, wild, depth)
        except OSError as error:
            self._note(f"{prefix or '.'} can't be listed ({error.strerror})")

    def _entry(
        self, fd: int, path: str, name: str, wanted: Sequence[_Parts], depth: int
    ) -> None:
        """Take an entry of an open folder, or search in it, if that is wanted."""
        below = [*_below(name, wanted)]
        if not below or self.is_over():
            return
        try:
            with _opened(name, fd) as entry:
                if stat.S_ISDIR(os.fstat(entry).st_mode):
                    inside = [parts for parts in below if parts and parts != _FILE]
                    if () in below:
                        inside.append((_ALL,))
                    if inside:
                        self._inside(entry, f"{path}/", inside, depth + 1)
                elif ((_FILE in below) or (() in below)) and path not in self._taken:
                    self._taken.add(path)
                    self.take(path, entry)
        except FileNotFoundError:
            # A required one that is missing is told elsewhere.
            pass
        except (OSError, ValueError) as error:
            # ValueError: no name can be like that.
            reason = getattr(error, "strerror", None) or str(error)
            self._note(f"{path} can't be opened ({reason})")

    def _inside(
        self, entry: int, prefix: str, wanted: Sequence[_Parts], depth: int
    ) -> None:
        folder = os.open(".", _FOLDER, dir_fd=entry)
        try:
            self._folder(folder, prefix, wanted, depth)
        finally:
            os.close(folder)

    def _note(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


def _parts(path: str, *, may_be_wild: bool) -> _Parts:
    """Return the parts of a path or pattern; none if it doesn't stay below the workspace."""
    texts = [text for text in path.split("/") if text not in {"", "."}]
    if path.startswith("/") or ".." in texts:
        return ()
    return tuple(
        _Part(text, is_wild=may_be_wild and not _WILD.isdisjoint(text))
        for text in texts
    )


def _unfolded(wanted: Iterable[_Parts]) -> Iterator[_Parts]:
    """Yield what is wanted in a folder: `**` may stand for no folder at all."""
    for parts in wanted:
        yield parts
        rest = parts
        while rest[0].is_deep and len(rest) > 1:
            rest = rest[1:]
            yield rest


def _below(name: str, wanted: Iterable[_Parts]) -> Iterator[_Parts]:
    """Yield what is wanted below an entry of a folder; nothing more where the entry itself is named."""
    for parts in wanted:
        first, rest = parts[0], parts[1:]
        if first == _ALL:
            yield parts
            yield _FILE
        elif first.matches(name):
            if first.is_deep:
                yield parts
            if rest and not first.is_deep:
                yield rest
            elif not rest:
                yield _FILE if first.is_wild else ()


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """Yield a descriptor that opens neither a pipe nor a device, and never a link's target (open(2), O_PATH)."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)
