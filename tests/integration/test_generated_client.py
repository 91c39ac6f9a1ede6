"""From each description that is served openapi-python-client makes a client with every call, and it works."""

import json
import sys
from pathlib import Path

import anyio
import pytest

from dispatchd.hub.config.load import TOKEN_FILE
from dispatchd.protocol.published.openapi import Api
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.hub import Hub
from support.machine import Machine

pytestmark = pytest.mark.host

CONTRACTS = Path(__file__).parents[2] / "contracts"

SCRIPT = """
import json, sys
from client import AuthenticatedClient
from client.api.jobs import list_jobs, show_job, submit_job
from client.api.machines import list_machines
from client.models import SubmitRequest

url, token = sys.argv[1:]
with AuthenticatedClient(base_url=url, token=token, raise_on_unexpected_status=True) as hub:
    made = submit_job.sync(client=hub, body=SubmitRequest.from_dict({"id": "a/1", "dag_name": "it"}))
    again = submit_job.sync_detailed(client=hub, body=SubmitRequest.from_dict({"id": "a/1", "dag_name": "it"}))
    shown = show_job.sync("a/1", client=hub, wait=0)
    listed = list_jobs.sync(client=hub, limit=1)
    machines = list_machines.sync(client=hub)
    print(json.dumps([made.id, again.status_code, again.parsed.message, shown.state, [each.id for each in listed.jobs], [each.name for each in machines.machines]]))
"""


async def generate(source: list[str], folder: Path) -> Path:
    """Generate a client into a folder, and return the folder of its package."""
    package = folder / "client"
    await anyio.run_process(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", *source),
            *("--meta", "none", "--output-path", str(package)),
        ],
    )
    return package


def calls(package: Path) -> set[str]:
    return {each.stem for each in package.glob("api/*/*.py")} - {"__init__"}


def described(api: Api) -> set[str]:
    paths = json.loads((CONTRACTS / api).read_text("utf-8"))["paths"]
    return {call["operationId"] for item in paths.values() for call in item.values()}


async def test_a_client_of_the_hub_is_made_from_what_it_serves(
    server: Hub, machine: Machine, tmp_path: Path
) -> None:
    await machine.ask()
    package = await generate(["--url", f"{server.url}/openapi.json"], tmp_path)
    token = (server.folder / TOKEN_FILE).read_text().strip()
    done = await anyio.run_process(
        [sys.executable, "-c", SCRIPT, server.url, token], cwd=tmp_path
    )

    assert calls(package) == described(Api.HUB)
    id_, status, message, state, jobs, machines = json.loads(done.stdout)
    assert (id_, status, state, jobs) == ("a/1", 409, "queued", ["a/1"])
    assert "a/1" in message
    assert "m1" in machines


async def test_a_machine_is_made_from_what_the_hub_serves(
    server: Hub, tmp_path: Path
) -> None:
    source = ["--url", f"{server.url}/endpoint.openapi.json"]

    assert calls(await generate(source, tmp_path)) == described(Api.ENDPOINT)


async def test_a_client_of_the_socket_is_made_from_what_the_daemon_serves(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            served = await call(daemon, "GET", "/openapi.json")
    file = tmp_path / "socket.json"
    file.write_text(json.dumps(served))

    assert calls(await generate(["--path", str(file)], tmp_path)) == described(
        Api.CONTROL
    )
