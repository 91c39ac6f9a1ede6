"""Step summaries on the hub's page: they read like Markdown, and nothing in them acts."""

from html.parser import HTMLParser

import pytest
from typing_extensions import override

from dispatchd.hub.web.markdown import markdown

TAGS = {
    *("h4", "h5", "h6", "p", "a", "em", "strong", "s", "code", "pre", "hr", "br"),
    *("ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td"),
}
TABLE = "|a" * 256 + "|\n" + "|-" * 256 + "|\n" + "x\n" * 250 + "\n"
"""A table whose rows are filled up to 64,000 cells."""

ATTRIBUTES = {"href", "rel", "class", "start", "title"}


class Seen(HTMLParser):
    """What a browser would make of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    @override
    def handle_data(self, data: str) -> None:
        self.text += data


def seen(text: str) -> Seen:
    found = Seen()
    found.feed(markdown(text))
    return found


def test_a_summary_reads_like_markdown() -> None:
    text = "# Tests\n\n### Failed\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n* [run](https://ci.example/1)\n"

    html = markdown(text)

    for part in ("<h4>Tests</h4>", "<h5>Failed</h5>", "<td><strong>2</strong></td>"):
        assert part in html
    assert 'href="https://ci.example/1" rel="noreferrer noopener nofollow"' in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script><img src=x onerror=alert(1)>",
        "![x](https://evil.example/x.png) ![y][1]\n\n[1]: https://evil.example/y.png",
        "[a](javascript:alert(1)) [b](JAVASCRIPT&colon;alert(1)) <javascript:alert(1)>",
        "[a](data:text/html,x) [b](//evil.example) [c](/logout) [d](file:///etc/passwd)",
        '[a](https://x.example "t\\" onmouseover=alert(1)")',
        '```x" onload=alert(1)\ncode\n```',
        "<details open ontoggle=alert(1)>\n\n# in it\n\n</details>",
        "| a |\n|:-:|\n| <b>x</b> |",
        "\u202egpj.exe \x1b]0;title\x07 \0",
    ],
)
def test_nothing_in_a_summary_acts(text: str) -> None:
    found = seen(text)

    assert found.tags <= TAGS
    assert {name for name, _ in found.attributes} <= ATTRIBUTES
    links = [value for name, value in found.attributes if name == "href"]
    assert all(link.startswith(("https://", "mailto:")) for link in links)
    for character in "\u202e\x1b\x07\0":
        assert character not in found.text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30_000,
        "*a " * 10_000,
        "`" * 30_000,
        ">" * 30_000,
        "<" * 30_000,
        "x" * 40_000,
        TABLE * 20,
        "|a|\n|-|\n" * 3_000,
        ">" * 100 + "|a|\n" + ">" * 100 + "|-|\n" + "x\n" * 10_000,
    ],
)
def test_no_summary_takes_long_to_read(text: str) -> None:
    assert len(markdown(text)) < 1_000_000


def test_a_table_that_is_filled_up_is_a_text_and_so_are_those_after_it() -> None:
    small = "|a|b|\n|-|-|\n|1|2|\n\n"

    html = markdown(small + TABLE + small)

    assert html.count("<table>") == 1
    assert html.count("<td>1</td>") == 1
    assert "|1|2|" in html
