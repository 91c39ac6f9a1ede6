"""Lines of a log as the page shows them: colours and log commands by classes, everything else inert."""

import pytest

from dispatchd.hub.web.ansi import Style, log_html


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
        ("::group::Build", "::group::Build"),
        ("::debug::x", "::debug::x"),
        ("not ::error::here", "not ::error::here"),
    ],
)
def test_a_line_is_shown_as_it_is(line: str, html: str) -> None:
    shown, style = log_html(line, Style())

    classes = {"::e": "b f1", "  :": "b f3", "::n": "b f4", "::g": "b"}.get(line[:3])
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
