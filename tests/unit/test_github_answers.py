"""What each answer of GitHub means, and when the next call may be made."""

import json
from collections.abc import Mapping
from email.utils import formatdate

import pytest

from dispatchd.hub.github.api.responses import (
    GithubError,
    Invalid,
    Limited,
    NoCredential,
    NotPermitted,
    NotThere,
    Reply,
    Unclear,
    ahead_s,
    is_githubs,
    json_of,
    next_page,
    refuse_errors,
)

NOW = 1_795_600_000.0


def answer(
    status: int, message: str = "", headers: Mapping[str, str] | None = None
) -> GithubError:
    """Return the error that an answer means."""
    body = json.dumps({"message": message}).encode()
    reply = Reply(status=status, headers=headers or {}, body=body)
    with pytest.raises(GithubError) as caught:
        refuse_errors("do it", reply, now=NOW)
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, NotThere),
        (307, NotThere),
        (400, Invalid),
        (401, NoCredential),
        (403, NotPermitted),
        (404, NotThere),
        (405, Invalid),
        (408, Unclear),
        (409, Unclear),
        (410, NotThere),
        (413, Invalid),
        (415, Invalid),
        (422, Invalid),
        (429, Limited),
        (451, NotThere),
        (500, Unclear),
        (502, Unclear),
        (503, Unclear),
        (599, Unclear),
    ],
)
def test_each_status_means_one_kind_of_error(
    status: int, kind: type[GithubError]
) -> None:
    error = answer(status, "what GitHub says")

    assert type(error) is kind
    assert error.call == "do it"
    assert "what GitHub says" in str(error)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_success_is_no_error(status: int) -> None:
    refuse_errors("do it", Reply(status=status, headers={}, body=b""), now=NOW)


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("headers", "message", "wait_s"),
    [
        ({"retry-after": "17"}, "", 17),
        # The wait that is asked for comes before the end of the hour.
        (
            {
                "retry-after": "17",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": "1795600900",
            },
            "",
            17,
        ),
        (
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795600900"},
            "API rate limit exceeded",
            900,
        ),
        # By GitHub's clock, which is 300 s behind this one.
        (
            {
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": "1795600000",
                "date": formatdate(NOW - 300, usegmt=True),
            },
            "",
            300,
        ),
        # Not yet over by a clock that is ahead: at least a second.
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795500000"}, "", 1),
        # A silly time doesn't silence a hub for good.
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9999999999"}, "", 3600),
        ({"retry-after": "99999999"}, "", 3600),
        ({}, "You have exceeded a secondary rate limit", 60),
        ({}, "You have triggered an abuse detection mechanism", 60),
        ({"x-ratelimit-remaining": "12"}, "API rate limit exceeded for ...", 60),
    ],
)
def test_a_limit_is_recognised_in_each_of_its_forms(
    status: int, headers: Mapping[str, str], message: str, wait_s: float
) -> None:
    error = answer(status, message, headers)

    assert isinstance(error, Limited)
    assert error.retry_at == NOW + wait_s


@pytest.mark.parametrize(
    "message",
    [
        "Resource not accessible by integration",
        "Repository was archived so is read-only.",
        "Repository access blocked: reported for abuse",
    ],
)
def test_a_403_without_a_word_of_limits_is_no_limit(message: str) -> None:
    error = answer(
        403,
        message,
        {"x-ratelimit-remaining": "4999", "x-ratelimit-reset": "1795600900"},
    )

    assert type(error) is NotPermitted


def test_the_fields_that_github_does_not_take_are_named_in_one_short_line() -> None:
    body = json.dumps(
        {
            "message": "Validation\nFailed",
            "errors": [{"field": "head_sha", "code": "x" * 1000}],
        }
    )

    with pytest.raises(Invalid) as caught:
        refuse_errors(
            "do it", Reply(status=422, headers={}, body=body.encode()), now=NOW
        )

    assert "Validation Failed" in caught.value.reason
    assert "head_sha" in caught.value.reason
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 400


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b'{"id": 1', b"\xff\xfe"])
def test_a_success_without_json_may_have_been_a_write(body: bytes) -> None:
    reply = Reply(status=201, headers={"content-type": "text/html"}, body=body)

    with pytest.raises(Unclear, match="text/html"):
        json_of("do it", reply)


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("", ""),
        ('<https://x/a?page=2>; rel="next"', "https://x/a?page=2"),
        (
            '<https://x/a?page=1>; rel="prev", <https://x/a?c=v1_%3D>; rel="next"',
            "https://x/a?c=v1_%3D",
        ),
        ("<https://x/a?page=9>; rel=last", ""),
    ],
)
def test_the_next_page_is_the_one_that_the_link_names(link: str, found: str) -> None:
    assert next_page({"link": link}) == found


@pytest.mark.parametrize(
    ("dated_s", "took_s", "wanted"),
    [
        (0.0, 0.0, 0.0),
        (-0.9, 0.0, 0.0),
        # It was dated when it was asked for, and came later; or the other way round.
        (-20.0, 20.0, 0.0),
        (0.0, 20.0, 0.0),
        (30.0, 0.0, 30.0),
        (30.0, 20.0, 30.0),
        (-30.0, 0.0, -30.0),
        (-50.0, 20.0, -30.0),
    ],
)
def test_the_clocks_differ_by_as_much_as_an_answer_proves(
    dated_s: float, took_s: float, wanted: float
) -> None:
    headers = {"date": formatdate(NOW + dated_s, usegmt=True)}
    assert ahead_s(headers, NOW - took_s, NOW) == pytest.approx(wanted, abs=1)


def test_without_a_date_the_clocks_agree() -> None:
    for date in ("", "yesterday", "Fri, 31 Dec 9999 23:59:59 GMT"):
        assert ahead_s({"date": date}, NOW, NOW) == 0


@pytest.mark.parametrize(
    ("status", "kind", "wanted"),
    [
        (200, "application/json; charset=utf-8", True),
        (401, "application/problem+json", True),
        (204, "", True),
        (202, "", True),
        (200, "text/html", False),
        (502, "text/plain", False),
        (503, "", False),
    ],
)
def test_a_page_says_nothing_of_githubs_clock(
    status: int,
    kind: str,
    wanted: bool,  # noqa: FBT001  # a column of the table
) -> None:
    reply = Reply(status=status, headers={"content-type": kind}, body=b"")
    assert is_githubs(reply) is wanted
