"""Mistakes in `[login]`: each is told by its key, before the hub starts."""

from pathlib import Path

import pytest

from dispatchd.errors import ConfigError
from dispatchd.hub.config.load import load

GITHUB = """
[github]
token_file = "token"
webhook_secret_files = ["secret"]
"""
BY_GITHUB = """
[login.github]
client_id = "x"
client_secret_file = "client-secret"
"""
BY_OIDC = """
[login.oidc]
issuer = "https://id.example"
client_id = "x"
client_secret_file = "client-secret"
"""
ADDRESS = '[login]\npublic_url = "https://hub.example"\n'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (ADDRESS, "login: must have a table github or oidc"),
        (ADDRESS + BY_GITHUB, "login.github: must stand beside the table [github]"),
        (GITHUB + BY_GITHUB, "login.public_url: must be the page's address"),
        (GITHUB + 'public_url = "https://hub.example/base"\n' + BY_GITHUB, "no path"),
        (ADDRESS.replace("example", "example/base") + BY_OIDC, "without a path"),
        (ADDRESS.replace("example", "example:99999") + BY_OIDC, "login.public_url"),
        (ADDRESS.replace("hub.example", "[") + BY_OIDC, "login.public_url: must be"),
        (ADDRESS + BY_OIDC.replace("id.example", "["), "login.oidc.issuer: must be"),
        (
            ADDRESS + BY_OIDC.replace("https", "http"),
            "login.oidc.issuer: must be https",
        ),
        (
            ADDRESS + BY_OIDC + 'scopes = ["profile"]',
            "login.oidc.scopes: must have openid",
        ),
        (
            ADDRESS + BY_OIDC + 'admins = ["kim"]',
            "login.oidc.admins[0]: must be group:",
        ),
        (GITHUB + ADDRESS + BY_GITHUB + 'admins = ["a/b"]', "login.github.admins[0]"),
        (ADDRESS + BY_OIDC + 'role = "x"', "login.oidc"),
    ],
)
def test_a_mistake_is_told_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load(file)

    assert key in str(caught.value)


def test_what_login_lacks_comes_from_github(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(GITHUB + 'public_url = "https://hub.example/"\n' + BY_GITHUB)

    login = load(file).login

    assert login is not None
    assert login.public_url == "https://hub.example"
    assert login.github is not None
    assert login.github.client_secret_file == tmp_path / "client-secret"
