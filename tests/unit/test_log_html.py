"""Lines of a log as the page shows them: colours and log commands by classes, everything else inert."""

import pytest

from dispatchd.hub.web.ansi import Style, log_html
from dispatchd.hub.web.log import Point
from dispatchd.hub.web.log_lines import folded, numbered


@pytest.mark.parametrize(
    ("line", "html"),
    [
        ("plain <b>&", "plain &lt;b&gt;&amp;"),
        ("\x1b[31mred\x1b[0m not", '<span class="f1">red</span> not'),
        ("1%\r2%\r3%\r", "3%"),
        (
            "::error file=a.py,line=3::It <is>",
            "::error file=a.py,line=3::It &lt;is&gt;",
        ),
        ("  ::warning::Slow", "  ::warning::Slow"),
        ("::notice::Seen", "::notice::Seen"),
        ("::debug::x", "::debug::x"),
        ("not ::error::here", "not ::error::here"),
    ],
)
def test_a_line_is_shown_as_it_is(line: str, html: str) -> None:
    shown, style = log_html(line, Style())

    classes = {"::e": "b f1", "  :": "b f3", "::n": "b f4"}.get(line[:3])
    assert shown == (f'<span class="{classes}">{html}</span>' if classes else html)
    assert style == Style()


def test_a_colour_goes_on_in_the_next_lines_also_behind_a_command() -> None:
    shown, style = log_html("\x1b[1;32ma\n::error::b\nc", Style())

    assert shown.split("\n") == [
        '<span class="b f2">a</span>',
        '<span class="b f1"><span class="b f2">::error::b</span></span>',
        '<span class="b f2">c</span>',
    ]
    assert style.token == "bf2"
    assert Style.read(style.token) == style


@pytest.mark.parametrize(
    ("line", "html"),
    [
        ("::group::Build <b>", '<span class="b">Build &lt;b&gt;</span>'),
        ("  ##[group]Build\r", '<span class="b">Build</span>'),
        (
            "::group::\x1b[31mRed\x1b[0m\x1b[2J",
            '<span class="b"><span class="f1">Red</span></span>',
        ),
        ("::group::", '<span class="b">(untitled)</span>'),
        ("::group::\x1b[31m \x1b[0m", None),
        ("::endgroup::", '<span class="d">::endgroup::</span>'),
        ("##[endgroup]", '<span class="d">##[endgroup]</span>'),
        ("##[group", "##[group"),
    ],
)
def test_a_group_is_shown_by_its_title(line: str, html: str | None) -> None:
    shown, _ = log_html(line, Style())

    assert shown == html if html else "(untitled)" in shown


def fold_of(
    text: str, *, is_inside: bool = False, closes: bool = False, wanted: int = -1
) -> tuple[str, bool]:
    return folded(text, text, is_inside=is_inside, closes=closes, wanted=wanted)


ENDED = "::group::A\na\n::endgroup::\n"


@pytest.mark.parametrize(
    ("text", "html", "goes_on"),
    [
        ("a\nb", "a\nb", False),
        ("", "", False),
        (
            "a\n::group::A\nb\n::endgroup::\nc",
            "a\n<details open><summary>::group::A\n</summary>b\n::endgroup::\n</details>c",
            False,
        ),
        (
            "##[group]A\n::group::B\nb",
            (
                "<details open><summary>##[group]A\n</summary></details>"
                "<details open><summary>::group::B\n</summary>b</details>"
            ),
            True,
        ),
        ("a\n::endgroup::\nb\n", "a\n::endgroup::\nb\n", False),
    ],
)
def test_a_group_is_a_fold_that_the_next_one_ends(
    text: str, html: str, *, goes_on: bool
) -> None:
    assert fold_of(text) == (html, goes_on)


def test_a_group_goes_on_in_the_next_part_of_a_log() -> None:
    assert fold_of("a\n", is_inside=True) == ('<span class="in">a\n</span>', True)
    html, goes_on = fold_of("a\n::endgroup::\nb\n", is_inside=True)
    assert html == '<span class="in">a\n::endgroup::\n</span>b\n'
    assert not goes_on
    html, goes_on = fold_of("a\n::group::B\n", is_inside=True)
    assert html == (
        '<span class="in">a\n</span>'
        "<details open><summary>::group::B\n</summary></details>"
    )
    assert goes_on
    point = Point(part=2, offset=7, line=3, is_inside=True)
    assert Point.read(point.text) == point


def test_folds_of_ended_groups_are_closed_unless_somebody_wants_what_is_in_them() -> (
    None
):
    failed = "::group::A\n::error::a\n::endgroup::\n"

    assert "<details>" in fold_of(ENDED, closes=True)[0]
    assert "<details>" in fold_of(ENDED, closes=True, wanted=3)[0]
    assert "<details open>" in fold_of(ENDED, closes=True, wanted=1)[0]
    assert "<details open>" in fold_of(failed, closes=True)[0]
    # Whatever has ended the run, happened in it.
    assert "<details open>" in fold_of("::group::A\na\n", closes=True)[0]


def test_numbers_of_lines_are_in_their_folds_and_stay_as_they_are() -> None:
    text = f"one\n{ENDED}five\n"

    html, _ = folded(numbered(log_html(text, Style())[0], 1, 1), text)

    assert html == (
        '<i id="L1" data-n="1"></i>one\n<details open>'
        '<summary><i id="L2" data-n="2"></i><span class="b">A</span>\n</summary>'
        '<i id="L3" data-n="3"></i>a\n'
        '<i id="L4" data-n="4"></i><span class="d">::endgroup::</span>\n</details>'
        '<i id="L5" data-n="5"></i>five\n'
    )


def test_many_groups_are_as_many_folds() -> None:
    text = "::group::<b>\n" * 100_000

    html, goes_on = folded(log_html(text, Style())[0], text)

    assert html.count("<details") == html.count("</details>") == 100_000
    assert "<b>" not in html
    assert goes_on
