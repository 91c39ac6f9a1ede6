"""The documentation is whole: each link leads somewhere, and each command line in it is one of the program."""

import re
from urllib.parse import unquote, urlsplit

import pytest

from support.documentation import (
    PAGES,
    ROOT,
    anchors,
    command_lines,
    faults,
    fences,
    links,
    tokens,
)


def leads_nowhere(page: str, link: str) -> bool:
    url = urlsplit(link)
    if url.scheme or url.netloc:
        return False
    target = (ROOT / page).parent / unquote(url.path) if url.path else ROOT / page
    if not target.exists():
        return True
    name = target.resolve().relative_to(ROOT).as_posix()
    return bool(url.fragment) and unquote(url.fragment) not in anchors(name)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    assert [link for link in links(page) if leads_nowhere(page, link)] == []


def test_every_page_that_the_program_names_is_there() -> None:
    files = [
        *(ROOT / "daemon").rglob("*.py"),
        *(ROOT / "contracts").glob("**/*.json"),
        *(ROOT / "systemd").rglob("*.conf"),
        *(ROOT / "docs" / "monitoring").iterdir(),
        ROOT / "config.example.toml",
    ]
    named = {
        name
        for file in files
        for name in re.findall(r"\bdocs/[\w/-]+\.\w+", file.read_text("utf-8"))
    }

    assert "docs/security.md" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


LANGUAGES = {"sh", "text", "mermaid", "python", "toml", "yaml", "ini"}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_has_a_language(page: str) -> None:
    """Commands are `sh`, and a test runs them (test_commands_of_pages.py); forms, output and drawings are `text`."""
    assert {each.info for each in fences(page)} <= LANGUAGES
    assert not [each for each in tokens(page) if each.type == "code_block"]


OF_TODAY = [page for page in PAGES if page not in {"CHANGELOG.md", "docs/cli.md"}]
"""Pages with command lines to type: neither those of earlier releases, nor the form of each command."""


@pytest.mark.parametrize("page", OF_TODAY)
def test_every_command_line_is_one_of_the_program(page: str) -> None:
    assert [each for line in command_lines(page) for each in faults(line)] == []


def test_every_command_line_of_the_playbook_is_one_of_the_program() -> None:
    playbook = (ROOT / "examples" / "ansible" / "machines.yml").read_text("utf-8")
    calls = re.findall(r"{{ dispatchd_(?:hub_)?program }} ([^\n\"]*)", playbook)

    assert len(calls) == 3
    lines = [re.sub(r"{{.*?}}", "SOME", call) for call in calls]
    assert [each for line in lines for each in faults(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "jobs --no-such-option",
        "no-such-command",
        "hub machine remove build-1",
        "hub show JOB | no-such-command JOB",
        "hub resolve JOB --retry | --no-such-option",
        "hub jobs --state",
        "show JOB OTHER",
        "hub init new && dispatchd hub no-such-command FILE",
    ],
)
def test_a_command_line_that_does_not_exist_is_found(line: str) -> None:
    assert [each.line for each in faults(line)] == [line]


def test_the_site_has_every_page_and_what_it_leads_to() -> None:
    of_site = re.findall(
        r"^SITE := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    kept = [ROOT / name for name in of_site[0].replace("\\\n", " ").split()]
    targets = {
        ((ROOT / page).parent / unquote(urlsplit(link).path)).resolve()
        for page in PAGES
        for link in links(page)
        if urlsplit(link).path and not urlsplit(link).scheme
    }

    needed = {*targets, *(ROOT / page for page in PAGES)}
    lost = [
        str(each.relative_to(ROOT))
        for each in needed
        if not any(each.is_relative_to(name) for name in kept)
    ]
    assert lost == []


def test_the_menu_of_the_site_has_every_page_once() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]

    assert sorted(re.findall(r": (\S+\.md)$", menu, re.MULTILINE)) == PAGES
