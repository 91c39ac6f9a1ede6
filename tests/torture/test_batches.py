"""Puts that share a folder's sync: all of them are on disk, or none of them counts as written."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from dispatchd.agent.store.durable import DurableFolder, sweep
from support.preload import build
from support.until import until

PUTS = 8

CONTENT = "x" * 3000

PUT_AT_ONCE = f"""
import sys, threading
from pathlib import Path
from dispatchd.agent.store.durable import DurableFolder
from dispatchd.errors import StoreUnavailable
folder = DurableFolder.open(Path(sys.argv[1]))
def put(number):
    try:
        folder.put(f"{{number}}", {CONTENT!r}.encode())
    except StoreUnavailable:
        print("refused", flush=True)
    else:
        print("stored", flush=True)
for _ in sys.stdin:
    threads = [threading.Thread(target=put, args=(number,)) for number in range({PUTS})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("done", flush=True)
"""


@frozen
class Writer:
    """A process that puts files at once whenever it is told to, on a disk whose syncs of folders wait."""

    process: subprocess.Popen[str]
    folder: Path
    hold: Path
    fail: Path
    count: Path

    async def begin(self) -> None:
        """Begin a round of puts, and return when all files are written, and a folder's sync waits."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        await until(lambda: len(self.whole()) == PUTS and self.count.exists())

    def whole(self) -> list[str]:
        """Return the names of the files in place, sorted."""
        return sorted(
            file.name for file in self.folder.iterdir() if file.name.isdigit()
        )

    def answers(self) -> list[str]:
        """Return the answers to the puts of a round."""
        assert self.process.stdout
        return list(iter(lambda: self.process.stdout.readline().strip(), "done"))  # type: ignore[union-attr]


@contextmanager
def writing(tmp_path: Path) -> Iterator[Writer]:
    folder = tmp_path / "files"
    folder.mkdir()
    library = build(Path(__file__).parent / "hold_sync.c", tmp_path)
    hold, fail, count = (tmp_path / name for name in ("hold", "fail", "count"))
    hold.touch()
    env = {
        "LD_PRELOAD": str(library),
        "HOLD": str(hold),
        "FAIL": str(fail),
        "COUNT": str(count),
    }
    with subprocess.Popen(
        [sys.executable, "-c", PUT_AT_ONCE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        try:
            yield Writer(process, folder, hold, fail, count)
        finally:
            process.kill()


async def test_none_of_a_batch_counts_as_written_if_its_sync_fails(
    tmp_path: Path,
) -> None:
    with writing(tmp_path) as writer:
        await writer.begin()
        writer.fail.touch()
        writer.hold.unlink()

        assert writer.answers() == ["refused"] * PUTS
        # One that came first, and the others together.
        assert len(writer.count.read_text()) < PUTS

        writer.fail.unlink()
        writer.count.unlink()
        await writer.begin()

        assert writer.answers() == ["stored"] * PUTS


@pytest.mark.parametrize("is_synced", [False, True])
async def test_a_kill_in_a_batch_leaves_whole_files_and_no_false_answer(
    tmp_path: Path, *, is_synced: bool
) -> None:
    with writing(tmp_path) as writer:
        await writer.begin()
        if is_synced:
            writer.hold.unlink()
            await until(lambda: len(writer.count.read_text()) > 1)
        writer.process.kill()
        assert writer.process.stdout
        answers = writer.process.stdout.read().split()

    assert is_synced or answers == []
    sweep(writer.folder)
    names = {file.name for file in writer.folder.iterdir()}
    assert names == {str(number) for number in range(PUTS)}
    assert {file.read_text() for file in writer.folder.iterdir()} == {CONTENT}
    DurableFolder.open(writer.folder).put("0", b"anew")
    assert (writer.folder / "0").read_text() == "anew"
