"""The manual page is the commands' own help: complete, up to date, and clean for groff."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dispatchd import __version__
from dispatchd.cli.main import cli
from dispatchd.cli.manual import page

PAGE = Path(__file__).parents[2] / "docs" / "dispatchd.1"


def leaves(group: click.Group, words: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def test_the_page_in_the_docs_is_that_of_the_commands() -> None:
    assert PAGE.read_text() == page(cli, __version__), "run `make docs`"


def test_every_command_and_option_is_on_it() -> None:
    text = page(cli, __version__).replace(r"\-", "-")

    for words, command in leaves(cli, "dispatchd"):
        assert f'.SS "{words}' in text
        for parameter in command.params:
            assert parameter.opts[-1] in text or parameter.param_type_name != "option"


def test_it_does_not_depend_on_who_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = page(cli, __version__)
    monkeypatch.setenv("HOME", "/somewhere/else")
    monkeypatch.setenv("COLUMNS", "40")

    assert page(cli, __version__) == before
    assert "/root" not in before
    assert before.isascii()


@pytest.mark.host
@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_has_no_complaint() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-ww", str(PAGE)],
        capture_output=True,
        check=True,
    )

    assert done.stderr == b""
    assert b"dispatchd resolve" in done.stdout


@pytest.mark.parametrize(
    ("words", "roff"),
    [
        (".a request", r"\&.a request"),
        ("'another", r"\&\(aqanother"),
        ("back\\slash", r"back\eslash"),
        ("--option", r"\-\-option"),
        ("naïve", r"na\[u00EF]ve"),
    ],
)
def test_words_that_mean_something_to_roff_come_out_as_they_are(
    words: str, roff: str
) -> None:
    @click.group(help="Do.")
    def root() -> None:
        """Do nothing."""

    @root.command(help=words)
    def one() -> None:
        """Do nothing."""

    assert f"\n{roff}\n" in page(root, "1")
