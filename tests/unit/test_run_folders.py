"""The folders of a run: what is the daemon's, what is the command's, and what is left of them."""

from pathlib import Path

from dispatchd.agent.store.runs import Runs


def test_an_attempt_of_an_earlier_release_has_one_folder_for_both(
    tmp_path: Path,
) -> None:
    run = Runs.open(tmp_path).folder("j")
    (run.attempt(1)).mkdir(parents=True)

    assert run.files(1) == run.attempt(1)
    assert run.result_file(1) == run.attempt(1) / "result.json"
    (run.attempt(1) / "run").symlink_to(tmp_path)
    assert run.files(1) == run.attempt(1)


def test_a_short_way_leads_to_the_files_and_goes_with_them(tmp_path: Path) -> None:
    runs = Runs.open(tmp_path)
    runs.create("j" * 200, payload="1", headers="2")
    runs.prepare_attempt("j" * 200, 1)
    run = runs.folder("j" * 200)

    way = runs.short_way(run, 1)
    again = runs.short_way(run, 1)

    assert way == again
    assert len(str(way)) - len(str(tmp_path)) == len("/t/0123456789")
    assert (way / "home").resolve() == run.home(1)
    runs.retire("j" * 200)
    assert list((tmp_path / "t").iterdir()) == []


def test_scratch_goes_and_the_rest_stays(tmp_path: Path) -> None:
    runs = Runs.open(tmp_path)
    runs.create("j", payload="1", headers="2")
    runs.prepare_attempt("j", 1)
    run = runs.folder("j")
    runs.short_way(run, 1)
    (run.temporary(1) / "x").write_text("x")

    # An empty home is removed at once.
    [temporary] = runs.retire_scratch(run, 1)

    assert not run.home(1).exists()
    assert not run.temporary(1).exists()
    assert (temporary / "x").exists()
    assert run.outputs_file(1).exists()
    assert runs.retire_scratch(run, 1) == []


def test_another_attempt_takes_the_place_of_whatever_is_there(tmp_path: Path) -> None:
    runs = Runs.open(tmp_path)
    runs.create("j", payload="1", headers="2")
    run = runs.folder("j")
    run.attempt(1).mkdir()
    (run.attempt(1) / "exit").write_text("0\n")
    run.workspace.rmdir()
    run.workspace.symlink_to("/nonexistent")

    runs.prepare_attempt("j", 1)

    assert not (run.attempt(1) / "exit").exists()
    assert run.workspace.is_dir()
    assert not run.workspace.is_symlink()
