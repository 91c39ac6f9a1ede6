"""Generated requests to a real hub, judged by the descriptions in `contracts/`; schemathesis takes a second to load."""

import re
from hashlib import sha256
from itertools import count
from typing import Any

import pytest
import requests
import schemathesis
from anyio import to_thread
from attrs import define, field
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dispatchd.protocol.report import LogChunk
from dispatchd.protocol.uploads.artifacts import Artifact, ArtifactChunk, ArtifactList
from support.hub import Hub
from support.machine import PATH, PROOF, encoded

NOT_SERVED = ("/{id}/token", "/webhooks/github", "/webhooks/{name}")
"""The ends of the paths of calls that only the back end of a GitHub App has, or a hub with webhooks; its answers are held
against their description in test_github_webhook.py and test_hub_webhooks.py."""

WANTED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BROKEN = {400, 405, 413, 422}
"""Nothing that keeps its description is refused as broken."""

TEXT = b"text"
KEPT = Artifact(path="a/b", size=len(TEXT), sha256=sha256(TEXT).hexdigest())
"""An artifact of each job that a machine has."""

EVERYTHING = "{name}/artifact"
"""Path of a call that would be about all that can be there."""

STAY = "stay"
"""What the machine of a parked job calls its stay."""

LONGEST_WAIT_S = 0.02
NUMBERS = count(1)


@define
class Known:
    """What a hub has been given, so that a request can be about something that is there."""

    key: str
    jobs: dict[str, str] = field(factory=dict)
    """Job id -> claim token; empty for one that was never handed out."""
    deliveries: list[str] = field(factory=list)
    names: list[str] = field(factory=list)
    """Each is the name of a machine, and of a token."""

    def ids_for(self, path: str) -> list[str]:
        if "{name}" in path:
            return self.names
        return self.deliveries if "/deliveries/" in path else [*self.jobs]


async def seeded(server: Hub, path: str) -> Known:
    """Return what is there after one job has been brought into each state, with whatever else calls of a path are about."""
    number, http = next(NUMBERS), server.http
    about_names = "{name}" in path or path.endswith("/activate")
    names = [f"n{number}.{index} ä" for index in range(3 * about_names)]
    key = ""
    for name in names:
        made = await http.post("/api/v1/machines", json={"name": name})
        key = made.json()["enrolment_key"]
        token = {"name": name, "scopes": ["read"]}
        assert (await http.post("/api/v1/tokens", json=token)).status_code == 201
    known = Known(key=key, names=names)
    steps = ("", "accept", "running", "needs_attention", "finish", "release", None)
    for step in steps:
        job_id = f"{number}/{step} ü%2F"
        job = {"id": job_id, "dag_name": job_id, "delivery_id": f"d{job_id}"}
        await server.submit({**job, "progress": "own", "attempts": 7})
        known.deliveries.append(f"d{job_id}")
        known.jobs[job_id] = ""
        if step is not None:
            known.jobs[job_id] = await claimed(server, job_id)
        if step:
            if "/artifact" in path:
                await with_artifact(server, job_id)
            await moved(server, job_id, known.jobs[job_id], step)
    return known


async def claimed(server: Hub, job_id: str) -> str:
    """Return the claim token of a job that no machine has yet."""
    while True:
        # A generated call may have paused the hub.
        await server.http.post("/api/v1/dispatch/resume")
        body = {**PROOF, "workflows": [job_id], "extensions": ["claim", "lease"]}
        reply = await server.http.post(f"{PATH}/pull", json=body)
        assert reply.status_code == 200, reply.text
        # What a generated cancel job wants goes out first.
        if reply.json()["id"] == job_id:
            return str(reply.json()["claim_token"])


async def with_artifact(server: Hub, job_id: str) -> None:
    for name, fields in (
        ("artifacts", ArtifactList(attempt=1, files=[KEPT]).to_wire()),
        ("artifact", ArtifactChunk(file=KEPT.sha256, offset=0, data=TEXT).to_wire()),
    ):
        url = f"{PATH}/{encoded(job_id)}/{name}"
        kept = await server.http.post(url, json={**PROOF, **fields})
        assert kept.is_success, kept.text


async def moved(server: Hub, job_id: str, token: str, step: str) -> None:
    call = step if step in {"accept", "finish", "release"} else "heartbeat"
    body = {**PROOF, "claim_token": token, "dag_run_id": "run", "phase": step}
    body["result_status"] = "failed"
    if step == "needs_attention":
        body["parked"] = STAY
    reply = await server.http.post(f"{PATH}/{encoded(job_id)}/{call}", json=body)
    assert reply.is_success, reply.text


