"""The configurations of examples/proxy, in real proxies before a hub: polls held, logs live, large bodies, addresses."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from support.certificates import Authority
from support.hub_page import admin_token, login
from support.hub_process import HubProcess, hub
from support.machine import Machine, held_poll, row
from support.until import until

pytestmark = pytest.mark.host

EXAMPLES = Path(__file__).parents[2] / "examples" / "proxy"
HOST = "hub.example.org"


def nginx(folder: Path, upstream: int, port: int, pem: Path) -> list[str]:
    text = (EXAMPLES / "nginx.conf").read_text()
    for name in ("fullchain", "privkey"):
        text = text.replace(f"/etc/ssl/{HOST}/{name}.pem", str(pem))
    text = text.replace("127.0.0.1:8484", f"127.0.0.1:{upstream}")
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user}pid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{own}{text}}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(config), "-g", "daemon off;"]


def caddy(folder: Path, upstream: int, port: int, pem: Path) -> list[str]:
    text = (EXAMPLES / "Caddyfile").read_text()
    text = text.replace("127.0.0.1:8484", f"127.0.0.1:{upstream}")
    text = text.replace(
        f"{HOST} {{", f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n\ttls {pem} {pem}"
    )
    config = folder / "Caddyfile"
    config.write_text(
        f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tgrace_period 1s\n\tstorage file_system {folder}/store\n}}\n{text}"
    )
    return ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]


PROXIES: list[Callable[[Path, int, int, Path], list[str]]] = [nginx, caddy]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def before(
    server: HubProcess,
    folder: Path,
    kind: Callable[[Path, int, int, Path], list[str]],
) -> AsyncIterator[httpx.AsyncClient]:
    """Run a proxy before a hub for the length of a block; yields its owner's client."""
    authority, port = Authority(folder / "ca"), free_port()
    (folder / "proxy").mkdir()
    command = kind(folder / "proxy", server.port, port, authority.issue(HOST))
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed here")
    log = folder / "proxy.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env={**os.environ, "HOME": str(folder)},
        ) as process,
    ):
        context = ssl.create_default_context(cafile=str(authority.file))
        async with httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}",
            headers={**server.headers, "host": f"{HOST}:{port}"},
            verify=context,
            timeout=90,
            trust_env=False,
        ) as http:
            # The name in the certificate, which no name server here knows.
            http.event_hooks["request"] = [_named]

            async def answers() -> bool:
                try:
                    return (await http.get("/healthz")).status_code == 200
                except httpx.TransportError:
                    assert process.poll() is None, log.read_text()
                    return False

            try:
                await until(answers)
                yield http
            finally:
                process.terminate()


async def _named(request: httpx.Request) -> None:
    request.extensions["sni_hostname"] = HOST


@pytest.mark.parametrize("kind", PROXIES)
async def test_a_machine_and_a_person_work_through_the_proxy(
    tmp_path: Path, kind: Callable[[Path, int, int, Path], list[str]]
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    async with hub(folder) as server, before(server, tmp_path, kind) as http:
        machine = Machine(http=http, name="m1")
        async with held_poll(machine, "60") as poll:
            job_id = await server.submit({"id": "j", "dag_name": "ci"})
        held = poll.reply.json()
        assert held["id"] == job_id
        done = await machine.call(
            "accept", "j", claim_token=held["claim_token"], dag_run_id="j"
        )
        assert done.status_code < 300, done.text
        large = await machine.call(
            "finish",
            "j",
            claim_token=held["claim_token"],
            result_status="succeeded",
            result_summary="x" * 1000,
            result_output="x" * 30 * 1024 * 1024,
        )
        assert large.status_code < 300, large.text[:300]
        assert (await row(server, "j"))["state"] == "succeeded"

        # Live updates of a page come at once, and not when a buffer is full.
        entered = await login(http, admin_token(server))
        assert "secure" in entered.headers["set-cookie"].lower()
        async with http.stream("GET", "/events") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            async for text in events.aiter_text():
                assert text
                break

        # The hub's log has the client's address, whatever that says of itself.
        spoofed = {"authorization": "Bearer wrong", "x-forwarded-for": "192.0.2.7"}
        assert (await http.get("/api/v1/jobs", headers=spoofed)).status_code == 401
        await until(lambda: "token_refused" in server.log_file.read_text())
        assert '"127.0.0.1"' in server.log_file.read_text()
        assert "192.0.2.7" not in server.log_file.read_text()
