"""The descriptions of the endpoint and of the hub: complete, and held together by references that resolve."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from dispatchd.hub.api.probes import Probes
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.config.load import Settings
from dispatchd.hub.context import Context
from dispatchd.hub.domain.scopes import SCOPES
from dispatchd.hub.github.app.manifest import WEBHOOK_PATH
from dispatchd.hub.github.extension import GithubExtension
from dispatchd.hub.github.ingest.webhook import Webhook
from dispatchd.hub.main import application
from dispatchd.hub.storage.database import Database
from dispatchd.protocol.published.openapi import Api, bundled
from dispatchd.protocol.published.schemas import names, schema

CONTRACTS = Path(__file__).parents[2] / "contracts"
OPENAPI: dict[str, Any] = json.loads((CONTRACTS / "openapi.json").read_text("utf-8"))
HUB: dict[str, Any] = json.loads((CONTRACTS / "hub.openapi.json").read_text("utf-8"))
BOTH = pytest.mark.parametrize("document", [OPENAPI, HUB], ids=["endpoint", "hub"])

OF_ANYBODY = {"/healthz", "/readyz", "/openapi.json", "/endpoint.openapi.json"}
OF_THE_HUB = {
    "hub-artifact",
    "hub-delivery",
    "hub-github-status",
    "hub-job",
    "hub-machine",
    "hub-schedule",
    "hub-token",
    "hub-webhook",
    "machine-binding-request",
    "machine-request",
    "pause-request",
    "prune-request",
    "resolve-request",
    "submit-request",
    "token-request",
}
NOT_ON_THE_WIRE = {
    "config",
    "control-event",
    "control-status",
    "hub-config",
    "run-brief",
    "run-event",
    "run-result",
    "tracked-job",
}
ABOUT_A_JOB = [
    "accept",
    "finish",
    "heartbeat",
    "release",
    "token",
    "log",
    "artifacts",
    "artifact",
]
OPERATIONS = {
    "/api/v1/github/dispatch/pull": "pull",
    **{f"/api/v1/github/dispatch/{{id}}/{call}": call for call in ABOUT_A_JOB},
    "/api/v1/licenses/activate": "activate",
    "/api/v1/licenses/heartbeat": "license_heartbeat",
}
CONTRACT_OF = {
    "pull": ("pull-request", "dispatch-job"),
    "accept": ("accept-request", "heartbeat-reply"),
    "finish": ("finish-request", ""),
    "heartbeat": ("heartbeat-request", "heartbeat-reply"),
    "release": ("release-request", ""),
    "token": ("token-grant-request", "token-grant-reply"),
    "log": ("log-request", "log-reply"),
    "artifacts": ("artifacts-request", "artifacts-reply"),
    "artifact": ("artifact-request", "artifact-reply"),
    "activate": ("activate-request", "activate-reply"),
    "license_heartbeat": ("license-heartbeat-request", "license-heartbeat-reply"),
}
ERRORS = {
    *("400", "401", "403", "404", "409", "410", "413", "422", "429"),
    *("500", "503"),
}


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            if key == "$ref":
                yield child
            else:
                yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def resolved(
    node: dict[str, Any], document: dict[str, Any] = OPENAPI
) -> dict[str, Any]:
    """Return what a node is or refers to, inside the description or in a file beside it."""
    reference = node.get("$ref")
    if reference is None:
        return node
    file, _, pointer = reference.partition("#")
    target = json.loads((CONTRACTS / file).read_text("utf-8")) if file else document
    for step in pointer.split("/")[1:]:
        target = target[step.replace("~1", "/").replace("~0", "~")]
    assert isinstance(target, dict)
    return target


def operation(path: str) -> dict[str, Any]:
    found: dict[str, Any] = OPENAPI["paths"][path]["post"]
    return found


def schema_of(content: dict[str, Any]) -> dict[str, Any]:
    return resolved(content["content"]["application/json"]["schema"])


@BOTH
def test_every_reference_resolves_and_nothing_points_outside(
    document: dict[str, Any],
) -> None:
    found = set(references(document))

    assert all(each.startswith(("#/", "./schemas/")) for each in found)
    assert all(resolved({"$ref": each}, document) for each in found)


@pytest.mark.parametrize("api", Api)
def test_a_bundle_says_what_the_files_say_in_one_document(api: Api) -> None:
    description = json.loads((CONTRACTS / api).read_text("utf-8"))
    used = {each for each in references(description) if each.startswith("./")}
    bundle = json.loads(bundled(api))
    found = {*references(bundle)}

    assert all(each.startswith("#/") for each in found)
    assert all(resolved({"$ref": each}, bundle) for each in found)
    assert used
    for reference in used:
        name = reference.removeprefix("./schemas/").removesuffix(".schema.json")
        inside = bundle["components"]["schemas"][name]
        assert inside == {k: v for k, v in schema(name).items() if k[0] != "$"}
    as_files = {
        f"#/components/schemas/{name}": f"./schemas/{name}.schema.json"
        for name in names()
    }
    text = json.dumps({key: bundle[key] for key in ("info", "paths")})
    for inside, file in as_files.items():
        text = text.replace(f'"{inside}"', f'"{file}"')
    assert json.loads(text) == {key: description[key] for key in ("info", "paths")}


@BOTH
def test_every_component_is_used(document: dict[str, Any]) -> None:
    found = set(references(document))

    unused = [
        f"#/components/{kind}/{name}"
        for kind, components in document["components"].items()
        for name in components
        if f"#/components/{kind}/{name}" not in found and kind != "securitySchemes"
    ]

    assert unused == []


def test_every_schema_of_the_wire_is_used() -> None:
    used = [
        {
            each.removeprefix("./schemas/").removesuffix(".schema.json")
            for each in references(document)
            if each.startswith("./")
        }
        for document in (OPENAPI, HUB)
    ]

    assert used == [{*names()} - NOT_ON_THE_WIRE - OF_THE_HUB, OF_THE_HUB]


@BOTH
def test_the_description_is_openapi_3_1_of_version_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == "1"
    assert (
        document["jsonSchemaDialect"] == "https://json-schema.org/draft/2020-12/schema"
    )


def test_every_call_is_there_as_a_post_and_nothing_else() -> None:
    found = {
        path: {method: each["operationId"] for method, each in item.items()}
        for path, item in OPENAPI["paths"].items()
    }

    assert found == {path: {"post": name} for path, name in OPERATIONS.items()}


@pytest.mark.parametrize("path", OPERATIONS)
def test_a_call_takes_and_answers_what_its_contracts_say(path: str) -> None:
    request, reply = CONTRACT_OF[OPERATIONS[path]]
    success = operation(path)["responses"]["200"]

    assert schema_of(operation(path)["requestBody"])["$id"].endswith(
        f"/{request}.schema.json"
    )
    assert operation(path)["requestBody"]["required"] is True
    if reply:
        assert schema_of(success)["$id"].endswith(f"/{reply}.schema.json")


@pytest.mark.parametrize("path", OPERATIONS)
def test_a_call_names_every_answer(path: str) -> None:
    responses = operation(path)["responses"]
    gives = "/licenses/" in path or path.endswith(
        ("/token", "/log", "/artifacts", "/artifact")
    )
    without_body = set() if gives else {"204"}

    assert set(responses) == {"200"} | without_body | ERRORS
    for status in ERRORS:
        error = resolved(responses[status])
        assert error["description"]
        assert schema_of(error)["properties"]["message"]["type"] == "string"
        assert ("Retry-After" in error.get("headers", {})) == (status in ("429", "503"))


@pytest.mark.parametrize("path", OPERATIONS)
def test_a_call_about_a_job_names_the_job_in_its_path(path: str) -> None:
    parameters = [resolved(each) for each in operation(path).get("parameters", [])]
    in_path = [each["name"] for each in parameters if each["in"] == "path"]

    assert in_path == (["id"] if "{id}" in path else [])


def test_a_pull_can_be_held() -> None:
    pull = operation("/api/v1/github/dispatch/pull")
    found = [resolved(each) for each in pull["parameters"]]
    (prefer,) = (each for each in found if each["name"] == "Prefer")

    assert (prefer["name"], prefer["in"], prefer["required"]) == (
        "Prefer",
        "header",
        False,
    )
    for status in ("200", "204"):
        assert "Preference-Applied" in pull["responses"][status]["headers"]


def test_what_is_optional_for_an_endpoint_is_marked() -> None:
    components = OPENAPI["components"]
    marked = {
        OPERATIONS[path]: operation(path)["x-extension"]
        for path in OPERATIONS
        if "x-extension" in operation(path)
    }

    assert marked == {
        **{name: name for name in ("heartbeat", "release", "token", "log")},
        **dict.fromkeys(("artifacts", "artifact"), "artifacts"),
    }
    assert components["parameters"]["Prefer"]["x-extension"] == "long-poll"
    assert components["headers"]["Preference-Applied"]["x-extension"] == "long-poll"
    assert components["headers"]["Retry-After"]["x-extension"] == "retry-after"


def hub_operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and description of each call of every hub."""
    for path, item in HUB["paths"].items():
        for method, operation in item.items():
            if "x-extension" not in operation:
                yield path, method, operation


