"""Log of an attempt as it leaves the machine: `output.log` through the redactor, read in pieces.

The text is UTF-8 as the command wrote it; bytes that are no UTF-8 stay as they are. Where the local file has lost its
middle (`output_max_mib`), the text is what is left of it: head, marker, tail.

Two texts follow the place up to which the endpoint has the log. The certain one never changes, wherever the pieces end.
The newest lines after it are most likely clean, and may still change: they are sent again with the next chunk, and the
endpoint replaces what differs.
"""

import codecs
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from attrs import define, field

from dispatchd.agent.store.evidence import noted_masks
from dispatchd.linux.file_holes import MARKER, end_of_head, hole_bytes, next_piece
from dispatchd.protocol.report import LogChunk
from dispatchd.redaction.redactor import Redactor
from dispatchd.redaction.stream import StreamRedactor

CHUNK: Final = 512 * 1024
"""Largest chunk that is sent (bytes): with base64 it stays below 1 MiB, the limit of many proxies."""

_PIECE: Final = 512 * 1024
"""Part of the file that is redacted at a time (bytes).

Of a smaller one, more would be searched twice: a stream holds back up to 64 KiB. Of a larger one, other threads would
wait longer for each search.
"""

_STEP: Final = 2 * _PIECE
"""Most of the file that one call reads (bytes)."""

_OVERLAP: Final = 256 * 1024
"""Text before the endpoint's end that is sent again after a restart (bytes): its newest lines may have changed."""


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@define
class _Reading:
    """One reading of the file, from its beginning."""

    stream: StreamRedactor
    drop: int = 0
    """Place before which the text is dropped, because the endpoint has it (bytes)."""
    head: int | None = None
    """Place in the file up to which no cut has changed it (bytes); None if nothing was cut out of it."""
    decoder: codecs.IncrementalDecoder = field(
        factory=lambda: codecs.getincrementaldecoder("utf-8")("surrogateescape"),
        init=False,
    )
    position: int = field(default=0, init=False)
    """Place in the file up to which it has been read (bytes)."""
    holes: int = field(default=0, init=False)
    """Size of the holes before that place (bytes)."""
    total: int = field(default=0, init=False)
    """Size of the certain text from the beginning of the log (bytes)."""
    digest: _Digest = field(factory=sha256, init=False)
    """Hash of that text."""
    certain: bytearray = field(factory=bytearray, init=False)
    """Its end that the endpoint doesn't have."""

    def take(self, clean: str) -> None:
        """Add certain text."""
        data = clean.encode("utf-8", "surrogateescape")
        self.digest.update(data)
        kept_from = max(0, self.drop - self.total)
        self.total += len(data)
        self.certain += data[kept_from:]

    def skip(self, hole: int, masks: Iterable[str]) -> None:
        """Note a hole (bytes), and the masks in what was cut out."""
        self.holes += hole
        self.take(self.stream.feed(self.decoder.decode(b"", final=True)))
        self.stream.skip(MARKER, masks)

    def feed(self, data: bytes, position: int) -> int:
        """Add the content of the file up to a position. Return its length (characters)."""
        if self.head is not None and position > self.head:
            # From here on the endpoint may have what was there before the cut.
            self.drop = min(self.drop, self.total)
        self.position = position
        text = self.decoder.decode(data)
        self.take(self.stream.feed(text))
        return len(text)

    def close(self) -> None:
        """Add what was held back: the file doesn't grow any more."""
        self.take(self.stream.feed(self.decoder.decode(b"", final=True)))
        self.take(self.stream.close())


