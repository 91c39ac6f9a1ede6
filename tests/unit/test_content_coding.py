import pytest

from dispatchd.network.content_coding import coding_problem


@pytest.mark.parametrize(
    "header", ["", "identity", "Identity", " identity , identity", ","]
)
def test_a_body_as_it_was_sent_is_no_problem(header: str) -> None:
    assert coding_problem(header) == ""


@pytest.mark.parametrize(
    "header",
    [
        "gzip",
        "GZIP",
        "gzip, gzip",
        "identity, br",
        "deflate",
        "x-gzip",
        "zstd,identity",
    ],
)
def test_any_other_coding_is_named(header: str) -> None:
    problem = coding_problem(header)

    assert header.lower().replace("identity", "").strip(" ,")[:4] in problem
    assert "identity was asked for" in problem


def test_a_long_header_is_not_repeated_whole() -> None:
    assert len(coding_problem("gzip, " * 10_000)) < 250
