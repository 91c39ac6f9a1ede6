"""Who has no right to a call gets nothing by it: every call of both descriptions, on a real hub."""

import json
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from attrs import evolve, field, frozen

from dispatchd.hub.api.machines import invited
from dispatchd.hub.auth.hashing import hashed
from dispatchd.hub.config.load import FILE, load
from dispatchd.hub.context import COOKIE
from dispatchd.hub.domain.scopes import ADMIN, READ, SUBMIT
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.schema import METADATA
from dispatchd.protocol.uploads.artifacts import Artifact, ArtifactChunk, ArtifactList
from support.endpoint import SECRET
from support.golden import ROOT, examples, read
from support.hub import Hub
from support.machine import PATH, encoded

JOB, ENDED_JOB = "job-word/1", "job-word/2"
DELIVERY, WORKFLOW, REPOSITORY = (
    "delivery-word",
    "workflow-word",
    "owner-word/repo-word",
)
PAYLOAD, RUN, SUMMARY = "payload-word", "run-word", "summary-word"
TOKEN, MACHINE, REVOKED, INVITED = (
    "token-word",
    "m-word",
    "revoked-word",
    "invited-word",
)
DEAD_KEYS: dict[str, dict[str, Any]] = {
    "expired-word": {"key_expires_at": 1},
    "put-out-word": {"revoked_at": 1},
    "used-word": {"activated_at": 1, "server_id": "another-word"},
}
"""Enrolment keys, each the name of its machine too, and what makes it one that counts no more."""
FILE_OF_RUN = Artifact(
    path="file-word",
    size=len(PAYLOAD),
    sha256=sha256(PAYLOAD.encode()).hexdigest(),
)
MISSING = "nothing-of-that-name"


@frozen
class Call:
    """A call of a description."""

    method: str
    path: str
    described: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.described["operationId"])

    @property
    def scope(self) -> str:
        """What a token has to be for; empty for a call that needs none."""
        words = [word for each in self.described["security"] for word in each["token"]]
        return " ".join(words)

    @property
    def body(self) -> dict[str, Any]:
        """A body that keeps its contract; empty for a call without one."""
        if "requestBody" not in self.described:
            return {}
        content = self.described["requestBody"]["content"]["application/json"]
        contract = content["schema"]["$ref"].removeprefix("./schemas/")
        bodies = map(read, examples(contract.removesuffix(".schema.json")))
        # A cancel job ends others, which the scope of a submit isn't enough for.
        return next(each for each in bodies if each.get("command") != "cancel")

    @property
    def is_about_a_job(self) -> bool:
        return "{id}" in self.path

    def at(self, name: str) -> str:
        """Return the path to what is called so."""
        return self.path.replace("{id}", encoded(name)).replace("{name}", encoded(name))

    @property
    def there(self) -> str:
        """The path to what is there."""
        if self.name == "read_artifact":
            return f"{self.at(JOB)}?path={FILE_OF_RUN.path}"
        kinds = {"deliveries": DELIVERY, "tokens": TOKEN, "machines": MACHINE}
        return self.at(
            next((name for kind, name in kinds.items() if kind in self.path), JOB)
        )


def calls(file: str) -> list[Call]:
    paths = json.loads((ROOT / "contracts" / file).read_text("utf-8"))["paths"]
    return [
        Call(method, path, described)
        for path, item in paths.items()
        for method, described in item.items()
        # Only the back end of a GitHub App has these; who may what is in test_github_webhook.py and test_token.py,
        # and for webhooks of others in test_hub_webhooks.py.
        if described.get("x-extension") not in ("github", "token", "webhooks")
    ]


OF_OWNERS = [each for each in calls("hub.openapi.json") if each.scope]
OF_ALL = [each for each in calls("hub.openapi.json") if not each.scope]
OF_MACHINES = calls("openapi.json")


@frozen(kw_only=True)
class Seeded:
    """A hub with something to hide, and what proves who somebody is."""

    server: Hub
    http: httpx.AsyncClient
    """Proves nothing by itself."""
    database: Database
    tokens: dict[str, str]
    """Scopes -> a token; and `revoked`."""
    secret: str
    """Of the machine that has the job."""
    claim_token: str
    stale_token: str
    key: str

    @property
    def identity(self) -> dict[str, str]:
        """What the machine that has the job shows, in any call."""
        return {
            "license_id": "lic-test",
            "server_id": MACHINE,
            "secret": self.secret,
            "heartbeat_secret": self.secret,
            "claim_token": self.claim_token,
        }

    def dump(self) -> dict[str, list[str]]:
        """Return all that the hub keeps, but for when a machine was last seen."""
        with self.database.snapshot() as db:
            return {
                table.name: sorted(
                    str([(k, v) for k, v in row.items() if k != "seen_at"])
                    for row in db.execute(table.select()).mappings()
                )
                for table in METADATA.sorted_tables
            }

    def require_nothing_told(self, reply: httpx.Response) -> None:
        """Fail if an answer holds a word of what the hub keeps."""
        secrets = (*self.tokens.values(), self.secret, self.claim_token, self.key)
        hashes = [hashed(each) for each in (*secrets, SECRET)]
        words = ("-word", PAYLOAD, SECRET, *secrets, *hashes)
        told = reply.text + str(reply.headers.raw)
        assert [each for each in words if each in told] == []