@define
class LogText:
    """Log of one attempt. Calls block, for less than a second each."""

    _path: Path
    _redactor: Redactor
    is_closed: bool = field(default=False, init=False)
    """True once all of the text is certain."""
    _newest: bytes = field(default=b"", init=False)
    """Newest lines after the certain text."""
    _newest_sent: bytes = field(default=b"", init=False)
    _fresh: int = field(default=0, init=False)
    """Text that the newest look has read (characters)."""
    _reading: _Reading = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reading = _Reading(StreamRedactor(self._redactor))

    @property
    def size(self) -> int:
        """Size of the certain text from the beginning of the log (bytes)."""
        return self._reading.total

    def restart(self, stored: int) -> None:
        """Read the file again from its beginning, for an endpoint that has `stored` bytes of the text."""
        self._reading = _Reading(
            StreamRedactor(self._redactor),
            drop=max(0, stored - _OVERLAP),
            head=end_of_head(self._path),
        )
        self._newest = self._newest_sent = b""
        self._fresh, self.is_closed = 0, False

    def look(self) -> bool:
        """Read what a live attempt has written. Return whether there is more to read at once."""
        before = self._fresh
        self._fresh, more = self._read()
        if more:
            # What is certain is sent first; its newest lines are looked at once the file has been read.
            self._newest = b""
        elif self._fresh or before:
            newest = self._reading.stream.glimpse(self._fresh)
            self._newest = newest.encode("utf-8", "surrogateescape")
        return more

    def finish(self) -> bool:
        """Read what an attempt has left that is over. Return whether there is more to read at once."""
        if self.is_closed:
            return False
        _, more = self._read()
        if more:
            return True
        if hole_bytes(self._path) != self._reading.holes:
            # Its middle was cut out after it had been read.
            self.restart(self._reading.total)
            return True
        self._reading.close()
        self._newest, self.is_closed = b"", True
        return False

    def chunk(self, attempt: int) -> LogChunk | None:
        """Return the next chunk for the endpoint; None if it has everything that can be sent now."""
        certain, offset = self._reading.certain, self._reading.total
        offset -= len(certain)
        if len(certain) > CHUNK:
            return LogChunk(attempt=attempt, offset=offset, data=bytes(certain[:CHUNK]))
        if self.is_closed:
            whole = self._reading.digest.hexdigest()
            return LogChunk(
                attempt=attempt, offset=offset, data=bytes(certain), whole=whole
            )
        if not certain and self._newest == self._newest_sent:
            return None
        data = bytes(certain) + self._newest[: CHUNK - len(certain)]
        return LogChunk(attempt=attempt, offset=offset, data=data) if data else None

    def sent(self, chunk: LogChunk, stored: int) -> bool:
        """Note that the endpoint has `stored` bytes after a chunk. Return whether it has the whole log."""
        if chunk.whole:
            if stored == chunk.end:
                return True
            self.restart(stored)
        elif stored < chunk.offset:
            self.restart(stored)
        else:
            del self._reading.certain[: min(stored, chunk.end) - chunk.offset]
            self._newest_sent = self._newest
        return False

    def save(self, path: Path) -> None:
        """Write all of the text of an attempt that is over to a file, for a daemon that doesn't know its secrets.

        Raises:
            OSError: The disk refuses.
        """
        whole = LogText(self._path, self._redactor)
        aside = path.with_name(path.name + ".part")
        try:
            with aside.open("wb") as file:
                aside.chmod(0o600)
                while not whole.is_closed:
                    whole.finish()
                    file.write(whole.take())
            aside.replace(path)
        finally:
            # On a full disk it would keep what others need.
            aside.unlink(missing_ok=True)

    def take(self) -> bytes:
        """Return the certain text that was read, and drop it."""
        data = bytes(self._reading.certain)
        self._reading.certain.clear()
        return data

    def _read(self) -> tuple[int, bool]:
        """Return how much was read (characters), and whether there is more to read at once."""
        reading, read, start = self._reading, 0, self._reading.position
        noted: list[str] | None = None
        with suppress(OSError), _opened(self._path) as fd:
            while fd is not None:
                at = reading.position
                data, gap, position = next_piece(fd, at, _PIECE)
                if position == at:
                    return read, False
                if gap:
                    noted = noted_masks(self._path) if noted is None else noted
                    reading.skip(gap, noted)
                read += reading.feed(data, position)
                if position - start >= _STEP or len(reading.certain) > CHUNK:
                    return read, True
        return read, False


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Yield the descriptor of a regular file, or None: a command may put anything in its place.

    Raises:
        OSError: It can't be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)
