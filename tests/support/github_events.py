"""Events of GitHub for tests: real payloads, and what they lack, derived from them."""

import copy
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from dispatchd.hub.config.github import Forks, GithubSettings, Permission, Rule, Subject
from support.fixtures import ROOT

SECRET = "It's a Secret to Everybody"
HEAD = "ec26c3e57ca3a959ca5aad62de7213c562f8c821"
OTHER = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"
REPOSITORY = "Codertocat/Hello-World"
APP = 4711

REAL = sorted(ROOT.glob("github-webhooks*/*/*.json"))
"""Every real payload."""


def real(path: str) -> dict[str, Any]:
    """Return a real payload, as event/file without its ending."""
    payload: dict[str, Any] = json.loads(
        (ROOT / "github-webhooks" / f"{path}.json").read_text()
    )
    return payload


def event_of(path: Path) -> str:
    """Return the event of a real payload's file."""
    return path.parent.name


def name_of(path: Path) -> str:
    """Return by what a real payload is told in the names of tests."""
    return "/".join(path.parts[-3:]).removesuffix(".json")


def signature(body: bytes, secret: str = SECRET) -> str:
    """Return what GitHub sends as X-Hub-Signature-256."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def comment(
    body: str,
    *,
    action: str = "created",
    on: str = "pull_request",
    login: str = "octocat",
    kind: str = "User",
    app: int = 0,
    installation: int = 0,
) -> dict[str, Any]:
    """Return a comment under a pull request or an issue."""
    payload = real("issue_comment/00-created")
    if installation:
        payload["installation"] = {"id": installation}
    payload["action"] = action
    payload["comment"]["body"] = body
    payload["comment"]["user"]["login"] = payload["sender"]["login"] = login
    payload["sender"]["type"] = kind
    if app:
        payload["comment"]["performed_via_github_app"] = {"id": app}
    payload["issue"]["number"] = 2
    payload["issue"].pop("pull_request", None)
    if on == "pull_request":
        payload["issue"]["pull_request"] = {"url": "https://api.github.com/x"}
    return payload


def pull(
    *,
    fork: bool = False,
    draft: bool = False,
    state: str = "open",
    base: str = "master",
    labels: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return a pull request as GitHub's API has it."""
    document: dict[str, Any] = copy.deepcopy(
        real("pull_request/00-opened")["pull_request"]
    )
    document |= {"draft": draft, "state": state}
    document["base"]["ref"] = base
    document["labels"] = [{"name": label} for label in labels]
    if fork:
        document["head"]["repo"]["id"] += 1
        document["head"]["repo"]["full_name"] = "stranger/Hello-World"
    return document


def pull_request(action: str = "opened", **options: Any) -> dict[str, Any]:
    """Return an event about a pull request."""
    return {
        **real("pull_request/00-opened"),
        "action": action,
        "pull_request": pull(**options),
    }


RULES = (
    Rule(
        name="tests",
        workflow="ci",
        repositories=("codertocat/*",),
        events=("pull_request", "push", "merge_group"),
        forks=Forks.COMMAND,
    ),
    Rule(name="lint", workflow="lint", repositories=("*/*",), events=("pull_request",)),
    Rule(
        name="deploy",
        workflow="deploy",
        repositories=("Codertocat/Hello-World",),
        command="deploy",
        permission=Permission.MAINTAIN,
        priority=5,
    ),
    Rule(
        name="docs",
        workflow="docs",
        repositories=("*",),
        command="docs",
        forks=Forks.COMMAND,
        permission=Permission.READ,
        drafts=True,
    ),
    Rule(
        name="triage",
        workflow="triage",
        repositories=("*",),
        command="triage",
        on=Subject.ISSUE,
        permission=Permission.TRIAGE,
    ),
)
SETTINGS = GithubSettings(app_id=APP, rules=RULES)
