"""Where a run finds GitHub: the machine's configuration says so, and a payload only chooses among what that names."""

from pathlib import Path
from typing import Any

import pytest

from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

JOB = {"id": "j", "dag_name": "it", "repository_name": "acme/shop"}
EVIL: dict[str, Any] = {
    "repository": {
        "html_url": "http://evil.example:8080/x",
        "clone_url": "http://evil.example:8080/x.git",
        "full_name": "acme/shop",
    }
}
GHES: dict[str, Any] = {
    "repository": {"html_url": "https://ghe.example/acme/shop"},
    "sender": {"html_url": "https://evil.example/u"},
}
PUBLIC = ("https://api.github.com", "https://api.github.com/graphql")
OF_GHES = ("https://ghe.example/api/v3", "https://ghe.example/api/graphql")
OTHER = """
[workflows.other]
command = ["true"]
checkout_url = "https://ghe.example/"
"""


async def addresses(
    tmp_path: Path, payload: object, limits: str, more: str = ""
) -> dict[str, str]:
    """Return what a run was told of where GitHub is."""
    async with endpoint() as hub:
        config = write_config(
            tmp_path / "machine", hub.url, {"it": ["/usr/bin/env"]}, limits=limits
        )
        config.write_text(config.read_text() + more)
        async with running_daemon(config) as daemon:
            hub.hand_out({**JOB, "payload": payload})
            await hub.until_finished("j")
        text = (daemon.state / "runs/j/attempt-1/output.log").read_text()
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = ("GITHUB_API_URL", "GITHUB_GRAPHQL_URL", "GITHUB_SERVER_URL")
    return {name: found[name] for name in names if name in found}


@pytest.mark.parametrize(
    ("payload", "limits", "more", "expected"),
    [
        (EVIL, "", "", PUBLIC),
        (EVIL, 'checkout_url = "https://ghe.example"', "", OF_GHES),
        (GHES, "", "", PUBLIC),
        (GHES, "", OTHER, OF_GHES),
        (EVIL, "", OTHER, PUBLIC),
    ],
)
async def test_a_payload_chooses_among_the_servers_that_are_configured(
    tmp_path: Path, payload: object, limits: str, more: str, expected: tuple[str, str]
) -> None:
    found = await addresses(tmp_path, payload, limits, more)

    assert (found["GITHUB_API_URL"], found["GITHUB_GRAPHQL_URL"]) == expected
    assert "evil" not in str(found)


@pytest.mark.parametrize("payload", [EVIL, GHES, None])
async def test_the_owner_s_env_wins_over_the_payload(
    tmp_path: Path, payload: object
) -> None:
    env = {
        "GITHUB_API_URL": "https://mine.example/api/v3",
        "GITHUB_GRAPHQL_URL": "https://mine.example/graphql",
        "GITHUB_SERVER_URL": "https://mine.example",
    }
    words = ", ".join(f'{name} = "{value}"' for name, value in env.items())

    assert await addresses(tmp_path, payload, f"env = {{ {words} }}") == env


async def test_an_address_without_tls_is_never_named(tmp_path: Path) -> None:
    limits = 'checkout_url = "http://git.example"'

    assert await addresses(tmp_path, EVIL, limits) == {}
