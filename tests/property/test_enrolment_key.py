"""Enrolment keys: what is written is read again, and no text makes another error than one."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.network.enrolment_key import EnrolmentKey, secret_of

SECRETS = st.from_regex(r"dhub_enrol_[A-Za-z0-9_-]{32}", fullmatch=True)
HASHES = st.binary(min_size=32, max_size=32)
KEYS = st.builds(
    EnrolmentKey, public=HASHES, certificate=HASHES | st.just(b""), secret=SECRETS
)


@given(KEYS, st.sampled_from(["", "\n", " \r\n"]))
def test_a_key_is_read_as_it_was_written(key: EnrolmentKey, end: str) -> None:
    assert EnrolmentKey.parse(key.text + end) == key
    assert secret_of(key.text) == key.secret
    assert EnrolmentKey.of_pem(key.public_pem, key.certificate, key.secret) == key
    assert key.secret not in repr(key)


@given(KEYS, st.data())
def test_a_key_is_read_wherever_its_line_was_broken(
    key: EnrolmentKey, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(key.text)))
    broken = data.draw(st.sampled_from(["\n", "\r\n", "\n  ", " "]))
    assert EnrolmentKey.parse(key.text[:at] + broken + key.text[at:]) == key


@given(SECRETS)
def test_a_key_of_before_is_its_own_secret(secret: str) -> None:
    assert secret_of(secret) == secret


@given(KEYS, st.data())
def test_a_key_that_is_cut_is_refused(key: EnrolmentKey, data: st.DataObject) -> None:
    cut = key.text[: data.draw(st.integers(0, len(key.text) - len(key.secret)))]
    with pytest.raises(ValueError, match="it doesn't have the form"):
        EnrolmentKey.parse(cut)


@given(
    st.text() | st.text().map("dhub1.{}".format) | st.text().map("dhub1..{}.x".format)
)
def test_any_other_text_is_refused_in_one_way(text: str) -> None:
    with contextlib.suppress(ValueError):
        EnrolmentKey.parse(text)
