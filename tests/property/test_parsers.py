import json

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.domain.event import job_from_event
from dispatchd.domain.job import Job, Json
from dispatchd.domain.parameters import LONGEST_VALUE, derive
from dispatchd.domain.raw_json import members
from dispatchd.domain.redaction import scrub

texts = st.text(st.characters(), max_size=20)
values: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(
    [
        "action",
        "repository",
        "sender",
        "release",
        "workflow",
        "pull_request",
        "issue",
        "ref",
        "html_url",
        "head",
        "number",
    ]
)
payloads = values | st.dictionaries(
    names, st.dictionaries(names, values, max_size=4) | values, max_size=6
)


@given(st.dictionaries(texts, values, max_size=6), st.sampled_from([None, 1]))
def test_members_are_slices_of_the_source_that_mean_their_values(
    document: dict[str, Json], indent: int | None
) -> None:
    text = json.dumps(document, indent=indent)

    found = members(text)

    assert {name: member.value for name, member in found.items()} == document
    for member in found.values():
        assert member.text in text
        assert json.loads(member.text) == member.value


@given(payloads, texts)
def test_no_payload_can_break_the_parameters(payload: Json, event: str) -> None:
    found = derive(job_from_event("j", "w", event, payload), payload)

    assert list(found.values) == sorted(found.values)
    for value in found.values.values():
        assert 0 < len(value.encode()) <= LONGEST_VALUE
        assert value.isprintable() or not any(ord(letter) < 32 for letter in value)


@given(texts, texts)
def test_no_field_of_a_job_can_break_the_parameters(one: str, other: str) -> None:
    job = Job(
        id=one or "j",
        workflow=other,
        ref=one,
        sha=other,
        repository=f"{one}/{other}",
        actor=one,
    )

    derive(job, None)


@given(st.text(), st.sets(st.text(min_size=6, max_size=12), max_size=4), st.text())
@example("", {"[redacted]"}, "")
def test_no_known_secret_survives(before: str, secrets: set[str], after: str) -> None:
    text = before + "".join(secrets) + after

    scrubbed = scrub(text, secrets)

    for secret in secrets - {"[redacted]"}:
        assert secret not in scrubbed or secret in "[redacted]" * 2
