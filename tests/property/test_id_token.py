"""Whatever a token and a set of keys are, an id token is refused in words or proven; nothing else comes out."""

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.hub.login.id_token import BadIdToken, Expected, claims_of
from support.people import CLIENT_ID, provider_key, signed

EXPECTED = Expected(issuer="https://id", client_id=CLIENT_ID, nonce="n", now=1000.0)
GOOD = {
    "iss": "https://id",
    "aud": CLIENT_ID,
    "sub": "s",
    "iat": 990,
    "exp": 1100,
    "nonce": "n",
}
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
ALGORITHMS = st.sampled_from(["RS256", "PS512", "ES256", "ES512", "EdDSA", "HS256"])
KEY = st.fixed_dictionaries(
    {"kty": st.sampled_from(["RSA", "EC", "OKP", "oct"]) | VALUES},
    optional={
        name: VALUES | st.sampled_from(["AQAB", "P-256", "P-521", "Ed25519", "sig"])
        for name in ("n", "e", "crv", "x", "y", "k", "alg", "use", "kid", "d")
    },
)


def part(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


@given(
    header=st.fixed_dictionaries(
        {}, optional={"alg": ALGORITHMS | VALUES, "kid": VALUES, "crit": VALUES}
    )
    | VALUES,
    claims=VALUES,
    signature=st.binary(max_size=70),
    keys=st.fixed_dictionaries({"keys": st.lists(KEY | VALUES, max_size=2)}) | VALUES,
)
def test_a_stranger_s_token_is_refused(
    header: Any, claims: Any, signature: bytes, keys: Any
) -> None:
    end = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()

    with pytest.raises(BadIdToken):
        claims_of(f"{part(header)}.{part(claims)}.{end}", keys, EXPECTED)


@given(changes=st.dictionaries(st.sampled_from([*GOOD, "azp", "nbf"]), VALUES))
def test_claims_of_the_provider_s_own_key_prove_this_login_or_nothing(
    changes: dict[str, Any],
) -> None:
    public = jwt.algorithms.RSAAlgorithm.to_jwk(
        provider_key().public_key(), as_dict=True
    )
    try:
        token = signed({**GOOD, **changes})
    except TypeError:
        # PyJWT makes no such token.
        return

    try:
        found = claims_of(token, {"keys": [{**public, "kid": "key-1"}]}, EXPECTED)
    except BadIdToken:
        assert changes
        return
    assert found["iss"] == GOOD["iss"]
    assert found["nonce"] == "n"
    assert found["exp"] > 900
