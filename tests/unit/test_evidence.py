import json
from pathlib import Path

import pytest

from dispatchd.agent.store.evidence import (
    LONGEST_EVENTS,
    MOST_EVENTS,
    EventReader,
    Stories,
    missing_artifacts,
    read_result,
    read_story,
    read_tail,
)
from dispatchd.protocol.result import NoResult, RunResult

PROGRESS = b'{"type": "progress", "completed": 1, "in_progress": 0, "total": 2}\n'


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    inside = tmp_path / "workspace"
    (inside / "dist").mkdir(parents=True)
    (inside / "report.xml").write_text("<r/>")
    (tmp_path / "secret").write_text("x")
    (inside / "inner").symlink_to("report.xml")
    (inside / "outer").symlink_to("../secret")
    (inside / "up").symlink_to("..")
    (inside / "loop").symlink_to("loop")
    (inside / "dangling").symlink_to("nowhere")
    return inside


@pytest.mark.parametrize("wanted", ["report.xml", "dist", "inner", "./report.xml"])
def test_what_is_in_the_workspace_is_there(workspace: Path, wanted: str) -> None:
    assert missing_artifacts(workspace, [wanted]) == ()


def test_a_workspace_that_is_a_link_to_itself_has_no_artifacts(tmp_path: Path) -> None:
    (tmp_path / "workspace").symlink_to("workspace")

    assert missing_artifacts(tmp_path / "workspace", ["dist"]) == ("dist",)
    assert missing_artifacts(tmp_path / "workspace", []) == ()


@pytest.mark.parametrize(
    "wanted",
    [
        "none.xml",
        "dist/none",
        "outer",
        "up/secret",
        "loop",
        "dangling",
        ".",
        "dist/..",
        "../secret",
        "/etc/hostname",
        "a\0b",
        "x" * 300,
    ],
)
def test_what_is_missing_or_leads_out_is_missing(workspace: Path, wanted: str) -> None:
    assert missing_artifacts(workspace, ["report.xml", wanted]) == (wanted,)


def test_a_chain_of_links_is_followed_as_far_as_the_kernel_does(tmp_path: Path) -> None:
    """Seen: each of 501 links was looked at again for each before it, for days."""
    (tmp_path / "l500").write_text("x")
    for number in range(500):
        (tmp_path / f"l{number}").symlink_to(f"l{number + 1}")

    wanted = ["l0", "l499"]
    assert missing_artifacts(tmp_path, wanted) == ("l0",)


def test_a_workspace_below_a_link_is_inside_itself(
    workspace: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(workspace)

    assert missing_artifacts(link, ["report.xml"]) == ()


def test_a_result_of_exactly_1_mib_is_read(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    document = {
        "contract_version": "1",
        "status": "success",
        "summary": "x",
        "exit_reason": "y",
        "body": "",
    }
    room = (1 << 20) - len(json.dumps(document))
    file.write_text(json.dumps({**document, "body": "b" * room}))
    assert isinstance(read_result(file), RunResult)

    file.write_text(json.dumps({**document, "body": "b" * (room + 1)}))
    assert read_result(file) == NoResult("it is larger than 1 MiB")


def test_events_are_read_as_they_come_and_half_a_line_waits(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    reader = EventReader(file)
    assert reader.read().events == 0

    file.write_bytes(PROGRESS + PROGRESS[:10])
    assert reader.read().events == 1

    with file.open("ab") as more:
        more.write(PROGRESS[10:])
    assert (reader.read().events, reader.story.malformed) == (2, 0)


def test_the_last_line_counts_without_its_end(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(PROGRESS + PROGRESS.rstrip())

    assert read_story(file).events == 2


def test_a_line_that_never_ends_is_one_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"[" * 2_000_000 + b"\n" + PROGRESS)

    story = read_story(file)

    assert (story.events, story.malformed) == (1, 1)


def test_events_without_end_are_counted_and_not_read(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(PROGRESS * 10 + b"{}\n" * 200_000 + PROGRESS.rstrip())
    reader = EventReader(file)

    story = reader.read(to_the_end=True)

    assert story.events + story.malformed == MOST_EVENTS
    assert story.events == 10
    assert story.left_out == 200_000 + 11 - MOST_EVENTS
    assert story.bytes_left_out == 0


def test_what_comes_behind_64_mib_of_events_is_not_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(PROGRESS)
    with file.open("ab") as more:
        more.truncate(LONGEST_EVENTS + 10)

    story = read_story(file)

    assert (story.events, story.malformed, story.bytes_left_out) == (1, 1, 10)


def test_what_a_heartbeat_has_read_the_verdict_does_not_read_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(PROGRESS * 3)
    stories = Stories()
    assert stories.so_far(file).events == 3

    # What has been read is not there to be read once more.
    file.write_bytes(b" " * (3 * len(PROGRESS) - 1) + b"\n" + PROGRESS)

    assert stories.whole(file).events == 4
    stories.forget(file)
    assert stories.whole(file).events == 1


def test_the_tail_says_what_is_before_it(tmp_path: Path) -> None:
    file = tmp_path / "output.log"
    file.write_bytes(b"x" * 10 + "é".encode() + b"end")

    assert read_tail(file, 100) == ("x" * 10 + "éend", 0)
    assert read_tail(file, 4) == ("�end", 11)
    assert read_tail(tmp_path / "none", 4) == ("", 0)