HUB_OPERATIONS = pytest.mark.parametrize(
    ("path", "method", "call"),
    [*hub_operations()],
    ids=[call["operationId"] for _, _, call in hub_operations()],
)


def test_the_hub_serves_what_the_descriptions_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[object] = []

    def noted(_: Probes, app: ASGIApp) -> ASGIApp:
        apps.append(app)
        return app

    monkeypatch.setattr(Probes, "counting", noted)
    database = Database.open(f"sqlite:///{tmp_path / 'hub.db'}")
    context = Context.at(Settings(), database)
    application(context, GithubExtension(context))
    database.close()
    [app] = apps
    assert isinstance(app, Starlette)
    served = {
        (re.sub(r"\{[^}]*\}", "{}", route.path), method.lower())
        for route in app.routes
        # An endpoint may be without tokens, and so may a hub.
        if isinstance(route, Route) and not route.path.endswith("/token")
        for method in (route.methods or set()) - {"HEAD"}
    }

    described = {
        (re.sub(r"\{[^}]*\}", "{}", path), method)
        for document in (OPENAPI, HUB)
        for path, item in document["paths"].items()
        for method in item
        if item[method].get("x-extension") not in ("token", "github", "webhooks")
    }

    assert {each for each in served if "/api/" in each[0]} == {
        each for each in described if "/api/" in each[0]
    }
    assert described <= served


