"""Only a token that a pinned key has signed with EdDSA is a license, whatever its header says."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.agent.endpoint.license_tokens import LARGEST_TOKEN, load_keys, verify
from dispatchd.errors import LicenseInvalid
from dispatchd.protocol.license import LEEWAY, Claims, Validity, claims_from
from support.licenses import Issuer
from support.records import NOW

ISSUER = Issuer()
KEYS = load_keys([ISSUER.pem], Path())
GOOD = ISSUER.token()

values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(0, 2), max_size=2)
)
NAMES = [
    "jti",
    "cv",
    "plan",
    "features",
    "activation_id",
    "wc",
    "grace_days",
    "iat",
    "nbf",
    "exp",
    "other",
]


def part(document: Any) -> str:
    text = json.dumps(document).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def refused(token: str) -> str:
    with pytest.raises(LicenseInvalid) as caught:
        verify(token, KEYS)
    return caught.value.reason


def test_a_signed_token_is_read() -> None:
    claims = verify(GOOD, KEYS)

    assert (claims.license_id, claims.plan, claims.features) == (
        "lic-1",
        "team",
        ("a", "b"),
    )


def test_any_of_several_pinned_keys_will_do() -> None:
    other = Issuer()
    keys = load_keys([other.pem, ISSUER.pem], Path())

    assert verify(GOOD, keys) == verify(GOOD, KEYS)
    assert verify(other.token(), keys).license_id == "lic-1"


def test_a_key_may_be_a_jwk_or_in_a_file(tmp_path: Path) -> None:
    raw = ISSUER.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    jwk = json.dumps({"kty": "OKP", "crv": "Ed25519", "x": x})
    (tmp_path / "key.pem").write_text(ISSUER.pem)
    (tmp_path / "key.jwk").write_text(jwk)

    for pinned in (jwk, "key.pem", "key.jwk", str(tmp_path / "key.pem")):
        assert verify(GOOD, load_keys([pinned], tmp_path)).license_id == "lic-1"


@pytest.mark.parametrize(
    ("pinned", "words"),
    [
        ("none.pem", "can't be read"),
        ("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", "neither PEM"),
        ("{}", "neither PEM nor JWK"),
        (
            generate_private_key(SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode(),
            "isn't a public Ed25519 key",
        ),
    ],
)
def test_a_key_that_is_none_is_named(tmp_path: Path, pinned: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_keys([pinned], tmp_path)


def test_what_another_key_has_signed_is_refused() -> None:
    assert "none of the pinned keys" in refused(Issuer().token())


def test_a_grace_period_beyond_all_dates_has_no_end() -> None:
    end = 9_999_999_999

    claims = claims_from({"jti": "l", "iat": 0, "exp": end, "grace_days": 10**9})

    assert claims.grace_until == datetime.max.replace(tzinfo=UTC)
    assert claims.validity(datetime(2300, 1, 1, tzinfo=UTC)) is Validity.GRACE


def test_an_unsigned_token_is_refused() -> None:
    body = GOOD.split(".")[1]

    for algorithm in ("none", "None", "NONE", ""):
        header = part({"alg": algorithm, "typ": "JWT"})
        assert refused(f"{header}.{body}.")
        assert refused(f"{header}.{body}.{GOOD.split('.')[2]}")


def test_a_public_key_is_no_secret_to_sign_with() -> None:
    # The oldest trick: HS256 with what everybody knows as the secret (RFC 8725, 2.1).
    header, body = part({"alg": "HS256", "typ": "JWT"}), GOOD.split(".")[1]
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = algorithm.sign(f"{header}.{body}".encode(), ISSUER.pem.encode())
    forged = base64.urlsafe_b64encode(signature).decode().rstrip("=")

    assert "EdDSA" in refused(f"{header}.{body}.{forged}")


def test_a_key_in_the_header_decides_nothing() -> None:
    stranger = Ed25519PrivateKey.generate()
    claims = jwt.decode(GOOD, options={"verify_signature": False})
    raw = stranger.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
    token = jwt.encode(claims, stranger, algorithm="EdDSA", headers={"jwk": jwk})

    assert "none of the pinned keys" in refused(token)


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "x" * 1_000_000, GOOD + "A"])
def test_garbage_and_what_is_too_long_are_refused(token: str) -> None:
    assert refused(token)


def test_a_signed_token_that_is_too_long_is_refused() -> None:
    assert "longer than" in refused(ISSUER.token(plan="x" * LARGEST_TOKEN))


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_any_text_is_refused_in_words(text: str) -> None:
    assert refused(text)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
def test_one_changed_letter_is_refused(at: int, letter: str) -> None:
    changed = GOOD[:at] + letter + GOOD[at + 1 :]
    if changed == GOOD or at == len(GOOD) - 1:
        # The last letter has bits that mean nothing.
        return

    assert refused(changed)


@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=6))
def test_any_claims_are_read_or_refused_in_words(changed: dict[str, Any]) -> None:
    document = {"jti": "lic-1", "iat": 1_700_000_000, **changed}

    try:
        claims_from(document).validity(NOW)
    except LicenseInvalid as error:
        reason = error.reason
    else:
        reason = "a claim is fine"
    assert "claim" in reason


@pytest.mark.parametrize("missing", ["jti", "iat"])
def test_a_claim_that_must_be_there_is_named(missing: str) -> None:
    assert missing in refused(ISSUER.token(**{missing: None}))


def claims(**different: Any) -> Claims:
    return Claims(license_id="l", issued_at=NOW - timedelta(days=100), **different)


day = timedelta(days=1)
durations = st.timedeltas(-400 * day, 400 * day)


@given(durations, st.none() | st.floats(-5, 60), durations)
def test_worth_follows_from_the_times_alone(
    expires: timedelta, grace: float | None, now: timedelta
) -> None:
    at = NOW + now
    license_ = claims(expires_at=NOW + expires, grace_days=grace)

    validity = license_.validity(at)

    days = max(0.0, 14.0 if grace is None else grace)
    if license_.issued_at > at + LEEWAY:
        assert validity is Validity.NOT_YET
    elif at < NOW + expires:
        assert validity is Validity.VALID
    elif at < NOW + expires + timedelta(days=days):
        assert validity is Validity.GRACE
    else:
        assert validity is Validity.EXPIRED


def test_a_license_without_an_end_stays_good_and_one_of_tomorrow_is_not_yet() -> None:
    assert claims().validity(datetime(2999, 1, 1, tzinfo=UTC)) is Validity.VALID
    assert claims(not_before=NOW + day).validity(NOW) is Validity.NOT_YET
    assert claims(not_before=NOW + LEEWAY).validity(NOW) is Validity.VALID


@pytest.mark.parametrize("version", [2, 1.5, 4_000_000])
def test_claims_of_a_newer_version_are_refused(version: float) -> None:
    reason = refused(Issuer(key=ISSUER.key, claims={"cv": version}).token())

    assert "knows 1: upgrade it" in reason


@pytest.mark.parametrize("version", [-1, 0.5, True, "1", [1]])
def test_what_is_no_version_is_refused(version: object) -> None:
    reason = refused(Issuer(key=ISSUER.key, claims={"cv": version}).token())

    assert "cv" in reason


@pytest.mark.parametrize("version", [None, 0, 1, 1.0])
def test_claims_of_the_known_version_count(version: object) -> None:
    token = Issuer(key=ISSUER.key, claims={"cv": version}).token()

    assert verify(token, KEYS).version == 1
