"""The shape of the code: imports go one way, and pictures come from the tables."""

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from dispatchd.domain.phase import diagram

ROOT = Path(__file__).parents[2]


def test_imports_go_one_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)

    code = lint_imports(no_cache=True)

    assert code == 0, capsys.readouterr().out


def test_the_committed_picture_of_the_phases_is_that_of_the_table() -> None:
    assert (ROOT / "docs" / "phases.mmd").read_text() == diagram(), "run: make docs"


def test_no_module_hides_too_much() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "daemon").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 300
    }

    assert long == {}
