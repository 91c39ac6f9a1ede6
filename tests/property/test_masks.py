"""Masks of a run (`::add-mask::`): they hide their value from their line on, wherever pieces end and parts are cut out."""

import os
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.agent.store.evidence import masks_of, note_masks, noted_masks
from dispatchd.errors import StoreUnavailable
from dispatchd.linux.file_holes import cut_middle
from dispatchd.redaction.masks import LONGEST, MASK_LINE, MOST, masks
from dispatchd.redaction.redactor import MARK, Redactor
from dispatchd.redaction.stream import StreamRedactor

SECRET = "correct-horse-battery-staple"
LONG = "a long line"
WORDS = ["river-of-words", "mountain%view", "two words of it", SECRET]

LINES = st.lists(
    st.one_of(
        st.sampled_from([f"::add-mask::{word}" for word in WORDS]),
        st.sampled_from(WORDS).map(lambda word: f"it says {word} here"),
        st.just("  ::add-mask::mountain%25view\r"),
        st.just("not at its begin ::add-mask::river-of-words"),
        st.just("1%\r2%\r::add-mask name=x::river-of-words\r\r"),
        st.just("##[add-mask]two words of it"),
        st.just(f"{'100% ' * 60}\r::add-mask::river-of-words"),
        st.just("::add-mask::two words of it\rand two words of it"),
        st.just("::add-mask::first line%0Amountain%25view%0D%0Ashort"),
        st.just("::add-mask::short"),
        st.just(LONG),
        st.just("a line of a log"),
    ),
    max_size=30,
)


def clean(lines: list[str]) -> str:
    """Return what a log of these lines is for others: each line by itself, with the masks up to it."""
    redactor, out = Redactor.of([SECRET]), ""
    for line in lines:
        for _, value in masks(f"{line}\n"):
            redactor = redactor.also([value])
        out += redactor.scrub(f"{line}\n")
    return out


@example(["it says river-of-words here", "::add-mask::river-of-words"], [5])
@given(LINES, st.lists(st.integers(1, 40_000), max_size=20))
def test_a_stream_hides_a_mask_from_its_line_on(
    lines: list[str], sizes: list[int]
) -> None:
    lines = [line.replace(LONG, "x" * 30_000) for line in lines]
    text = "".join(f"{line}\n" for line in lines)
    stream = StreamRedactor(Redactor.of([SECRET]))
    out, fed = "", 0
    for size in sizes:
        piece = text[fed : fed + size]
        fed += size
        out += stream.feed(piece)
        early = stream.glimpse(len(piece))
        assert not [value for _, value in masks(text[:fed]) if value in early]
    out += stream.feed(text[fed:]) + stream.close()

    assert out == clean(lines)


@pytest.mark.parametrize(
    "line",
    [
        "::ADD-MASK::river-of-words",
        "##[Add-Mask]river-of-words",
        "2026-11-30T10:00:00Z ##[add-mask]river-of-words",
        '::add-mask::"river-of-words"',
        "::add-mask x=a:b::river-of-words",
        "##[add-mask a=b]river-of-words",
        f"{' ' * 120}::add-mask::river-of-words",
        f"{'downloading ' * 30}\r::add-mask::river-of-words",
        "::add-mask::river-of-words\rriver-of-words",
    ],
)
def test_a_mask_counts_as_with_the_runner_of_github(line: str) -> None:
    stream = StreamRedactor(Redactor.of(()))

    shown = stream.feed(f"{line}\nriver-of-words\n") + stream.close()

    assert "river-of-words" not in shown
    assert shown.endswith(f"\n{MARK}\n")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_last_line_hides_its_own_mask(end: str) -> None:
    stream = StreamRedactor(Redactor.of(()))

    shown = stream.feed(f"a\n::add-mask::river-of-words{end}") + stream.close()

    assert shown == f"a\n::add-mask::{MARK}{end}"


def test_a_mask_within_a_private_key_shows_nothing_of_the_key() -> None:
    """The block is known by its end alone, far behind the mask."""
    body = "a line of it: not as others write one\n" * 800
    lines = f"-----BEGIN PRIVATE KEY-----\n{body}::add-mask::river-of-words\n{body}"
    stream = StreamRedactor(Redactor.of(()))

    shown = stream.feed(f"{lines}-----END PRIVATE KEY-----\nriver-of-words\n")
    shown += stream.feed("a line of a log\n" * 10_000) + stream.close()

    assert shown == f"{MARK}\n{MARK}\n" + "a line of a log\n" * 10_000


def test_a_log_with_too_many_masks_hides_the_first() -> None:
    stream = StreamRedactor(Redactor.of(()))
    lines = [f"::add-mask::value-{number:04}\n" for number in range(MOST + 1)]

    shown = stream.feed("".join(lines)) + stream.close()

    assert shown.count(MARK) == MOST


