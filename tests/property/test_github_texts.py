"""Texts for GitHub: whatever comes in, what goes out fits, is valid, has its fences closed and no secret."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.domain.model import Check, HubJob, State
from dispatchd.hub.domain.result_details import kept_details, read_details
from dispatchd.hub.github.checks.report import report
from dispatchd.protocol.outcome import FailureCause
from dispatchd.redaction.redactor import MARK, Redactor
from dispatchd.redaction.truncate import (
    MOST_BYTES,
    clip_line,
    clip_log,
    clip_markdown,
    fenced,
    open_fence,
)

PIECES = st.sampled_from(
    [
        "```",
        "~~~",
        "````py",
        "`",
        "\n",
        "\r\n",
        "\r",
        " ",
        "   ```",
        "é",
        "漢",
        "🙂",
        "\ud800",
        "text ",
        "| a |",
        "\x1b[31m",
        "\0",
    ]
)
MARKDOWN = st.lists(PIECES | st.text(max_size=20), max_size=60).map("".join)
SIZES = st.integers(min_value=0, max_value=400)


@given(MARKDOWN, SIZES)
def test_clipped_markdown_fits_and_leaves_no_fence_open(text: str, most: int) -> None:
    found = clip_markdown(text, most)

    assert len(found.encode()) <= most
    assert open_fence(found) == ""


@given(MARKDOWN, st.integers(min_value=-9, max_value=9))
def test_markdown_that_barely_fits_or_not_is_no_exception(text: str, room: int) -> None:
    most = max(len(text.encode(errors="replace")) + room, 0)

    found = clip_markdown(text, most)

    assert len(found.encode()) <= most
    assert open_fence(found) == ""


@given(MARKDOWN)
def test_markdown_that_fits_stays_as_it_is_but_for_an_open_fence(text: str) -> None:
    found = clip_markdown(text, 100_000)

    clean = text.encode(errors="replace").decode()
    fence = open_fence(clean)
    assert found == (f"{clean}\n{fence}" if fence else clean)


@given(st.text(min_size=300, max_size=600), st.integers(min_value=100, max_value=290))
def test_what_was_cut_from_markdown_is_said_in_its_last_line(
    text: str, most: int
) -> None:
    found = clip_markdown(text, most)

    assert found.splitlines()[-1].endswith("the rest was cut ...]*")


@given(MARKDOWN, SIZES)
def test_a_clipped_log_fits_and_keeps_the_end(text: str, most: int) -> None:
    found = clip_log(text, most)

    assert len(found.encode()) <= most
    clean = text.encode(errors="replace").decode()
    if len(clean.encode()) <= most:
        assert found == clean
    elif found:
        first, _, rest = found.partition("\n")
        assert first.endswith("bytes cut ...]")
        assert clean.endswith(rest)


@given(MARKDOWN, SIZES)
def test_a_fenced_log_fits_and_nothing_in_it_ends_the_fence(
    text: str, most: int
) -> None:
    found = fenced(text, most)

    assert len(found.encode()) <= most
    assert open_fence(found) == ""
    if found:
        fence = found.partition("text\n")[0]
        inside = found[len(fence) : -len(fence)]
        assert fence not in inside


@given(st.text(max_size=300), st.integers(min_value=1, max_value=100))
def test_a_clipped_line_is_one_line_that_fits(text: str, most: int) -> None:
    found = clip_line(text, most)

    assert len(found) <= most
    assert "\n" not in found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["path", "start_line", "end_line", "level", "title", "message", "x"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
WIRE = st.dictionaries(
    st.sampled_from(["result_step_summary", "result_outputs", "result_annotations"]),
    JSON | st.lists(JSON, max_size=4),
)


@given(WIRE)
def test_details_of_any_kind_are_taken_and_come_back_the_same(
    body: dict[str, object],
) -> None:
    kept = kept_details(body)  # type: ignore[arg-type]  # JSON

    assert kept == "" or isinstance(json.loads(kept), dict)
    assert kept_details(json.loads(kept or "{}")) == kept
    for each in read_details(kept).annotations:
        assert each.end_line is not None
        assert 1 <= each.start_line <= each.end_line
        assert each.level in {"notice", "warning", "failure"}


SECRET = "correct-horse-battery-staple-9"
# Also what makes a terminal wait for more.
OPEN = st.sampled_from(
    ["\x1b", "\x1b[", "\x1b[3", "\x1b(", "\x1b]", "\x9b", "\x9d", "\0", "\u200b"]
)
AROUND = st.lists(st.text(max_size=20) | OPEN, max_size=4).map("".join)


@given(
    st.sampled_from(State),
    st.sampled_from(["", *FailureCause]),
    st.lists(AROUND, min_size=8, max_size=8),
    st.sampled_from(["", "\x1b[1m"]),
)
# What a terminal takes for a command reaches into the secret.
@example(State.FAILED, "", [*["x\x1b"] * 8], "")
@example(State.FAILED, "", [*["\x1b"] * 8], "\x1b[1m")
@example(State.FAILED, "", [*["\x1b["] * 8], "\x1b[01;31m\x1b[K")
def test_no_secret_is_in_anything_that_github_is_told(
    state: State, cause: str, around: list[str], colour: str
) -> None:
    half = len(SECRET) // 2
    # Broken up by what a terminal doesn't show.
    hidden = SECRET[:half] + colour + SECRET[half:]
    texts = [f"{each} {hidden} {each}".replace("\ud800", "") for each in around]
    job = HubJob(
        id="j",
        document={},
        state=state,
        result_cause=cause,
        reason=texts[0],
        result_summary=texts[1],
        result_output=texts[2],
        result_details=kept_details(
            {
                "result_step_summary": texts[3],
                "result_outputs": {"name": texts[4], texts[5]: "value"},
                "result_annotations": [
                    {
                        "path": texts[6],
                        "start_line": 1,
                        "level": "notice",
                        "title": texts[7],
                        "message": texts[0],
                    }
                ],
            }
        ),
    )
    check = Check(job_id="j", repository="o/r", sha="a", name="ci")

    found = report(job, check, GithubSettings(app_id=1), Redactor.of([SECRET]))

    told = json.dumps(
        [
            found.creation(),
            found.update(0),
            found.further(0),
            found.smallest(create=True),
            found.status(),
        ],
        ensure_ascii=False,
    )
    # Markdown's own escapes would hide it from this test, and from nobody else.
    assert SECRET[1:] not in told.replace("\\", "")
    assert MARK in told or state not in {State.NEEDS_ATTENTION, State.FAILED}
    output = found.creation()["output"]
    assert isinstance(output, dict)
    for name in ("summary", "text"):
        text = output.get(name, "")
        assert isinstance(text, str)
        assert len(text.encode()) <= MOST_BYTES
        assert open_fence(text) == ""
    assert len(str(output["title"])) <= 255
    assert len(str(found.status()["description"])) <= 140


@given(
    st.integers(min_value=0, max_value=200_000),
    st.sampled_from(["x", "é", "`", "漢\n", "```\n"]),
)
def test_long_texts_fit_together(length: int, letter: str) -> None:
    long = (letter * length)[:200_000]
    job = HubJob(
        id="j",
        document={},
        state=State.FAILED,
        result_summary=long,
        result_output=long[:20_000],
        result_details=kept_details(
            {
                "result_step_summary": long,
                "result_outputs": {"a": long[:9000], "b": long[:9000]},
            }
        ),
    )
    check = Check(job_id="j", repository="o/r", sha="a", name="ci")

    found = report(job, check, GithubSettings(app_id=1), Redactor.of([]))

    assert len(found.summary.encode()) <= MOST_BYTES
    assert len(found.text.encode()) <= MOST_BYTES
    assert open_fence(found.summary) == open_fence(found.text) == ""
