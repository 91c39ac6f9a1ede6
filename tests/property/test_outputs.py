"""The outputs of a run: whatever a command writes is read without an error, and what is meant is read as meant."""

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.agent.domain.run.outputs import LARGEST, MOST, parse, reported
from dispatchd.redaction.redactor import Redactor

SECRET = "correct-horse-battery-staple"
REDACTOR = Redactor.of([SECRET])

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]*", fullmatch=True)
anything = st.text(st.characters() | st.sampled_from("=<\n\r\0 "))
lines = st.lists(
    st.sampled_from(["a=1", "a<<E", "E", "<<", "=", "b<<E<<F", "E<<F", "", "x", SECRET])
    | anything,
    max_size=12,
).map("\n".join)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """Draw a file as a careful command writes it, and what it means."""
    pairs = draw(st.lists(st.tuples(names, anything), max_size=8))
    text = ""
    for name, value in pairs:
        if "\n" in value or draw(st.booleans()):
            delimiter = "E"
            while delimiter in value.split("\n"):
                delimiter += "E"
            text += f"{name}<<{delimiter}\n{value}\n{delimiter}\n"
        else:
            text += f"{name}={value}\n"
    return text, dict(pairs)


@given(written())
def test_what_was_written_comes_back(case: tuple[str, dict[str, str]]) -> None:
    text, meant = case

    found = parse(text)

    assert dict(found.values) == meant
    assert found.left_out == 0


@given(lines, st.booleans())
@example("a<<E", False)
@example("\ud800=\ud800\na=\ud800", True)
def test_anything_is_read_and_reported_within_the_limits(text: str, cut: bool) -> None:  # noqa: FBT001  # drawn
    found = reported(parse(text, cut=cut), REDACTOR.scrub)

    sizes = [
        len(name) + len(value.encode(errors="replace"))
        for name, value in found.values.items()
    ]
    assert len(sizes) <= MOST
    assert sum(sizes) <= LARGEST
    assert SECRET not in str(found)
    assert len(found.sentences) <= 6


@given(
    st.lists(
        st.tuples(names, st.integers(0, LARGEST)),
        max_size=MOST + 20,
        unique_by=lambda p: p[0],
    )
)
def test_of_many_large_outputs_as_many_as_fit_are_reported(
    sizes: list[tuple[str, int]],
) -> None:
    text = "".join(f"{name}={'x' * size}\n" for name, size in sizes)

    found = reported(parse(text), str)

    room = LARGEST
    fitting: list[str] = []
    for name, size in sizes:
        if len(fitting) < MOST and len(name) + size <= room:
            fitting.append(name)
            room -= len(name) + size
    assert list(found.values) == fitting
    assert found.left_out == len(sizes) - len(fitting)
