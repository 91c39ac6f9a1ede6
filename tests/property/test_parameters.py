import json
import re
from collections.abc import Mapping
from unicodedata import category

from hypothesis import example, given
from hypothesis import strategies as st

from dispatchd.agent.domain.run.environment import (
    LONGEST_TEXT,
    LONGEST_VALUE,
    Parameters,
    RunPaths,
    derive,
    environment,
    runtime_parameters,
)
from dispatchd.agent.domain.run.go_quote import go_quote
from dispatchd.protocol.github_event import job_from_event
from dispatchd.protocol.job import Job, Json
from support.fixtures import examples

# Lone surrogates, controls and separators as well: all that a JSON string can hold.
letters = st.characters(exclude_categories=())
texts = (
    st.text(letters, max_size=12)
    | st.sampled_from(["refs/heads/x", "refs/tags/v1", "refs/pull/1/head", "a\nb"])
    | st.sampled_from(["https://[::1", "http://h:99999999/", "https://u:p@h:1/a"])
    | st.integers(LONGEST_VALUE - 2, LONGEST_VALUE + 2).map(lambda size: "é" * size)
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
values: st.SearchStrategy[Json] = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=8,
)
PAYLOADS: list[Json] = [json.loads(each.text) for each in examples()]


def bent(payload: Json, data: st.DataObject) -> Json:
    """Return a real payload with what is at one place of it replaced by anything."""
    if not isinstance(payload, dict) or not payload or data.draw(st.booleans()):
        return data.draw(values)
    names = [
        "repository",
        "sender",
        "pull_request",
        "release",
        "workflow",
        "html_url",
        "ref",
    ]
    here = [name for name in names if name in payload] or list(payload)
    name = data.draw(st.sampled_from(here))
    return {**payload, name: bent(payload[name], data)}


jobs = st.builds(
    Job,
    id=texts,
    workflow=texts,
    command=texts,
    event=st.sampled_from(["push", "repository_dispatch"]) | texts,
    action=texts,
    repository=texts | st.builds("{}/{}".format, texts, texts),
    repository_id=st.none() | st.integers(0, 2**63 - 1),
    ref=texts,
    sha=texts,
    pull_request=st.none() | st.integers(0, 2**63 - 1),
    actor=texts,
)
runs = st.builds(
    RunPaths,
    run_id=texts,
    attempt=st.integers(1, 9),
    workspace=texts,
    event_file=texts,
    headers_file=texts,
    payload_text=texts | st.sampled_from(["x" * LONGEST_TEXT, '{\n"a": 1}\n', "\0"]),
    headers_text=texts,
)


def assert_within_limits(found: Parameters) -> None:
    assert list(found.values) == sorted(found.values)
    left_out = [each.name for each in found.left_out]
    assert left_out == sorted(left_out)
    assert not set(left_out) & set(found.values)
    assert all(each.reason for each in found.left_out)
    for name, value in found.values.items():
        assert_usable(name, value)


def assert_usable(name: str, value: str) -> None:
    size = len(value.encode())
    assert "\0" not in value
    if name in {"WEBHOOK_PAYLOAD", "WEBHOOK_HEADERS"}:
        assert 0 < size < LONGEST_TEXT
    else:
        assert 0 < size <= LONGEST_VALUE
        assert len(value.splitlines()) == 1
        assert all(category(letter) != "Cc" for letter in value)


@given(jobs, values)
@example(Job(id="j"), {"repository": {"html_url": "https://[::1"}})
@example(Job(id="j"), {"repository": {"html_url": "https://h:port"}})
def test_nothing_breaks_the_parameters(job: Job, payload: Json) -> None:
    assert_within_limits(derive(job, payload))


@given(st.sampled_from(PAYLOADS), st.data())
def test_no_bent_payload_breaks_the_parameters(
    payload: Json, data: st.DataObject
) -> None:
    payload = bent(payload, data)

    found = derive(job_from_event("j", "w", "push", payload), payload)

    assert_within_limits(found)
    # Whatever it says: it chooses among what is configured.
    assert found.values["GITHUB_SERVER_URL"] == "https://github.com"
    assert found.values["GITHUB_API_URL"] == "https://api.github.com"
    assert found.values["GITHUB_GRAPHQL_URL"] == "https://api.github.com/graphql"


@given(jobs, values, runs)
def test_an_environment_has_all_of_the_parameters_and_the_run(
    job: Job, payload: Json, run: RunPaths
) -> None:
    found = environment(job, payload, run)

    assert_within_limits(found)
    assert derive(job, payload).values.items() <= found.values.items()
    assert found.values["DISPATCHD_ATTEMPT"] == str(run.attempt)
    assert "GITHUB_ACTIONS" not in found.values


@given(st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), texts, max_size=5))
def test_the_inline_form_is_one_line_of_quoted_values(
    values: Mapping[str, str],
) -> None:
    form = runtime_parameters(values)

    found = re.findall(r'([A-Z]+)="(?:[^"\\]|\\.)*"(?: |$)', form)
    assert found == sorted(values)
    assert len(form.splitlines()) <= 1
    assert "\0" not in form.encode().decode()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_text_can_be_read_back(text: str) -> None:
    inside = go_quote(text)[1:-1]

    # Python's literals know every escape that Go writes.
    backslashed = inside.replace('\\"', '"').encode("ascii", "backslashreplace")
    assert backslashed.decode("unicode_escape") == text
