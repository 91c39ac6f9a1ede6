"""The promise of contracts/README.md, form by form, and what it says that nobody can promise."""

import base64
import html
import json
import re
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from dispatchd.redaction.encodings import ENCODINGS
from dispatchd.redaction.invisible import shown
from dispatchd.redaction.redactor import MARK, Redactor

ROOT: Final = Path(__file__).parents[2]
CONTRACT: Final = (ROOT / "contracts" / "README.md").read_text()
SAMPLES: Final = json.loads(
    (ROOT / "tests" / "fixtures" / "redaction" / "encodings.json").read_text()
)
SECRET: Final[str] = SAMPLES["secret"]
KEY: Final = "S3cr3t-Deploy-Key-Value-42"


def leaks(text: str, secret: str) -> list[str]:
    """Return the runs of 6 characters of a secret that a reader sees in a text."""
    seen = shown(text.replace(MARK, " ")).replace("\n", "")
    runs = (secret[at : at + 6] for at in range(len(secret) - 5))
    return [run for run in runs if run in seen]


def test_the_contract_lists_exactly_the_forms_that_are_looked_for() -> None:
    _, _, section = CONTRACT.partition("### Secrets taken out\n")
    listed = re.findall(
        r"^\* (.+)$", section.partition("How it looks")[0], re.MULTILINE
    )

    assert listed == list(ENCODINGS)


@pytest.mark.parametrize("name", sorted(SAMPLES["promised"]))
def test_a_promised_form_is_found_wherever_it_stands(name: str) -> None:
    text = SAMPLES["promised"][name]
    redactor = Redactor.of([SECRET])

    for before, after in (
        ("", ""),
        ("a ", " b"),
        ("x=", "&y"),
        ("<", ">"),
        ("\n", "\n"),
    ):
        clean = redactor.scrub(f"{before}{text}{after}")
        assert MARK in clean, (name, before)
        assert not leaks(clean, SECRET)
        # What is left of it are ends that its neighbours have a part in.
        assert len(clean) <= len(before + after) + 28


@pytest.mark.parametrize("name", sorted(SAMPLES["not_promised"]))
def test_what_is_not_promised_is_left_as_it_was_written(name: str) -> None:
    text = SAMPLES["not_promised"][name]

    assert Redactor.of([SECRET]).scrub(text) == text


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize(
    "secret",
    ["hunter2", SECRET, "pa$$ \"quoted\" 'x' \\ ü€😀 <&>", "two\nlines of it ~#"],
)
def test_each_form_is_found_by_itself(encoding: str, secret: str) -> None:
    redactor = Redactor.of([secret])

    for form in ENCODINGS[encoding](secret):
        if len(form) >= 6:
            assert redactor.scrub(f"({form})") == f"({MARK})"


@pytest.mark.parametrize(
    "text",
    [
        f"key={KEY}\nS3cr3t-\x1b[01;31m\x1b[KDeploy\x1b[m\x1b[K-Key-Value-42\n",
        "S3cr3t-\x1b]8;;http://x\x1b\\Deploy\x1b]8;;\x1b\\-Key-Value-42",
        "S3cr3t-\x1b]8;;http://x\x07Deploy\x1b]8;;\x07-Key-Value-42",
        "S3cr3t-\x1b[38;2;1;2;3mDeploy\x1b[0m-Key\x1b[1D-Value-42",
        "S3cr3t-\x9b31mDeploy\x9bm-Key-Value-42",
        "S3cr3t-\x1b(BDeploy\x1b7-Key\x1b=-Value-42",
        "S3cr3t-\x1bP1$r0m\x1b\\Deploy\x1b_x\x1b\\-Key-Value-42",
        "S3cr3t-Dep\x1bloy-Key-Value-42",
        f"S3cr3t-\x1b[{'1;' * 5000}mDeploy-Key-Value-42",
        f"S3cr3t-\x1b]0;{'x' * 9000}\x07Deploy-Key-Value-42",
        f"\x1b]0;unfinished {KEY[:9]}\n{KEY[9:]}",
        "\x00".join(KEY),
        "\r".join(KEY),
        "\t".join(KEY),
        "\x08\x7f".join(KEY),
        "\u200b".join(KEY),
        "\u00ad\u2060\ufeff".join(KEY),
        "\u0301".join(KEY),
        "\ufe0f".join(KEY),
        "\U000e0041".join(KEY),
        "\x1b[31m" + "\x1b[0m\x1b[31m".join(KEY) + "\x1b[0m",
        "\x1b[" + KEY,
        "\x1b]" + KEY,
        "\x1b]0;" + KEY + "\x07",
        json.dumps("S3cr3t-\x1b[31mDeploy\x1b[0m-Key-Value-42"),
        base64.b64encode(KEY.encode()).decode().replace("U", "\x1b[31mU\x1b[0m"),
        "é1: S3cr3t-\x1b[31mDeploy\x1b[0m-Key-Value-42 ✓",
    ],
)
def test_what_is_not_seen_hides_nothing(text: str) -> None:
    clean = Redactor.of([KEY]).scrub(f"before {text} after")

    assert clean.startswith("before ")
    assert MARK in clean
    assert not leaks(clean, KEY)
    assert not leaks(re.sub(r"[\x00-\x1f\x7f-\x9f]", "", clean), KEY)


