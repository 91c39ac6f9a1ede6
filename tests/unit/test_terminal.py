"""What commands print of others' texts: nothing acts on the terminal, and a log keeps its lines and colours."""

import io

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.cli.screen.names import hint, short_ids
from dispatchd.cli.screen.table import (
    Column,
    Kind,
    cells_of,
    print_pairs,
    print_table,
    table_lines,
)
from dispatchd.cli.terminal import LogFilter, echo
from dispatchd.linux.log import configure
from dispatchd.redaction.escapes import coloured, written_out
from dispatchd.redaction.known_secrets import KnownSecrets
from support.logs import own_log

EVIL = "esc\x1b]0;PWNED\x07\x1b[2J\x1b[31m"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (EVIL, r"esc\x1b]0;PWNED\x07\x1b[2J\x1b[31m"),
        ("r\nx", r"r\x0ax"),
        ("\u202eevil", r"\u202eevil"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u2028b\ud800", r"a\u2028b\ud800"),
        ("Grüße ✓ 👩\u200d💻", "Grüße ✓ 👩\u200d💻"),
    ],
)
def test_tables_and_pairs_write_out_what_acts(
    text: str, seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_table([Column("JOB"), Column("FOR")], [[text, "x"]])
    print_pairs({"job": text, "for": ""})

    assert capsys.readouterr().out.splitlines() == [
        f"{'JOB'.ljust(cells_of(seen))}  FOR",
        f"{seen}  x",
        f"job  {seen}",
    ]


def test_lines_stay_lines_and_write_out_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    echo(f"one\n\ttwo {EVIL}", err=True)

    assert capsys.readouterr().err == f"one\n\ttwo {written_out(EVIL)}\n"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[01;31m\x1b[Kred\x1b[m\x1b[K\r\n", None),
        ("50 %\r100 %\n", None),
        ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
        ("\x1b]0;PWNED\x07", r"\x1b]0;PWNED\x07"),
        ("\x1b]52;c;ZXZpbA==\x1b\\", r"\x1b]52;c;ZXZpbA==\x1b" + "\\"),
        ("\x1bP1$r\x1b\\ \x1bc \x9b5n \x08", r"\x1bP1$r\x1b\ \x1bc \x9b5n \x08"),
        ("\x1b[31", r"\x1b[31"),
    ],
)
def test_of_a_log_colours_pass_and_nothing_else(text: str, seen: str | None) -> None:
    assert coloured(text) == (text if seen is None else seen)


def test_the_daemon_s_log_on_a_terminal_writes_out_what_jobs_say() -> None:
    out = io.StringIO()
    with own_log():
        configure("info", "text", known=KnownSecrets(), under_systemd=False, out=out)
        structlog.get_logger().info("job_pulled", job_id=EVIL, ref="\u202eevil")

    assert EVIL not in out.getvalue()
    assert r"esc\x1b]0;PWNED\x07\x1b[2J" in out.getvalue()
    assert r"\u202eevil" in out.getvalue()


def test_bytes_that_are_no_text_stay() -> None:
    assert LogFilter().feed(b"a\xff\x9b2J\xc3", last=True) == b"a\xff\x9b2J\xc3"


@given(
    st.lists(
        st.sampled_from(
            ["\x1b[31m", "\x1b[2J", "\x1b", "[", "3", "m", "é", "✓", "\n", "\r", "\x9b"]
        )
    ).map("".join),
    st.lists(st.integers(0, 5)),
)
def test_a_log_in_any_chunks_is_the_same_as_the_whole(
    text: str, cuts: list[int]
) -> None:
    data, at, seen, safe = text.encode(), 0, b"", LogFilter()
    for cut in cuts:
        seen += safe.feed(data[at : at + cut])
        at += cut
    seen += safe.feed(data[at:]) + safe.feed(b"", last=True)

    assert seen == coloured(text).encode()


@given(st.sets(st.text("ab", max_size=4).map("release-2026-{}".format), max_size=20))
def test_a_short_id_is_the_beginning_of_one_id_alone(ids: set[str]) -> None:
    short = short_ids(ids)

    assert set(short) == ids
    for each in ids:
        # An id that is the whole beginning of another one is shown whole, and found because it is equal.
        assert short[each] == each or [
            other for other in ids if other.startswith(short[each])
        ] == [each]


@given(
    st.lists(
        st.tuples(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40)),
        max_size=5,
    ),
    st.integers(30, 200),
)
def test_a_table_fits_the_terminal_and_a_pipe_has_everything(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    columns = [Column("STATE", Kind.STATE), Column("FOR"), Column("NOTE")]

    cut, whole = table_lines(columns, rows, width), table_lines(columns, rows, None)

    assert all(cells_of(line) <= width for line in cut)
    assert len(cut) == len(whole) == len(rows) + 1
    for line, row in zip(whole[1:], rows, strict=True):
        assert all(written_out(cell).rstrip() in line for cell in row)


@pytest.mark.parametrize(
    ("typed", "said"),
    [("statsu", "; did you mean status?"), ("xyzzy", ""), ("", "")],
)
def test_a_hint_names_what_is_similar_or_nothing(typed: str, said: str) -> None:
    assert hint(typed, ["status", "jobs", "show"]) == said
