from datetime import UTC, datetime

import pytest

from dispatchd.agent.endpoint.doubted_refusals import Doubts
from dispatchd.agent.endpoint.responses import (
    Proof,
    Reply,
    hold_applied,
    is_proven,
    json_object,
    refuse_errors,
    retry_after_s,
)
from dispatchd.errors import (
    Conflict,
    Forbidden,
    Gone,
    ProtocolError,
    RateLimited,
    RemoteError,
    Revoked,
    Unauthorized,
    Unavailable,
)

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
DATE = "Fri, 20 Nov 2026 12:00:00 GMT"


def reply(status: int, body: bytes = b"", **headers: str) -> Reply:
    return Reply(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=body,
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT"}, 30.0),
        # Measured from the reply's own Date: this machine's clock may be wrong by hours.
        (
            {
                "retry-after": "Fri, 20 Nov 2026 15:00:30 GMT",
                "date": "Fri, 20 Nov 2026 15:00:00 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "9" * 400}, 999_999_999_999.0),
    ],
)
def test_retry_after_has_two_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "about_a_job", "machine"),
    [
        (401, Unauthorized, Unauthorized),
        (403, Forbidden, Forbidden),
        (404, Gone, ProtocolError),
        (409, Conflict, ProtocolError),
        (410, Gone, Revoked),
        (422, ProtocolError, ProtocolError),
        (429, RateLimited, RateLimited),
        (302, ProtocolError, ProtocolError),
        (500, Unavailable, Unavailable),
        (503, Unavailable, Unavailable),
        (599, Unavailable, Unavailable),
    ],
)
def test_a_status_means_one_error(
    status: int, about_a_job: type[RemoteError], machine: type[RemoteError]
) -> None:
    for kind, job in ((about_a_job, True), (machine, False)):
        with pytest.raises(RemoteError) as caught:
            refuse_errors(
                "accept",
                reply(status, b'{"message": "no"}', retry_after="3"),
                about_a_job=job,
                now=NOW,
            )
        assert type(caught.value) is kind
        assert caught.value.retry_after_s == 3.0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("body", "seconds"), [(b'{"message": "no"}', 250.0), (b"<html>", 50.0)]
)
def test_nobody_but_the_endpoint_can_ask_for_a_long_wait(
    status: int, body: bytes, seconds: float
) -> None:
    with pytest.raises(RemoteError) as caught:
        refuse_errors(
            "pull",
            reply(status, body, retry_after="250"),
            about_a_job=False,
            now=NOW,
        )
    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("answer", "proof", "is_own"),
    [
        (reply(404, b'{"message": "no"}'), Proof.BODY, True),
        (reply(404, b'{"message": "no"}'), Proof.HEADER, False),
        (reply(404, b'{"message": "no"}', dispatch_contract="1"), Proof.HEADER, True),
        (reply(404, b"", dispatch_contract="1"), Proof.HEADER, False),
        (reply(404, b'{"message": 1}'), Proof.BODY, False),
        (reply(404, b""), Proof.NONE, True),
        (reply(204), Proof.BODY, True),
        (reply(204), Proof.HEADER, False),
        (reply(204, dispatch_contract="1"), Proof.HEADER, True),
        (reply(204, dispatch_contract="2"), Proof.HEADER, False),
    ],
)
def test_an_answer_is_the_endpoints_own_if_it_has_what_proves_it(
    answer: Reply,
    proof: Proof,
    is_own: bool,  # noqa: FBT001  # a column of the table
) -> None:
    assert is_proven(answer, proof) is is_own


def test_a_refusal_without_proof_is_believed_after_long_enough_and_often_enough() -> (
    None
):
    doubts = Doubts()
    assert not any(doubts.believes("j", now) for now in (0, 1, 2, 3, 4, 599))
    assert doubts.believes("j", 600)
    assert not doubts.believes("other", 600)
    doubts.forget("j")
    assert not any(doubts.believes("j", now) for now in (600, 601, 1300, 1301))
    assert doubts.believes("j", 1302)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_success_is_no_error(status: int) -> None:
    refuse_errors("accept", reply(status), about_a_job=True, now=NOW)


def test_only_the_contracts_message_is_repeated_and_on_one_line() -> None:
    with pytest.raises(Unavailable, match=r"status 500 Internal Server Error: a b$"):
        refuse_errors(
            "pull", reply(500, b'{"message": "a\\nb"}'), about_a_job=False, now=NOW
        )
    with pytest.raises(Unavailable, match=r"status 500 Internal Server Error$"):
        refuse_errors(
            "pull", reply(500, b"<html>" + b"x" * 9999), about_a_job=False, now=NOW
        )


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff", b"[" * 200_000])
def test_a_success_without_the_contracts_object_is_a_protocol_error(
    body: bytes,
) -> None:
    with pytest.raises(ProtocolError):
        json_object("heartbeat", reply(200, body))


@pytest.mark.parametrize(
    ("value", "applied"),
    [
        ("wait=50", True),
        ("respond-async, Wait=5", True),
        ("respond-async", False),
        ("", False),
    ],
)
def test_the_endpoint_says_whether_it_holds(value: str, applied: bool) -> None:  # noqa: FBT001  # a column of the table
    assert hold_applied({"preference-applied": value}) is applied
