"""The tutorials, done as their readers do them: each command in its order, and each line that one is to see."""

import re
from pathlib import Path

import pytest
from attrs import evolve

from support.github import app_key
from support.github_app import github_app, press
from support.patience import PATIENCE_S
from support.tutorial import Reader, Step, missing, steps

pytestmark = [pytest.mark.release, pytest.mark.timeout(600)]

MOST_STEPS = 6
"""Most steps from nothing to a check on a pull request (count)."""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def test_the_first_job(reader: Reader) -> None:
    version, start, *others = steps("docs/tutorials/first-job.md")

    with reader.terminal() as first, reader.terminal() as second:
        reader.sees(first, version)
        reader.sees(first, start, until="Ctrl-C ends both")
        for step in others:
            reader.sees(second, step)

    assert len(others) == 8


def test_the_first_check(reader: Reader) -> None:
    quickstart = "dispatchd quickstart ci\n"
    shown = [*steps("docs/tutorials/first-check.md")]
    again = [step.commands for step in shown].index(quickstart)
    installed_and_started = 2

    with github_app(app_key()) as github, reader.terminal() as second:

        def of_here(step: Step) -> Step:
            # Where GitHub is; it has no repository to clone.
            own = f'[github]\napi_url = "{github.url}"\npoll_interval_s = 1\n'
            commands = step.commands.replace("\n[github]\n", f"\n{own}")
            commands = commands.replace("checkout = true\n", "")
            commands = commands.replace('"./ci.sh"', '"-c", "echo checked"')
            return evolve(step, commands=commands)

        with reader.terminal() as first:
            first.types(quickstart, until="Ctrl-C ends both")
            for step in map(of_here, shown[:again]):
                if "github setup" not in step.commands:
                    reader.sees(second, step)
                    continue
                output = second.types(step.commands, until="and press")
                [page_url] = re.findall(r"http://127\S+", output)
                press(page_url)
                output += second.types(":\n")
                assert missing(step, output, reader.home) == [], output
        with reader.terminal() as first:
            reader.sees(first, shown[again], until="Ctrl-C ends both")
            github.open_pull_request()
            assert github.concluded.wait(PATIENCE_S), github.requests[-20:]
            for step in shown[again + 1 :]:
                reader.sees(second, of_here(step))

    assert installed_and_started + again + 1 <= MOST_STEPS
    [check] = github.checks.values()
    assert (check["name"], check["conclusion"]) == ("tests", "success")
    assert len(shown) == 5
