"""Notes of logs that are owed: what can't be read takes nothing else with it."""

from pathlib import Path

from dispatchd.agent.store.log_debts import LogDebts


def test_an_unreadable_note_or_folder_is_left_out(tmp_path: Path) -> None:
    debts = LogDebts.open(tmp_path)
    debts.add("a/b")
    (tmp_path / "logs/odd").write_bytes(b"\xff")

    assert debts.list() == ["a/b"]

    (tmp_path / "logs").rename(tmp_path / "elsewhere")
    (tmp_path / "logs").write_text("no folder")

    assert debts.list() == []