def bytes_of_file() -> ArtifactChunk:
    content = PAYLOAD.encode()
    return ArtifactChunk(file=FILE_OF_RUN.sha256, offset=0, data=content)


@pytest.fixture
async def seeded(server: Hub) -> AsyncIterator[Seeded]:
    owner = server.http
    tokens = {}
    for scopes in (SUBMIT, READ, ADMIN, f"{SUBMIT} {READ}", "revoked"):
        words = [ADMIN] if scopes == "revoked" else scopes.split()
        body = {"name": f"{TOKEN} {scopes}", "scopes": words}
        made = await owner.post("/api/v1/tokens", json=body)
        tokens[scopes] = made.json()["token"]
    await owner.post(f"/api/v1/tokens/{TOKEN} revoked/revoke")
    await owner.post("/api/v1/tokens", json={"name": TOKEN, "scopes": [READ]})
    fixed = {"name": MACHINE, "fixed_secret": True}
    secret = (await owner.post("/api/v1/machines", json=fixed)).json()["secret"]
    made = await owner.post("/api/v1/machines", json={"name": INVITED})
    key = made.json()["enrolment_key"]
    database = Database.open(load(server.folder / FILE).database_url)
    out = invited(REVOKED, SECRET, fixed=True, license_id="lic-test", now=1)
    MachineStore(database).add(evolve(out, revoked_at=2))
    for name, marks in DEAD_KEYS.items():
        machine = invited(name, name, fixed=False, license_id="", now=time.time())
        MachineStore(database).add(evolve(machine, **marks))
    job = {"dag_name": WORKFLOW, "repository_name": REPOSITORY}
    await server.submit({**job, "id": ENDED_JOB}, payload=f'"{PAYLOAD}"')
    identity = {"license_id": "lic-test", "server_id": MACHINE, "secret": secret}
    claims = []
    for call, fields in (
        ("finish", {"result_status": "failed", "result_summary": SUMMARY}),
        ("release", {}),
        ("accept", {"dag_run_id": RUN}),
    ):
        proof = {**identity, "heartbeat_secret": secret}
        held = (
            await owner.post(f"{PATH}/pull", json={**proof, "extensions": ["claim"]})
        ).json()
        claims.append(held["claim_token"])
        body = {**identity, "claim_token": claims[-1], **fields}
        done = await owner.post(f"{PATH}/{encoded(held['id'])}/{call}", json=body)
        assert done.status_code == 204, done.text
        if call == "finish":
            own = {**job, "id": JOB, "delivery_id": DELIVERY}
            await server.submit(own, payload=f'"{PAYLOAD}"')
    for call, sent in (
        ("artifacts", ArtifactList(attempt=1, files=[FILE_OF_RUN]).to_wire()),
        ("artifact", bytes_of_file().to_wire()),
    ):
        url = f"{PATH}/{encoded(JOB)}/{call}"
        done = await owner.post(url, json={**identity, **sent})
        assert done.is_success, done.text
    # The first one leaves a mark, to see whether the database takes it.
    assert (await owner.get("/readyz")).status_code == 200
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        yield Seeded(
            server=server,
            http=http,
            database=database,
            tokens=tokens,
            secret=secret,
            claim_token=claims[2],
            stale_token=claims[1],
            key=key,
        )
    database.close()


