"""Where people find at GitHub what a job is about."""

from typing import Any

import pytest

from dispatchd.hub.domain.links import web_url
from dispatchd.protocol.github_event import link_of


@pytest.mark.parametrize(
    ("api", "web"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://api.github.com/", "https://github.com"),
        ("https://git.example.org/api/v3", "https://git.example.org"),
        ("https://git.example.org:8443/api/v3/", "https://git.example.org:8443"),
        ("https://api.octocorp.ghe.com", "https://octocorp.ghe.com"),
    ],
)
def test_the_page_of_a_github_is_beside_its_api(api: str, web: str) -> None:
    assert web_url(api) == web


SHOP = {"repository_name": "acme/shop"}


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (
            {"pull_request_number": 5, "issue_number": 5, "sha": "c0ffee"},
            "/acme/shop/pull/5",
        ),
        ({"issue_number": 7}, "/acme/shop/issues/7"),
        ({"sha": "c0ffee"}, "/acme/shop/commit/c0ffee"),
        ({"sha": "../../settings?x"}, "/acme/shop/commit/..%2F..%2Fsettings%3Fx"),
        ({}, "/acme/shop"),
        ({"repository_name": "acme/.github"}, "/acme/.github"),
    ],
)
def test_a_job_leads_to_what_it_is_about(document: dict[str, Any], path: str) -> None:
    assert link_of({**SHOP, **document}, "https://h") == f"https://h{path}"


@pytest.mark.parametrize(
    "name", [None, 5, "", "shop", "../shop", "a/b/c", "javascript:"]
)
def test_what_names_no_repository_leads_nowhere(name: Any) -> None:
    assert link_of({"repository_name": name, "sha": "c0ffee"}, "https://h") == ""