@given(LINES, st.integers(0, 3))
def test_no_mask_is_lost_with_a_part_that_is_cut_out(
    lines: list[str], again: int
) -> None:
    """What the log had is known afterwards, however often its middle is cut out."""
    lines = [line.replace(LONG, "x" * 30_000) for line in lines]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "output.log"
        file.touch()
        before = set[str]()
        for _ in range(again + 1):
            with file.open("a") as text:
                text.writelines(f"{line}\n" for line in lines)
            before = set(masks_of(file))
            is_cut = cut_middle(file, 64 * 1024, note_masks)
            assert before <= set(masks_of(file))
            assert is_cut or again or not noted_masks(file)
        assert before == {value for line in lines for _, value in masks(f"{line}\n")}


@pytest.mark.parametrize("obstacle", [os.mkfifo, os.mkdir])
def test_the_command_keeps_no_limit_away_by_what_it_puts_in_the_place_of_the_note(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    file = written(tmp_path)
    obstacle(tmp_path / "masks")

    assert cut_middle(file, 64 * 1024, note_masks)
    assert ("value-000020" in noted_masks(file)) is (obstacle is os.mkfifo)


def test_nothing_is_cut_out_whose_masks_cannot_be_noted(tmp_path: Path) -> None:
    file = written(tmp_path)
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk does, it takes nothing more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, kept[1]))
    try:
        with pytest.raises(StoreUnavailable):
            cut_middle(file, 64 * 1024, note_masks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)

    assert "value-000020" in file.read_text()


def written(folder: Path) -> Path:
    """Write an output whose masks are all in the part that is cut out."""
    file, line = folder / "output.log", "a line of a log\n" * 5_000
    masked = "".join(f"::add-mask::value-{n:06}\n" for n in range(MOST))
    file.write_text(f"{line}{masked}{line}")
    return file


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\n", b'{"a":1}\n"river-of-words"\n[]\n12\n', b"null\n"),
        *(b"[" * 200_000, b'"%s"' % (b"x" * 100_000), b'"x"\n' * 200_000),
        b"\n".join(b'"value-%06d"' % number for number in range(10_000)),
    ],
)
def test_whatever_is_noted_is_no_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "masks").write_bytes(content)

    (tmp_path / "output.log").write_text("::add-mask::of the output\n")
    noted = noted_masks(tmp_path / "output.log")

    assert len(noted) <= MOST
    assert all(len(value) <= LONGEST for value in noted)
    expected = [*noted, "of the output"][:MOST]
    assert masks_of(tmp_path / "output.log") == expected


def test_masks_of_the_head_count_before_those_that_were_cut_out(tmp_path: Path) -> None:
    file, line = tmp_path / "output.log", "a line of a log\n" * 5_000
    masked = "".join(f"::add-mask::value-{n:06}\n" for n in range(2 * MOST))
    file.write_text(f"::add-mask::the first\n{line}{masked}{line}")

    assert cut_middle(file, 64 * 1024, note_masks)
    assert masks_of(file)[0] == "the first"
    assert len(masks_of(file)) == MOST


def test_a_line_that_a_cut_ends_is_no_mask(tmp_path: Path) -> None:
    file, size = tmp_path / "output.log", 4 * MASK_LINE
    mask = b"::add-mask::production-token-of-the-run\n"
    filled = b"a line of a log\n" * (-(-(100 + size) // 16))
    file.write_bytes(filled[: 100 + size - 20] + b"\n" + mask + filled)

    note_masks(file, 50, 100)

    assert noted_masks(file) == []


def test_a_mask_that_is_not_utf_8_is_hidden_where_a_text_has_it(tmp_path: Path) -> None:
    file = tmp_path / "output.log"
    file.write_bytes(b"::add-mask::p\xe4ssw\xf6rt-geheim\n")

    redactor = Redactor.of(()).also(masks_of(file))

    shown = redactor.scrub(file.read_text(errors="replace"))
    assert shown == f"::add-mask::{MARK}\n"


def test_a_mask_behind_a_long_progress_bar_is_found(tmp_path: Path) -> None:
    """Without a line end for longer than a part of the output that is read at a time."""
    output = tmp_path / "output.log"
    bar = "".join(f"{number:>7} of 400000\r" for number in range(150_000))
    output.write_text(f"{bar}::add-mask::river-of-words\r{bar}\n", newline="")

    assert masks_of(output) == ["river-of-words"]


def test_masks_that_overlap_themselves_cost_no_more_than_others() -> None:
    """Each place was one for each character before: gigabytes for a text of one character."""
    masked = ["a" * length for length in range(12, 12 + MOST)]
    text = "a" * 64 * 1024
    tracemalloc.start()
    try:
        shown = Redactor.of(()).also(masked).scrub(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert shown == MARK
    assert peak < 64 * len(text)


def test_a_mask_of_many_parts_has_few_forms() -> None:
    leaves = ",".join(f'"leaf-number-{n:04}"' for n in range(200))

    redactor = Redactor.of(()).also([f"[{leaves}]"])

    assert redactor.scrub("leaf-number-0007") == "leaf-number-0007"
    assert redactor.scrub(f"x [{leaves}] y") == f"x {MARK} y"
