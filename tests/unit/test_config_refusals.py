"""Settings that can't stand together, or that this machine lacks: each is one complaint, with key and expectation."""

import os
from pathlib import Path

import pytest

from dispatchd.agent.config.load import Places, load
from dispatchd.errors import ConfigError
from support.daemon import write_config

WORKFLOW = '[workflows.x]\ncommand = ["/bin/true"]\n'

TABLES = [
    (
        f'{WORKFLOW}image = "ci"',
        "workflows.x.image",
        'must stand beside isolation = "container"',
    ),
    (f'{WORKFLOW}isolation = "container"', "workflows.x.image", "must name an image"),
    (
        f'{WORKFLOW}isolation = "none"\nhome = "workflow"',
        "workflows.x.home",
        'must be "attempt"',
    ),
    (
        f'{WORKFLOW}isolation = "none"\nnetwork = "none"',
        "workflows.x.network",
        'must be "host"',
    ),
    (
        '[workflows.x]\ncommand = ["~/bin/build"]',
        "workflows.x.command",
        "which nothing expands",
    ),
    (
        '[secrets.s]\ncommand = ["$HOME/bin/secret"]',
        "secrets.s.command",
        "which nothing expands",
    ),
    (
        '[engines.e]\nkind = "slurm"\nurl = "http://127.0.0.1:1"',
        "engines.e.url",
        'must not stand beside kind = "slurm"',
    ),
    (
        '[engines.e]\nkind = "slurm"\nsettings = { a = 1 }',
        "engines.e.settings",
        'must not stand beside kind = "slurm"',
    ),
    ('[engines.e]\nkind = "dagu"\ndag = "d"', "engines.e.url", "must be set"),
    (
        '[engines.e]\nkind = "slurm"\noptions = ["--hold"]',
        "engines.e.options[0]",
        "which the daemon decides",
    ),
    (
        '[engines.e]\nkind = "slurm"\noptions = ["--qo=x"]',
        "engines.e.options[0]",
        "which has a key of its own: qos",
    ),
    (
        '[engines.e]\nkind = "nobody-s"',
        "engines.e.kind",
        "must be one of",
    ),
]
"""Tables beside those of a usual file, and what is said of them."""

CREDENTIALS = [
    (
        'secret_file = "secret"',
        "",
        "cloud.secret_file",
        "must be set, or secret_credential",
    ),
    (
        'secret_file = "secret"',
        'secret_file = "secret"\nsecret_credential = "machine"',
        "cloud.secret_credential",
        "must not stand beside secret_file",
    ),
    (
        'secret_file = "secret"',
        'secret_file = "elsewhere"',
        "cloud.secret_file",
        "there is none at",
    ),
]
"""Lines of a usual file with others in their place, and what is said then."""


def problems(config: Path) -> list[tuple[str, str]]:
    places = Places(state_folder=config.parent, control_folder=config.parent)
    with pytest.raises(ConfigError) as caught:
        load(config, defaults=places, search_path=os.defpath)
    return [(each.key, each.expected) for each in caught.value.problems]


@pytest.mark.parametrize(("table", "key", "expected"), TABLES)
def test_what_cannot_stand_together_is_one_complaint(
    tmp_path: Path, table: str, key: str, expected: str
) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:1", {"it": ["/bin/true"]})
    with config.open("a") as file:
        file.write(f"\n{table}\n")

    [(found, said)] = problems(config)

    assert (found, expected in said) == (key, True), said


@pytest.mark.parametrize(("line", "other", "key", "expected"), CREDENTIALS)
def test_credentials_are_there_once(
    tmp_path: Path, line: str, other: str, key: str, expected: str
) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:1", {"it": ["/bin/true"]})
    config.write_text(config.read_text().replace(line, other))

    [(found, said)] = problems(config)

    assert (found, expected in said) == (key, True), said
