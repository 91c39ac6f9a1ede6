"""Webhooks of senders beside GitHub: pointers, proofs, and mistakes in their configuration."""

import base64
import hmac
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.errors import ConfigError
from dispatchd.hub.auth.webhook_proof import key_of, read_proof
from dispatchd.hub.config.load import FILE, load
from dispatchd.hub.domain.webhooks.delivery import (
    Event,
    Filter,
    id_of_body,
    is_in_window,
    read_event,
    reason_against,
)
from dispatchd.hub.domain.webhooks.pointer import pointer_problem, scalars
from dispatchd.hub.domain.webhooks.senders import (
    Check,
    Encoding,
    Form,
    Sender,
    form_of,
)
from dispatchd.protocol.published.schemas import schema

DOCUMENT: Any = {
    "a": {"b": "text", "c/d": 7, "~": "tilde", "": "empty", "*": "star"},
    "list": [{"id": "x"}, {"id": 2}, {"other": 1}, "word"],
    "no": None,
    "yes": True,
    "half": 1.5,
}


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/a/b", ["text"]),
        ("/a/c~1d", ["7"]),
        ("/a/~0", ["tilde"]),
        ("/a/", ["empty"]),
        ("/a/*", ["star"]),
        ("/list/0/id", ["x"]),
        ("/list/*/id", ["x", "2"]),
        ("/list/*", ["word"]),
        ("/list/-", []),
        ("/list/9", []),
        ("/list/01/id", []),
        ("/a", []),
        ("/no", []),
        ("/yes", []),
        ("/half", []),
        ("/a/b/c", []),
    ],
)
def test_a_pointer_finds_texts_and_whole_numbers(
    pointer: str, expected: list[str]
) -> None:
    assert pointer_problem(pointer) == ""
    assert scalars(DOCUMENT, pointer) == expected


@pytest.mark.parametrize("pointer", ["a", "a/b", "$.a", "/a~", "/a~2b"])
def test_what_is_no_pointer_is_told(pointer: str) -> None:
    assert pointer_problem(pointer).startswith("must be a JSON Pointer")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FORMS = [
    form
    for sender in Sender
    for check in (None, *Check)
    if (form := form_of(sender, check))
]
KNOWN = [
    place.removeprefix("header:")
    for form in FORMS
    for places in (form.id, form.event, form.sha, form.changed, form.pull_request)
    for place in places
]


@st.composite
def hostile(draw: st.DrawFn) -> Any:
    """A payload that has values where senders have them."""
    payload: dict[str, Any] = {}
    for pointer in draw(st.lists(st.sampled_from(KNOWN))):
        at = payload
        *above, last = pointer.split("/")[1:] or [pointer]
        for name in above:
            inner = at.setdefault(name, {})
            at = inner if isinstance(inner, dict) else at
        at[last] = draw(JSON_VALUES)
    return payload


MERGE = {"source_project_id": 1, "target_project_id": 1}
FORK = {"source_project_id": 2}


@given(
    form=st.sampled_from(FORMS),
    headers=st.dictionaries(st.sampled_from(KNOWN), st.text()),
    payload=hostile() | JSON_VALUES,
)
def test_any_delivery_is_read(
    form: Form, headers: dict[str, str], payload: Any
) -> None:
    event = read_event(form, headers, payload)

    assert isinstance(reason_against(Filter(), event), str)
    assert 0 <= event.pull_request < 2**63
    for text in (event.id, event.name, event.repository, event.ref, event.actor):
        assert "\0" not in text.encode().decode()
        assert len(text) <= 512
    assert len(event.sha) in (0, 40, 64)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        # A comment, and a pipeline: they say where the merge request comes from.
        ({"object_kind": "note", "merge_request": {"source_project_id": 2}}, True),
        ({"object_kind": "pipeline", "merge_request": MERGE}, False),
        ({"object_kind": "pipeline", "merge_request": {**MERGE, **FORK}}, True),
        (
            {
                "object_kind": "merge_request",
                "object_attributes": MERGE,
                "merge_request": {**MERGE, **FORK},
            },
            True,
        ),
        # A job says only whose ref it runs.
        ({"object_kind": "build", "ref": "refs/merge-requests/5/head"}, True),
        ({"object_kind": "build", "ref": "main"}, False),
    ],
)
def test_code_of_a_fork_is_known_in_each_event_of_gitlab(
    payload: Any, *, expected: bool
) -> None:
    form = form_of(Sender.GITLAB, None)
    assert form is not None
    assert read_event(form, {}, payload).from_fork is expected