@HUB_OPERATIONS
def test_a_call_of_the_hub_names_its_scope_and_every_answer(
    path: str, method: str, call: dict[str, Any]
) -> None:
    (scope,) = [words for each in call["security"] for words in each.values()] or [[]]
    errors = set(call["responses"]) - {"200", "201", "204"}
    wanted = {"401", "403", "500", "503"} if scope else set()
    body = {"400", "413", "422"} if "requestBody" in call else set()

    assert set(scope) <= set(SCOPES)
    assert bool(scope) == (path not in OF_ANYBODY)
    assert len(call["responses"]) == len(errors) + 1
    assert errors >= wanted | body
    assert ("requestBody" in call) <= (method == "post")
    assert ("404" in errors) == ("{" in path)
    for status in errors:
        error = resolved(call["responses"][status], HUB)
        assert error["description"]
        schema = resolved(error["content"]["application/json"]["schema"], HUB)
        assert schema["required"] == ["message"]
        assert ("Retry-After" in error.get("headers", {})) == (status == "503")


@HUB_OPERATIONS
def test_a_call_of_the_hub_names_what_stands_in_its_path(
    path: str, method: str, call: dict[str, Any]
) -> None:
    parameters = [resolved(each, HUB) for each in call.get("parameters", [])]
    in_path = [each["name"] for each in parameters if each["in"] == "path"]

    assert in_path == re.findall(r"\{(.*?)\}", path)
    assert all(each["required"] for each in parameters if each["in"] == "path")
    assert (
        len(parameters) == len(in_path) or method == "get" or path.endswith("/requeue")
    )


def test_only_a_hub_with_githubs_secret_takes_webhooks(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'hub.db'}")
    context = Context.at(Settings(), database)
    database.close()
    [path, _] = [path for path in HUB["paths"] if path.startswith("/webhooks/")]

    [route] = Webhook(context, GithubSettings(), [b"secret"]).routes()

    assert route.path == path == WEBHOOK_PATH
    assert Webhook(context, GithubSettings(), []).routes() == []
    call = HUB["paths"][path]["post"]
    assert call["x-extension"] == "github"
    assert call["security"] == [{"signature": []}]
    scheme = HUB["components"]["securitySchemes"]["signature"]
    assert (scheme["in"], scheme["name"]) == ("header", "X-Hub-Signature-256")
    assert set(call["responses"]) == {
        *("200", "202", "400", "401", "408", "413", "415", "500", "503"),
    }
    for status in set(call["responses"]) - {"202"}:
        error = resolved(call["responses"][status], HUB)
        schema = resolved(error["content"]["application/json"]["schema"], HUB)
        assert schema["required"] == ["message"]
