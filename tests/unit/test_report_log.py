"""How much of a log leaves the machine: `report_log`, and the name that it had before."""

from pathlib import Path

import pytest

from dispatchd.agent.config.load import Config, Places, load
from dispatchd.errors import ConfigError
from support.daemon import write_config


def config_with(folder: Path, line: str) -> Config:
    file = write_config(
        folder, "http://127.0.0.1:1", {"it": ["/bin/true"]}, limits=line
    )
    places = Places(state_folder=folder, control_folder=folder)
    return load(file, defaults=places, search_path="/bin")


@pytest.mark.parametrize(
    ("line", "mode", "reports"),
    [
        ("", "full", True),
        ('report_log = "tail"', "tail", True),
        ('report_log = "never"', "never", False),
        ("report_output = true", "tail", True),
        ("report_output = false", "never", False),
    ],
)
def test_the_old_key_is_read_with_a_warning(
    tmp_path: Path,
    line: str,
    mode: str,
    reports: bool,  # noqa: FBT001  # a parameter
) -> None:
    config = config_with(tmp_path, line)

    workflow = config.workflows["it"]
    assert workflow.report_log == mode
    assert workflow.terms.report_output is reports
    is_old = line.startswith("report_output")
    assert len(config.warnings) == is_old
    if is_old:
        assert f'report_log = "{mode}"' in config.warnings[0]


def test_both_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must not stand beside report_log"):
        config_with(tmp_path, 'report_log = "full"\nreport_output = true')
