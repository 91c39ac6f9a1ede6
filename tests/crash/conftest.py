"""What kills."""

from pathlib import Path

import pytest

from support.preload import build


@pytest.fixture(scope="session")
def kill_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that kills a hub."""
    source = Path(__file__).with_name("kill_hub.c")
    return build(source, tmp_path_factory.mktemp("kill-hub"))