def brief(case: Case[Any]) -> None:
    """Let a request not be held for longer than a moment."""
    if "wait" in case.query:
        wait = case.query["wait"]
        try:
            case.query["wait"] = min(float(wait), LONGEST_WAIT_S)
        except (TypeError, ValueError):
            case.query["wait"] = wait if isinstance(wait, str) else "x"
    if case.path.endswith("/artifact") and "path" in case.query:
        case.query["path"] = KEPT.path
    if "Prefer" in case.headers:
        case.headers["Prefer"] = re.sub(r"\d+", "0", case.headers["Prefer"])


def whole(value: Any) -> Any:
    """Return JSON with its whole numbers written as such: 1.0 may be refused (contracts/README.md, JSON)."""
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def from_somebody_known(
    case: Case[Any], known: Known, chosen: str, right: dict[str, str]
) -> None:
    """Let a request come from the hub's owner, and from a machine that the hub knows."""
    case.headers.update(right)
    if isinstance(case.body, dict):
        fields = {**PROOF, "claim_token": known.jobs.get(chosen, "")}
        if case.path.endswith("/activate"):
            fields = {"key": known.key}
        case.body |= {name: fields[name] for name in fields.keys() & case.body.keys()}
        if "{id}" in case.path:
            case.body.setdefault("claim_token", fields["claim_token"])


def with_right_sums(case: Case[Any]) -> None:
    """Let length and hash of a chunk be those of its data, which no schema can say."""
    if not isinstance(case.body, dict):
        return
    if "parked" in case.body and case.path.endswith("/resolve"):
        case.body["parked"] = STAY
    if case.path.endswith("/log"):
        case.body |= LogChunk(attempt=1, offset=0, data=b"text").to_wire()
    if case.path.endswith("/artifact"):
        case.body |= ArtifactChunk(file=KEPT.sha256, offset=0, data=TEXT).to_wire()
    if case.path.endswith("/artifacts"):
        body: dict[str, Any] = case.body
        files = {file["path"]: file for file in body["files"]}
        body["files"] = [*files.values()]


def try_out(
    server: Hub,
    operation: APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    known: Known,
    examples: int,
) -> set[int]:
    """Send generated requests to a call; return the statuses of the answers, each of which has been checked."""
    seen: set[int] = set()
    turns, ids = count(), known.ids_for(operation.path)

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        # A failure can't be shrunk: the same request finds another hub the next time.
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case[Any]) -> None:
        turn = next(turns)
        chosen = ids[turn % len(ids)]
        brief(case)
        case.body = whole(case.body)
        if turn % 8 != 7:
            case.path_parameters.update(
                dict.fromkeys(case.path_parameters, encoded(chosen))
            )
        if turn % 8 != 6:
            from_somebody_known(case, known, chosen, server.headers)
        if mode is GenerationMode.POSITIVE:
            with_right_sums(case)
        answer = case.call(base_url=server.url, session=session, allow_redirects=False)
        case.validate_response(answer, checks=WANTED)
        assert mode is GenerationMode.NEGATIVE or answer.status_code not in BROKEN
        seen.add(answer.status_code)

    with requests.Session() as session:
        try:
            send()
        except FailureGroup as failures:
            pytest.fail(str(failures))
    return seen


async def judge(server: Hub, description: str, examples: int) -> None:
    """Send generated requests to each call of a description; fail on an answer that it doesn't declare.

    Args:
        server: The hub.
        description: Path at which the hub serves it.
        examples: Requests of each kind, valid and not, for each call (count).
    """
    described = schemathesis.openapi.from_dict(
        (await server.http.get(description)).raise_for_status().json()
    )
    served = described.exclude(
        path_regex=f"({'|'.join(re.escape(path) for path in NOT_SERVED)})$"
    )
    known: Known | None = None
    for result in served.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        nothing_to_break = not operation.definition.raw.get("security", [None])
        # What is refused leaves what is there to the valid ones, so that it has to be made once.
        modes = [GenerationMode.NEGATIVE, GenerationMode.POSITIVE]
        asked = operation.method.upper() == "GET"
        known = known or await seeded(server, EVERYTHING if asked else operation.path)
        seen: set[int] = set()
        for mode in modes[nothing_to_break:]:
            seen |= await to_thread.run_sync(
                try_out, server, operation, mode, known, examples
            )
        print(operation.label, sorted(seen))
        # Otherwise nothing would be said about what lies behind the refusals.
        assert seen & {200, 201, 204}, (operation.label, seen)
        if not asked:
            # It may have changed what is there.
            known = None