def test_an_update_of_alerts_has_another_id_and_a_repeat_has_not() -> None:
    form = form_of(Sender.ALERTMANAGER, None)
    assert form is not None
    alert = {"fingerprint": "f", "startsAt": "2026-05-05T10:00:00Z", "status": "firing"}
    group: Any = {"groupKey": "g", "status": "firing", "alerts": [alert]}

    def id_of(**changes: Any) -> str:
        return read_event(form, {}, {**group, **changes}).id

    assert id_of() == id_of(receiver="other", truncatedAlerts=1)
    others = [
        id_of(status="resolved"),
        id_of(groupKey="h"),
        id_of(alerts=[alert, {**alert, "fingerprint": "e"}]),
        id_of(alerts=[{**alert, "startsAt": "2026-05-05T11:00:00Z"}]),
        id_of(alerts=[{**alert, "status": "resolved"}]),
    ]
    assert len({id_of(), *others}) == 6


@given(at=st.floats(0, 4e9), later_s=st.floats(0, 4e9), window_s=st.floats(1, 604800))
def test_bodies_a_window_apart_have_other_ids(
    at: float, later_s: float, window_s: float
) -> None:
    first = id_of_body("h", "hash", window_s=window_s, at=at)
    then = at + window_s * 1.000001 + later_s

    assert id_of_body("h", "hash", window_s=window_s, at=then) != first


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (0.0, False),
        (13_600.0, True),
        (100_000.0, True),
        (103_599, True),
        (103_600, False),
    ],
)
def test_a_set_back_of_the_clock_makes_no_body_a_new_one(
    *, now: float, expected: bool
) -> None:
    assert is_in_window(100_000.0, now, 3600.0) is expected


def signed(text: bytes, key: bytes = b"k") -> bytes:
    return hmac.new(key, text, sha256).digest()


@pytest.mark.parametrize(
    ("form", "headers", "before", "count"),
    [
        (
            Form(check=Check.HMAC, header="x-s", prefix="sha256="),
            {"x-s": f"sha256={signed(b'').hex()}"},
            b"",
            1,
        ),
        (
            Form(check=Check.HMAC, header="x-s", encoding=Encoding.BASE64),
            {"x-s": base64.b64encode(signed(b"")).decode()},
            b"",
            1,
        ),
        (
            Form(
                check=Check.HMAC,
                header="x-s",
                prefix="v0=",
                signed="v0:{timestamp}:{body}",
                timestamp="x-t",
            ),
            {"x-s": f"v0={signed(b'').hex()}", "x-t": "1700000000"},
            b"v0:1700000000:",
            1,
        ),
        (
            form_of(Sender.STANDARD, None),
            {
                "webhook-signature": " ".join(
                    f"v1,{base64.b64encode(signed(each)).decode()}"
                    for each in (b"a", b"b")
                )
                + " v1a,AAAA v1,AAAA",
                "webhook-timestamp": "17",
                "webhook-id": "{timestamp}",
            },
            b"{timestamp}.17.",
            2,
        ),
    ],
)
def test_a_proof_is_read_as_the_form_says(
    form: Form, headers: dict[str, str], before: bytes, count: int
) -> None:
    proof = read_proof(form, [b"k"], headers)

    assert (proof.problem, proof.before) == ("", before)
    assert len(proof.signatures) == count
    assert all(len(each) == 32 for each in proof.signatures)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("x-s", "", "the header x-s is missing"),
        ("x-s", "v0=zz", "x-s has no HMAC-SHA256 in the form v0=hex"),
        ("x-s", signed(b"").hex(), "x-s has no HMAC-SHA256 in the form v0=hex"),
        ("x-t", "", "x-t has no time in seconds since 1970"),
        ("x-t", "-5", "x-t has no time in seconds since 1970"),
        ("x-t", "1e9", "x-t has no time in seconds since 1970"),
        ("x-t", "٣", "x-t has no time in seconds since 1970"),
        ("x-t", "9" * 400, "x-t has no time in seconds since 1970"),
    ],
)
def test_a_proof_that_can_not_be_read_is_named(
    name: str, value: str, problem: str
) -> None:
    form = Form(
        check=Check.HMAC,
        header="x-s",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp="x-t",
    )
    headers = {"x-s": f"v0={signed(b'').hex()}", "x-t": "17", name: value}

    assert read_proof(form, [b"k"], headers).problem == problem