def weak_tokens(call: Call, tokens: dict[str, str]) -> list[tuple[dict[str, str], int]]:
    """Return headers that prove too little for a call, and how each is answered."""

    def bearing(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    lesser = {
        SUBMIT: [READ],
        READ: [SUBMIT],
        ADMIN: [SUBMIT, READ, f"{SUBMIT} {READ}"],
    }[call.scope]
    found: list[tuple[dict[str, str], int]] = [
        ({}, 401),
        ({"authorization": "Bearer"}, 401),
        (bearing("dhub_token_of-nobody"), 401),
        (bearing(hashed(tokens[ADMIN])), 401),
        (bearing(tokens["revoked"]), 401),
        ({"authorization": f"Basic {tokens[ADMIN]}"}, 401),
        ({"cookie": f"{COOKIE}={tokens['revoked']}"}, 401),
        *((bearing(tokens[scopes]), 403) for scopes in lesser),
    ]
    if call.method == "post":
        # Another site can have a browser send a cookie.
        found.append(({"cookie": f"{COOKIE}={tokens[ADMIN]}"}, 401))
    return found


def without_date(reply: httpx.Response) -> tuple[int, str, dict[str, str]]:
    headers = {name: value for name, value in reply.headers.items() if name != "date"}
    return reply.status_code, reply.text, headers


async def test_without_the_right_token_nothing_is_told_and_nothing_changes(
    seeded: Seeded,
) -> None:
    before = seeded.dump()
    for call in OF_OWNERS:
        for headers, status in weak_tokens(call, seeded.tokens):
            sent: dict[str, Any] = {"headers": headers}
            if call.body:
                sent["json"] = call.body

            reply = await seeded.http.request(call.method, call.there, **sent)
            none = await seeded.http.request(call.method, call.at(MISSING), **sent)

            assert reply.status_code == status, (call, headers, reply.text)
            assert str(status) in call.described["responses"]
            assert without_date(reply) == without_date(none)
            seeded.require_nothing_told(reply)
            assert seeded.dump() == before, (call, headers)


async def test_the_scope_that_is_named_is_enough(seeded: Seeded) -> None:
    for call in OF_OWNERS:
        headers = {"authorization": f"Bearer {seeded.tokens[call.scope]}"}

        reply = await seeded.http.request(
            call.method, call.there, headers=headers, json=call.body
        )

        assert reply.status_code not in {401, 403, 404}, (call, reply.text)


async def test_what_anybody_may_ask_tells_nothing(seeded: Seeded) -> None:
    before = seeded.dump()
    for call in OF_ALL:
        reply = await seeded.http.request(call.method, call.path)

        assert reply.status_code == 200
        seeded.require_nothing_told(reply)
        assert seeded.dump() == before


def weak_machines(call: Call, seeded: Seeded) -> list[tuple[dict[str, Any], int]]:
    """Return what of a body proves too little for a call, and how each is answered."""
    if "key" in call.body:
        twin = {"key": seeded.key, "server_id": MACHINE}
        keys = ("dhub_enrol_of-nobody", hashed(seeded.key), seeded.secret, *DEAD_KEYS)
        server = {"server_id": "new"}
        return [*(({**server, "key": key}, 401) for key in keys), (twin, 409)]

    def secret(value: str) -> dict[str, str]:
        return {"secret": value, "heartbeat_secret": value}

    revoked = {"server_id": REVOKED, **secret(SECRET)}
    other = {"server_id": "m1", **secret(SECRET)}
    found: list[tuple[dict[str, Any], int]] = [
        (secret("of-nobody"), 401),
        (secret(hashed(seeded.secret)), 401),
        (secret(SECRET), 401),
        ({"license_id": "lic-of-another"}, 401),
        ({"server_id": MISSING}, 401),
        ({"server_id": INVITED, **secret(seeded.key)}, 401),
        (revoked, 401 if call.is_about_a_job else 410),
    ]
    if call.name in {"log", "artifacts", "artifact"}:
        # Each machine that has had the job may send its log and its files, under whichever claim.
        found.append((other, 404))
    elif call.is_about_a_job:
        tokens = (seeded.stale_token, "", None, hashed(seeded.claim_token))
        found.append((other, 409))
        found += [({"claim_token": token}, 409) for token in tokens]
    return found


async def test_without_the_right_credentials_nothing_is_told_and_nothing_changes(
    seeded: Seeded,
) -> None:
    before = seeded.dump()
    for call in OF_MACHINES:
        for fields, status in weak_machines(call, seeded):
            body = {**call.body, **seeded.identity, **fields}

            reply = await seeded.http.post(call.there, json=body)
            none = await seeded.http.post(call.at(MISSING), json=body)

            assert reply.status_code == status, (call, fields, reply.text)
            assert str(status) in call.described["responses"]
            if status == 401:
                assert without_date(reply) == without_date(none)
            seeded.require_nothing_told(reply)
            assert seeded.dump() == before, (call, fields)


async def test_the_right_credentials_are_enough(seeded: Seeded) -> None:
    await seeded.server.submit({"dag_name": "ci"})
    for call in OF_MACHINES:
        own: dict[str, Any] = {"key": seeded.key, "dag_run_id": RUN}
        if "key" in call.body:
            own["server_id"] = "new"
        if call.name == "artifacts":
            own["files"] = [FILE_OF_RUN.to_wire()]
        if call.name == "artifact":
            own |= bytes_of_file().to_wire()
        body = {**call.body, **seeded.identity, **own}

        reply = await seeded.http.post(call.there, json=body)

        # What comes after the finish is told that the job has ended.
        assert reply.is_success or reply.status_code == 410, (call, reply.text)
