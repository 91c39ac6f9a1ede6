"""A brief holds facts, keeps its contract, and never a credential, wherever one was planted."""

import json
from typing import Any

from attrs import evolve, fields
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.domain.job import Attempt
from dispatchd.agent.domain.run.brief import brief
from dispatchd.protocol.contracts import check
from dispatchd.protocol.job import Job
from dispatchd.redaction.redactor import Redactor
from support.fixtures import Example, examples
from support.records import NOW

ATTEMPT = Attempt(number=2, started_at=NOW, deadline_at=NOW)

KNOWN = "a-secret-that-the-machine-knows"
TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
PASSWORD = "hunter2-hunter2"
PLANTED = {
    "a known secret": KNOWN,
    "a token": f"see {TOKEN} for it",
    "a clone address": f"https://x-access-token:{TOKEN}@github.com/o/r.git",
    "an address with a password": f"https://user:{PASSWORD}@example.com/o/r.git",
}
SECRETS = (KNOWN, TOKEN, PASSWORD)

texts = st.sampled_from(sorted(PLANTED.values())) | st.text(max_size=20)
TEXT_FIELDS = [
    each.name for each in fields(Job) if each.type is str and each.name != "id"
]
jobs = st.builds(
    lambda words, numbers: evolve(Job(id="j"), **words, **numbers),
    st.fixed_dictionaries(dict.fromkeys(TEXT_FIELDS, texts)),
    st.fixed_dictionaries(
        dict.fromkeys(
            ("pull_request", "issue", "comment_id"), st.none() | st.integers(0, 9)
        )
    ),
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**70) | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=6,
)
PLACES = [
    ("repository", "clone_url"),
    ("repository", "default_branch"),
    ("repository", "token"),
    ("pull_request", "base", "ref"),
    ("pull_request", "head", "ref"),
    ("comment", "id"),
    ("comment", "body"),
    ("installation", "access_token"),
]


@st.composite
def planted(draw: st.DrawFn) -> Any:
    """Draw a payload with anything at the places that a brief looks at, and around them."""
    payload: dict[str, Any] = draw(
        st.dictionaries(st.text(max_size=5), trees, max_size=3)
    )
    for place in PLACES:
        if draw(st.booleans()):
            node = payload
            for name in place[:-1]:
                inner = node.get(name)
                node[name] = inner if isinstance(inner, dict) else {}
                node = node[name]
            node[place[-1]] = draw(trees)
    return payload


def written(job: Job, payload: Any) -> str:
    document = brief(
        job,
        payload,
        ATTEMPT,
        workspace="/w",
        scrub=Redactor.of([KNOWN]).scrub,
    )
    check("run-brief", json.loads(json.dumps(document)))
    return json.dumps(document, ensure_ascii=False)


@given(jobs, planted())
def test_no_credential_gets_in_from_anywhere(job: Job, payload: Any) -> None:
    # The workflow's name is the machine's own word.
    text = written(evolve(job, workflow="it"), payload)

    assert not [secret for secret in SECRETS if secret in text]
    assert '"token"' not in text
    assert '"claim_token"' not in text
    assert '"access_token"' not in text


@given(st.sampled_from(examples()))
def test_a_real_payload_makes_a_brief_that_loses_no_fact(example: Example) -> None:
    payload = json.loads(example.text)
    job = Job(id="j", workflow="it", repository="octo-org/hello", ref="refs/heads/x")

    document = json.loads(written(job, payload))

    assert document["target"]["ref"] == "refs/heads/x"
    assert document["repository"]["owner"] == "octo-org"
    # A stranger's word for where to clone from is none.
    assert document["repository"]["clone_url"] == ""
    comment = payload.get("comment")
    assert (document["target"]["comment"] or {}).get("body") == (comment or {}).get(
        "body"
    )