@pytest.mark.parametrize(
    "secret", ["p@ss\"w0rd'x\\y", "100%41 of &lt; it", "two\\nwords"]
)
def test_what_looks_like_an_escape_in_a_secret_is_found_in_escapes(secret: str) -> None:
    redactor = Redactor.of([secret])
    twice = html.escape(html.escape(secret))
    mixed = quote(json.dumps(html.escape(secret))[1:-1], safe="")

    for text in (secret, twice, mixed):
        assert redactor.scrub(f"({text})") == f"({MARK})"


def test_colours_beside_a_secret_stay() -> None:
    text = f"\x1b[32mok\x1b[0m {KEY}\x1b[0m \x1b[31mred\x1b[0m\r\n"

    assert Redactor.of([KEY]).scrub(text) == text.replace(KEY, MARK)


def test_a_credential_with_a_colour_inside_is_taken_out() -> None:
    clean = Redactor.of([]).scrub("ghp_16C7e42F292c6912\x1b[1mE7710c838347Ae178B4a!")

    assert clean == f"{MARK}!"


@pytest.mark.parametrize(
    "prefix",
    [
        *(
            "log: ",
            "> ",
            "| ",
            "# ",
            "+ ",
            "\t",
            "    ",
            "[build] ",
            "web_1  | ",
            "12: ",
        ),
        *("2026-11-28T10:11:12.345Z ", "2026-11-28 10:11:12,345 INFO ", "10:11:12 "),
        *(
            "Nov 28 10:11:12 host prog[12]: ",
            "     7\t",
            "> > ",
            "[1/2] log: ",
            "##[x] ",
        ),
    ],
)
def test_a_secret_over_lines_with_a_prefix_is_found(prefix: str) -> None:
    lines = [KEY[:9], KEY[9:18], KEY[18:]]
    wrapped = base64.b64encode(KEY.encode() * 3).decode()

    clean = Redactor.of([KEY]).scrub("".join(f"{prefix}{line}\n" for line in lines))
    encoded = Redactor.of([KEY]).scrub(
        "\n".join(prefix + wrapped[at : at + 30] for at in range(0, len(wrapped), 30))
    )

    assert not leaks(clean, KEY)
    assert clean == f"{prefix}{MARK}\n"
    assert encoded.startswith(f"{prefix}{MARK}")
    assert len(encoded) < len(prefix) + 40


@pytest.mark.parametrize("prefix", ["log: ", "  ", "| "])
def test_the_short_lines_of_a_secret_go_with_the_rest_of_it(prefix: str) -> None:
    secret = "-- key --\nshort\nlonger line of it\nend"

    clean = Redactor.of([secret]).scrub(
        "".join(f"{prefix}{line}\n" for line in secret.split("\n"))
    )

    assert clean == f"{prefix}{MARK}\n"
