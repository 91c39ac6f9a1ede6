"""Deliveries of senders beside GitHub: real payloads, signed as each sender does."""

import base64
import hmac
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from support.github_hub import require_declared
from support.hub import Hub

ROOT = Path(__file__).parents[1] / "fixtures" / "webhooks"
SECRET, OLD_SECRET, TOKEN = "forge-secret", "forge-secret-before", "alert-token"
PLAIN_SECRET = "plain-secret"
KEY = b"a key of 32 bytes, as GitLab's is"
SIGNING_TOKEN = f"whsec_{base64.b64encode(KEY).decode()}"

FORGE = """
[[webhooks]]
name = "forge"
sender = "gitea"
secret_files = ["forge-secret", "forge-secret-before"]
workflow = "ci"
"""
LAB = """
[[webhooks]]
name = "lab"
sender = "gitlab"
secret_files = ["lab-token"]
workflow = "ci"
"""
SIGNED_LAB = """
[[webhooks]]
name = "signed-lab"
sender = "gitlab"
check = "hmac"
secret_files = ["lab-key"]
workflow = "ci"
window_s = 300
"""
ALERTS = """
[[webhooks]]
name = "alerts"
sender = "alertmanager"
secret_files = ["alert-token"]
workflow = "repair"
events = ["firing"]
"""
PLAIN = """
[[webhooks]]
name = "plain"
header = "X-Signature"
prefix = "sha256="
secret_files = ["plain-secret"]
workflow = "deploy"
repository = "/project"
ref = "/target/refs/0"
"""
CONFIG = FORGE + LAB + SIGNED_LAB + ALERTS + PLAIN


def prepared(folder: Path) -> Path:
    """Make a hub's folder with the secrets of the hooks, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, secret in (
        ("forge-secret", SECRET),
        ("forge-secret-before", OLD_SECRET),
        ("plain-secret", PLAIN_SECRET),
        ("lab-token", TOKEN),
        ("lab-key", SIGNING_TOKEN),
        ("alert-token", TOKEN),
    ):
        (folder / name).write_text(f"{secret}\n")
    return folder


def real(path: str) -> dict[str, Any]:
    """Return a real payload."""
    payload: dict[str, Any] = json.loads((ROOT / f"{path}.json").read_text())
    return payload


def signature(body: bytes, secret: str = SECRET) -> str:
    """Return the signature of a body in hex."""
    return hmac.new(secret.encode(), body, sha256).hexdigest()


def body_of(payload: object) -> bytes:
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()


async def post(
    server: Hub, name: str, body: bytes, headers: dict[str, str]
) -> httpx.Response:
    """Deliver a body without the owner's token."""
    content = {"content-type": "application/json", "authorization": "", **headers}
    reply = await server.http.post(f"/webhooks/{name}", content=body, headers=content)
    require_declared(reply, "/webhooks/{name}")
    return reply


async def gitea(
    server: Hub,
    payload: object,
    delivery: str,
    event: str = "push",
    *,
    name: str = "forge",
    secret: str = SECRET,
) -> httpx.Response:
    """Deliver as Gitea does."""
    body = body_of(payload)
    headers = {
        "X-Gitea-Delivery": delivery,
        "X-Gitea-Event": event,
        "X-Gitea-Event-Type": event,
        "X-Gitea-Signature": signature(body, secret),
        "X-Hub-Signature-256": f"sha256={signature(body, secret)}",
        "X-GitHub-Event": event,
    }
    return await post(server, name, body, headers)


async def gitlab(
    server: Hub, payload: object, key: str = "", *, token: str = TOKEN
) -> httpx.Response:
    """Deliver as GitLab does with a secret token; without a key as one before 17.4."""
    headers = {
        "X-Gitlab-Event": "Push Hook",
        "X-Gitlab-Event-UUID": "u-1",
        "X-Gitlab-Token": token,
        **({"Idempotency-Key": key} if key else {}),
    }
    return await post(server, "lab", body_of(payload), headers)


async def signed_gitlab(
    server: Hub, payload: object, message: str, at: float, *, key: bytes = KEY
) -> httpx.Response:
    """Deliver as GitLab 19 does with a signing token."""
    body, time = body_of(payload), str(int(at))
    signed = b".".join([message.encode(), time.encode(), body])
    proof = base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()
    headers = {
        "Idempotency-Key": message,
        "webhook-id": message,
        "webhook-timestamp": time,
        "webhook-signature": f"v1,{proof}",
        "X-Gitlab-Event": "Push Hook",
        # A secret token may be set beside the signing token.
        "X-Gitlab-Token": TOKEN,
    }
    return await post(server, "signed-lab", body, headers)


async def alertmanager(
    server: Hub, payload: object, token: str = TOKEN
) -> httpx.Response:
    """Deliver as Alertmanager does with `http_config.authorization`."""
    headers = {"authorization": f"Bearer {token}", "user-agent": "Alertmanager/0.27.0"}
    return await post(server, "alerts", body_of(payload), headers)


async def plain(
    server: Hub, payload: object, secret: str = PLAIN_SECRET
) -> httpx.Response:
    """Deliver without an id."""
    body = body_of(payload)
    headers = {"X-Signature": f"sha256={signature(body, secret)}"}
    return await post(server, "plain", body, headers)
