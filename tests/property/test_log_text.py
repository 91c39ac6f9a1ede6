"""The log of an attempt in chunks: whatever is lost, doubled, restarted or cut, the hub has the redacted local file."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.agent.loops.logs.text import LogText
from dispatchd.agent.store.evidence import masks_of, note_masks
from dispatchd.hub.storage.logs.files import LogFiles
from dispatchd.hub.storage.logs.store import LogStore
from dispatchd.linux.file_holes import cut_middle, hole_bytes, read_around_holes
from dispatchd.protocol.report import LogChunk
from dispatchd.redaction.redactor import Redactor

SECRET = "correct-horse-battery-staple"
REDACTOR = Redactor.of([SECRET])
MASKED = b"river-of-words"
MIB = 1 << 20

PIECES = st.sampled_from(
    [
        b"building module x\n",
        b"no end of line",
        b"\n",
        SECRET.encode(),
        SECRET[:9].encode(),
        SECRET[9:].encode() + b"\n",
        b"::add-mask::" + MASKED + b"\n",
        b"it says " + MASKED + b"\n",
        b"token=" + SECRET[:4].encode(),
        b"\x1b[32mgreen\x1b[0m <b>&\n",
        b"\xff\xfe not UTF-8 \x00\x01\n",
        "\u00e9\u20ac\n".encode()[:-2],
        b"-----BEGIN RSA PRIVATE KEY-----\n" + b"M" * 64 + b"\n",
        b"N" * 64 + b"\n-----END RSA PRIVATE KEY-----\n",
        b"progress 1%\rprogress 2%\r",
        b"x" * 40_000 + b"\n",
        b"line of a log\n" * 5_000,
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PIECES),
        st.tuples(
            st.sampled_from(["look", "look", "send", "send", "lost", "doubled", "old"]),
            st.just(b""),
        ),
        st.tuples(
            st.sampled_from(["restart", "cut", "extend", "forget"]), st.just(b"")
        ),
    ),
    max_size=40,
)


class Sending:
    """A machine with one log, and a hub, with calls between them that get lost or come twice."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "output.log"
        self.file.touch()
        self.hub = LogStore(files=LogFiles(folder / "logs"), most_bytes=1 << 40)
        self.text = LogText(self.file, REDACTOR)
        self.sent: list[LogChunk] = []

    def stored(self) -> bytes:
        [*parts] = self.hub.parts("j", ["m"])
        return self.hub.read("j", parts[0], 0, 1 << 30) if parts else b""

    def append(self, chunk: LogChunk) -> int:
        # As it goes over the wire.
        end = self.hub.append("j", "m", LogChunk.from_wire(chunk.to_wire()))
        assert SECRET.encode() not in self.stored()
        return end

    def send(self, *, is_lost: bool = False, times: int = 1) -> bool:
        chunk = self.text.chunk(1)
        if chunk is None:
            return False
        self.sent.append(chunk)
        end = 0
        for _ in range(times):
            end = self.append(chunk)
        return not is_lost and self.text.sent(chunk, end)

    def restart(self) -> None:
        """Begin as a daemon does that was killed."""
        self.text = LogText(self.file, REDACTOR)
        self.text.restart(self.append(LogChunk(attempt=1, offset=0)))

    def write(self, data: bytes) -> None:
        with self.file.open("ab") as file:
            file.write(data)

    def repeat_the_first(self) -> None:
        if self.sent:
            self.append(self.sent[0])

    def forget(self) -> None:
        """Lose all logs of the hub, as with its disk."""
        for path in self.hub.files.of_job("j").glob("*"):
            path.unlink()

    def extend(self) -> None:
        """Make the file longer without content, as a run can with its stdout."""
        os.truncate(self.file, self.file.stat().st_size + 64 * 1024)

    def do(self, step: str, data: bytes) -> None:
        steps: dict[str, Callable[[], object]] = {
            "write": lambda: self.write(data),
            "look": self.text.look,
            "send": self.send,
            "lost": lambda: self.send(is_lost=True),
            "doubled": lambda: self.send(times=2),
            "old": self.repeat_the_first,
            "restart": self.restart,
            "cut": lambda: cut_middle(self.file, 32 * 1024, note_masks),
            "extend": self.extend,
            "forget": self.forget,
        }
        steps[step]()

    def clean(self) -> bytes:
        """Return the log as one reading has it."""
        copy = self.file.with_name("clean")
        LogText(self.file, REDACTOR).save(copy)
        return copy.read_bytes()

    def finish(self) -> None:
        for _ in range(10_000):
            self.text.finish()
            if self.send():
                return
        raise AssertionError


LONG = b"".join(b"line %d of a log\n" % number for number in range(5_000))


@example([("write", LONG), ("look", b""), ("send", b""), ("cut", b"")])
@example(
    [
        *(("write", LONG), ("cut", b""), ("look", b""), ("send", b"")),
        *(("write", LONG), ("cut", b""), ("restart", b""), ("look", b"")),
    ]
)
@example([("write", LONG), ("cut", b""), ("extend", b"")])
@given(STEPS)
def test_the_hub_has_the_redacted_local_file(
    steps: list[tuple[str, bytes]],
) -> None:
    with TemporaryDirectory() as folder:
        sending = Sending(Path(folder))
        for step, data in steps:
            sending.do(step, data)
        sending.finish()

        local = b"".join(read_around_holes(sending.file, MIB))
        clean = sending.clean()
        assert sending.stored() == clean
        if not masks_of(sending.file) and not hole_bytes(sending.file):
            text = local.decode("utf-8", "surrogateescape")
            assert clean == REDACTOR.scrub(text).encode("utf-8", "surrogateescape")
        before = re.split(rb"(?m)^::add-mask::", local)[0]
        assert clean.count(MASKED) <= before.count(MASKED)
        [part] = sending.hub.parts("j", ["m"])
        assert part.is_whole
        # What was on the way for long comes when all is over.
        for chunk in sending.sent[-3:]:
            sending.append(chunk)
        assert sending.stored() == clean


def test_a_clean_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "output.log"
    file.write_text(f"the {SECRET}\n")
    copy = tmp_path / "copies" / "log.clean"
    copy.mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        LogText(file, REDACTOR).save(copy)

    assert [*copy.parent.iterdir()] == [copy]
    copy.rmdir()
    LogText(file, REDACTOR).save(copy)
    assert copy.read_text() == REDACTOR.scrub(file.read_text())
    assert [*copy.parent.iterdir()] == [copy]


@pytest.mark.parametrize("shift", range(0, 36, 3))
def test_a_secret_that_is_cut_in_two_shows_neither_of_its_ends(
    tmp_path: Path, shift: int
) -> None:
    """A run that prints it on each line is cut at any place of it."""
    file, copy = tmp_path / "output.log", tmp_path / "clean"
    line = f"with {SECRET}\n"
    file.write_text("x" * shift + "\n" + line * 8_000)
    assert cut_middle(file, 64 * 1024)

    LogText(file, REDACTOR).save(copy)

    clean = copy.read_text()
    parts = {SECRET[at : at + 6] for at in range(len(SECRET) - 5)}
    assert not [part for part in parts if part in clean]
    assert "bytes of output are left out here]" in clean
