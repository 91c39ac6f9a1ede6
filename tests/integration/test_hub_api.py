"""Each answer of a hub, to generated requests and to odd ones, is one that the descriptions in `contracts/` declare."""

from typing import Any

import pytest

from support.hub import Hub
from support.machine import JOBS, PATH, PROOF, Machine, encoded, refuses

DESCRIPTIONS = ("/endpoint.openapi.json", "/openapi.json")
"""Where the hub serves the descriptions of its calls."""
FEW, MANY = 5, 24
"""Requests of each kind, valid and not, for each call; of eight, six are from somebody known about something known."""


async def judge(server: Hub, name: str, examples: int) -> None:
    """Send generated requests to each call of a description; fail on an answer that it doesn't declare."""
    # It takes a second to load, which is for these tests alone to wait for.
    from support import generated_calls

    await generated_calls.judge(server, name, examples)


@pytest.mark.host
@pytest.mark.parametrize("name", DESCRIPTIONS)
async def test_every_answer_is_one_that_is_declared(server: Hub, name: str) -> None:
    await judge(server, name, FEW)


@pytest.mark.torture(least_s=120)
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", DESCRIPTIONS)
async def test_every_answer_of_many_is_one_that_is_declared(
    each_server: Hub, name: str
) -> None:
    await judge(each_server, name, MANY)


LONG = "".join(map(chr, range(0x4E00, 0x4E00 + 5000)))
"""More than an index of PostgreSQL takes."""

ODD: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", f"{JOBS}/", {}, 404),
    ("GET", "/healthz/", {}, 404),
    ("POST", f"{JOBS}//cancel", {}, 405),
    ("PATCH", f"{JOBS}/x/cancel", {}, 405),
    ("OPTIONS", JOBS, {}, 405),
    ("GET", f"{PATH}/pull", {}, 405),
    ("GET", f"{JOBS}/a%00b", {}, 404),
    ("GET", f"{JOBS}/%ed%a0%80", {}, 404),
    ("GET", f"{JOBS}?state=%00%ff", {}, 422),
    ("GET", f"{JOBS}?repository=%00&workflow=%ff&state=&limit={'9' * 5000}", {}, 200),
    ("GET", f"{JOBS}?limit=", {}, 200),
    *(("GET", f"{JOBS}?limit={each}", {}, 422) for each in ("abc", "-1", "nan", "1.5")),
    ("GET", "/api/v1/deliveries?limit=-1e999", {}, 422),
    ("GET", JOBS, {"headers": {"authorization": b"Bearer \xff\x80"}}, 401),
    ("GET", JOBS, {"headers": {"authorization": b"B\xe4rer \xff"}}, 401),
    ("POST", JOBS, {"content": b"\xff\xfe"}, 400),
    ("POST", JOBS, {"content": b'{"dag_name": "ci", "own": %s}' % (b"9" * 5000)}, 422),
    ("POST", JOBS, {"json": {"dag_name": "ci", "installation_id": 2**63}}, 422),
    ("POST", JOBS, {"json": {"dag_name": "ci", "installation_id": 2**63 - 1}}, 201),
    ("POST", JOBS, {"json": {"dag_name": "\0", "repository_name": "\0"}}, 201),
    ("POST", JOBS, {"json": {"dag_name": LONG[:512]}}, 201),
    ("POST", JOBS, {"json": {"dag_name": LONG}}, 422),
    ("POST", JOBS, {"json": {"dag_name": "ci", "id": LONG[:512]}}, 201),
    ("POST", JOBS, {"json": {"dag_name": "ci", "repository_name": LONG[:512]}}, 201),
    ("POST", JOBS, {"json": {"dag_name": "ci", "repository_name": LONG}}, 422),
    ("POST", JOBS, {"json": {"dag_name": "ci", "delivery_id": LONG[:512]}}, 201),
    ("POST", JOBS, {"json": {"dag_name": "ci", "delivery_id": LONG}}, 422),
    ("POST", f"{PATH}/pull", {"json": {**PROOF, "server_id": LONG}}, 401),
    ("POST", f"{PATH}/pull", {"json": {**PROOF, "workflows": ["w"] * 7_000}}, 422),
    ("POST", f"{PATH}/pull", {"json": {**PROOF, "workflows": ["\0", LONG]}}, 200),
    ("POST", "/api/v1/prune", {"content": b'{"days": 1e999}'}, 422),
    ("POST", "/api/v1/prune", {"content": b'{"days": 1e-999}'}, 200),
]


async def test_odd_requests_are_answered(each_server: Hub) -> None:
    for method, path, content, status in ODD:
        reply = await each_server.http.request(method, path, **content)

        assert reply.status_code == status, (method, path[:80], reply.text[:200])
        assert status < 400 or reply.json()["message"]


async def test_a_machines_id_can_be_as_long_as_the_database_takes(
    server: Hub,
) -> None:
    made = await server.http.post("/api/v1/machines", json={"name": "new"})
    body = {"key": made.json()["enrolment_key"], "machine_name": ""}
    activate = "/api/v1/licenses/activate"

    long = await server.http.post(activate, json={**body, "server_id": LONG[:513]})
    good = await server.http.post(activate, json={**body, "server_id": LONG[:512]})

    assert "$.server_id" in refuses(long, 422)
    assert good.status_code == 200


async def test_a_job_is_known_by_the_id_that_its_submit_was_answered_with(
    server: Hub, machine: Machine
) -> None:
    job_id = await server.submit({"id": "a\0b", "dag_name": "ci"})

    found = (await server.http.get(f"{JOBS}/{encoded(job_id)}")).json()["id"]

    assert job_id == found == (await machine.pull()).id


async def test_no_two_machines_call_themselves_the_same(server: Hub) -> None:
    made = await server.http.post("/api/v1/machines", json={"name": "new"})
    key = made.json()["enrolment_key"]
    body = {"key": key, "server_id": "twin", "machine_name": ""}
    activated = await server.http.post("/api/v1/licenses/activate", json=body)

    twin = {"name": "twin", "fixed_secret": True}

    assert activated.status_code == 200
    refuses(await server.http.post("/api/v1/machines", json=twin), 409)


async def test_a_requeued_job_takes_no_newer_one_out(server: Hub) -> None:
    commit = {"dag_name": "ci", "repository_name": "o/r", "event_name": "push"}
    old = await server.submit({**commit, "pull_request_number": 1, "sha": "a"})
    await server.http.post(f"{JOBS}/{old}/cancel")
    new = await server.submit({**commit, "pull_request_number": 1, "sha": "b"})

    again = await server.http.post(f"{JOBS}/{old}/requeue")

    assert again.status_code == 201
    found = await server.http.get(f"{JOBS}/{new}")
    assert found.json()["state"] == "queued"


async def test_a_known_path_names_its_methods(server: Hub) -> None:
    from support.generated_calls import NOT_SERVED

    for name in DESCRIPTIONS:
        description = (await server.http.get(name)).json()
        for path, item in description["paths"].items():
            if path.endswith(NOT_SERVED):
                continue
            reply = await server.http.patch(path.replace("{", "").replace("}", ""))

            refuses(reply, 405)
            allowed = set(reply.headers["allow"].split(", ")) - {"HEAD"}
            assert allowed <= {method.upper() for method in item}, path