def test_a_key_of_standard_webhooks_is_decoded() -> None:
    form = form_of(Sender.GITLAB, Check.HMAC)
    assert form is not None
    text = base64.b64encode(b"\xff\xfe key").decode()

    assert key_of(form, f"whsec_{text}") == key_of(form, text) == b"\xff\xfe key"
    assert key_of(Form(check=Check.HMAC, header="x"), "whsec_a") == b"whsec_a"


HOOK = 'name = "h"\nworkflow = "w"\nsecret_files = ["s"]\n'
OWN = f'{HOOK}header = "X-S"\n'


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (HOOK.replace('"h"', '"github"') + 'sender = "gitea"', "name", "another name"),
        (HOOK, "header", "must name the header with the signature"),
        (f'{HOOK}check = "token"', "header", "must name the header with the token"),
        (f'{HOOK}sender = "gitea"\ncheck = "token"', "check", "must be 'hmac'"),
        (f'{HOOK}sender = "alertmanager"\ncheck = "hmac"', "check", "must be 'token'"),
        (f'{OWN}id = "id"', "id", "or header:NAME"),
        (f'{OWN}id = "header:"', "id", "must have the name of a header"),
        (f'{OWN}ref = "$.ref"', "ref", "must be a JSON Pointer such as"),
        (f'{OWN}signed = "v0"', "signed", "must end in {body}"),
        (f'{OWN}signed = "{{time}}.{{body}}"', "signed", "must end in {body}"),
        (f'{OWN}signed = "{{timestamp}}.{{body}}"', "timestamp", "if, and only if"),
        (f'{OWN}timestamp = "X-T"', "timestamp", "if, and only if"),
        (f'{OWN}signed = "{{id}}.{{body}}"', "id", "must be header:NAME, because"),
        (f'{OWN}check = "token"\nsigned = "{{body}}"', "signed", "must be left out"),
        (f'{OWN}forks = "run"', "forks", "must be never"),
        (f'{HOOK}sender = "gitea"\n[[webhooks]]\n{OWN}', "name", "must be unique"),
    ],
)
def test_each_mistake_is_one_clear_line(
    tmp_path: Path, text: str, key: str, expected: str
) -> None:
    file = tmp_path / FILE
    file.write_text(f"[[webhooks]]\n{text}\n")

    with pytest.raises(ConfigError) as caught:
        load(file)

    [line] = str(caught.value).splitlines()
    assert f"].{key}: " in line
    assert expected in line
    assert line.endswith(")")
    assert "(webhook '" in line


def test_a_hook_says_more_than_its_sender(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(
        f'[[webhooks]]\n{HOOK}sender = "gitea"\nheader = "X-Own"\nid = "/id"\nsha = ""\n'
    )

    [webhook] = load(file).webhooks
    usual = form_of(Sender.GITEA, None)

    assert usual is not None
    assert (webhook.form.header, webhook.form.id) == ("x-own", ("/id",))
    assert webhook.form.is_id_signed
    assert not usual.is_id_signed
    assert webhook.form.event == usual.event
    assert webhook.secret_files == (tmp_path / "s",)
    # A signed time may be as far ahead of the hub's as behind it.
    signed = evolve(webhook, timestamp="X-T", signed="{timestamp}{body}", window_s=9)
    assert (webhook.body_window_s, signed.body_window_s) == (3600, 18)


def test_a_pattern_that_fits_nothing_is_shown() -> None:
    wanted = Filter(events=("push",), refs=("main", "release/*"))

    def reason(ref: str) -> str:
        return reason_against(wanted, Event(name="push", ref=ref))

    assert reason("refs/heads/main") == reason("refs/tags/release/1") == ""
    assert reason("refs/heads/x") == "the ref refs/heads/x isn't one of main, release/*"


DOCS = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text("utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_documentation_is_a_configuration(
    tmp_path: Path, example: str
) -> None:
    file = tmp_path / FILE
    file.write_text(example)

    assert load(file).webhooks


def test_the_documentation_has_each_key_and_sender() -> None:
    keys = schema("hub-config")["properties"]["webhooks"]["items"]["properties"]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", DOCS, re.MULTILINE)

    assert {key for row in rows for key in re.findall(r"\w+", row)} == set(keys)
    assert keys["sender"]["enum"] == [sender.value for sender in Sender]
    for sender in Sender:
        assert f"`{sender.value}`" in DOCS
    assert len(EXAMPLES) == 4
