"""The golden examples against the schemas, and how a violation is told."""

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dispatchd.agent.domain.exit_table import as_markdown
from dispatchd.agent.endpoint.wire import LONGEST_ID
from dispatchd.errors import ContractViolation
from dispatchd.hub.domain.claim_rules import LEASE_EXPIRED
from dispatchd.hub.domain.model import State
from dispatchd.protocol.contracts import CONTRACTS_VERSION, check, violations
from dispatchd.protocol.outcome import FailureCause
from dispatchd.protocol.published.schemas import names, schema
from support.golden import EXAMPLES, ROOT, examples, name_of, read

VALID = sorted(EXAMPLES.glob("*/valid/*.json"))
INVALID = sorted(EXAMPLES.glob("*/invalid/*.json"))

NAMES = [
    "accept-request",
    "activate-reply",
    "activate-request",
    "artifact-reply",
    "artifact-request",
    "artifacts-reply",
    "artifacts-request",
    "config",
    "control-event",
    "control-status",
    "dispatch-job",
    "finish-request",
    "heartbeat-reply",
    "heartbeat-request",
    "hub-artifact",
    "hub-config",
    "hub-delivery",
    "hub-github-status",
    "hub-job",
    "hub-machine",
    "hub-schedule",
    "hub-token",
    "hub-webhook",
    "license-heartbeat-reply",
    "license-heartbeat-request",
    "log-reply",
    "log-request",
    "machine-binding-request",
    "machine-request",
    "pause-request",
    "prune-request",
    "pull-request",
    "release-request",
    "resolve-request",
    "run-brief",
    "run-event",
    "run-result",
    "submit-request",
    "token-grant-reply",
    "token-grant-request",
    "token-request",
    "tracked-job",
]
CLOSED = {"config", "hub-config", "tracked-job"}

PAGE = (ROOT / "contracts" / "README.md").read_text(encoding="utf-8")
"""The normative text."""

REQUEST = {
    "license_id": "l",
    "server_id": "m",
    "secret": "s3cret",
    "result_status": "failed",
}


def objects(node: object) -> Iterator[dict[str, Any]]:
    """Yield every object inside a JSON value, itself included."""
    if isinstance(node, dict):
        yield node
    children = (
        node.values()
        if isinstance(node, dict)
        else node
        if isinstance(node, list)
        else ()
    )
    for child in children:
        yield from objects(child)


@pytest.mark.parametrize("path", VALID, ids=name_of)
def test_every_valid_example_keeps_its_contract(path: Path) -> None:
    check(path.parts[-3], read(path))

    assert violations(path.parts[-3], read(path)) == []


@pytest.mark.parametrize("path", INVALID, ids=name_of)
def test_every_invalid_example_is_refused_for_its_reason(path: Path) -> None:
    example = read(path)

    with pytest.raises(ContractViolation) as caught:
        check(path.parts[-3], example["document"])

    assert caught.value.contract == path.parts[-3]
    assert caught.value.path == example["path"]
    assert example["rule"] in caught.value.rule


@pytest.mark.parametrize("path", INVALID, ids=name_of)
def test_the_most_telling_mistake_is_among_all_mistakes(path: Path) -> None:
    example = read(path)

    found = violations(path.parts[-3], example["document"])

    assert any(
        each.path == example["path"] and example["rule"] in each.rule for each in found
    )


def test_the_contracts_are_those_of_version_1() -> None:
    assert names() == NAMES


@pytest.mark.parametrize("contract", NAMES)
def test_every_schema_keeps_its_metaschema_and_bears_its_name(contract: str) -> None:
    Draft202012Validator.check_schema(schema(contract))

    assert schema(contract)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema(contract)["$id"].endswith(
        f"/v{CONTRACTS_VERSION}/{contract}.schema.json"
    )
    assert schema(contract)["title"]
    assert not [each for each in objects(schema(contract)) if "$ref" in each]


@pytest.mark.parametrize("contract", NAMES)
def test_every_property_says_what_it_is(contract: str) -> None:
    properties = [
        (name, each)
        for node in objects({**schema(contract), "allOf": [], "else": {}})
        for name, each in node.get("properties", {}).items()
        if "const" not in each or "type" in each
    ]

    assert [name for name, each in properties if not each.get("description")] == []


@pytest.mark.parametrize("contract", NAMES)
def test_every_contract_has_valid_and_invalid_examples(contract: str) -> None:
    assert len(examples(contract, "valid")) >= 2
    assert len(examples(contract, "invalid")) >= 2


def test_no_example_lies_where_nobody_reads_it() -> None:
    used = {*VALID, *INVALID}

    assert {path for path in EXAMPLES.rglob("*") if path.is_file()} == used
    assert {path.parts[-3] for path in used} == set(NAMES)


@pytest.mark.parametrize("contract", NAMES)
def test_only_the_record_and_the_configurations_refuse_unknown_properties(
    contract: str,
) -> None:
    for path in examples(contract):
        found = violations(contract, {**read(path), "of_a_newer_version": 1})

        if contract not in CLOSED:
            assert found == []
        else:
            assert [each.path for each in found] == ["$.of_a_newer_version"]


def test_a_submitted_job_has_the_fields_of_a_dispatch_job() -> None:
    dispatched, submitted = schema("dispatch-job"), schema("submit-request")
    added = submitted["properties"].keys() - dispatched["properties"].keys()

    tighter = {"dag_name", "delivery_id", "repository_name"}

    assert added == {"priority", "supersede"}
    assert {
        name: {**each, "maxLength": 512} if name in tighter else each
        for name, each in dispatched["properties"].items()
        if name != "id"
    } == {
        name: each
        for name, each in submitted["properties"].items()
        if name not in added | {"id"}
    }
    assert "required" not in submitted
    assert dispatched["properties"]["id"]["maxLength"] == LONGEST_ID


def test_every_mistake_is_listed_once_in_the_order_of_the_file() -> None:
    document = {
        "workflows": {"b": {"command_line": ["x"]}, "a": {"command": ["x", 1]}},
        "cloud": {"url": "nowhere", "license_id": 5},
    }

    found = [str(each) for each in violations("config", document)]

    assert [each.split(": ")[1] for each in found] == [
        "$.workflows.b.command_line",
        "$.workflows.b.command",
        "$.workflows.a.command[1]",
        "$.cloud.server_id",
        "$.cloud.url",
        "$.cloud.license_id",
    ]


def test_the_page_has_the_table_that_the_daemon_judges_by() -> None:
    _, _, after = PAGE.partition("<!-- exit table -->\n")
    table, mark, _ = after.partition("<!-- end of exit table -->\n")

    assert mark
    assert table == as_markdown()


def test_the_page_explains_every_failure_cause() -> None:
    _, _, after = PAGE.partition("\n### Failure causes\n")
    section, _, _ = after.partition("\n#")

    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == [
        *(str(each) for each in FailureCause),
        LEASE_EXPIRED,
    ]


def test_the_page_explains_every_state_of_a_job_at_the_hub() -> None:
    _, _, after = PAGE.partition("\n### States of a job\n")
    section, _, _ = after.partition("\n#")

    assert re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE) == [*State]


def test_the_page_names_every_call_of_the_hub() -> None:
    paths = json.loads((ROOT / "contracts" / "hub.openapi.json").read_text())["paths"]
    calls = {
        (
            method.upper(),
            path,
            " ".join(
                word
                for each in call["security"]
                for word in each.get("token", ["signature"])
            ),
        )
        for path, item in paths.items()
        for method, call in item.items()
    }
    _, _, after = PAGE.partition("\n## The hub\n")
    section, _, _ = after.partition("\n### ")
    rows = re.findall(r"^\| ([A-Z]+) `(\S+)` \| (\w+) \|", section, re.MULTILINE)

    assert {
        (method, path, scope.replace("none", "")) for method, path, scope in rows
    } == calls


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "50"])
def test_only_a_finite_number_is_a_number(value: object) -> None:
    with pytest.raises(ContractViolation, match="must be a number"):
        check("heartbeat-reply", {"lease_seconds": value})


def test_a_whole_number_is_written_without_a_fraction() -> None:
    job = {"id": "dj-1", "dag_name": "build", "issue_number": 1.0}

    with pytest.raises(ContractViolation, match=r"must be a whole number, not 1\.0$"):
        check("dispatch-job", job)


@pytest.mark.parametrize(
    "broken",
    [
        {**REQUEST, "secret": ["s3cret"]},
        {**REQUEST, "secret": {"s3cret": "s3cret"}},
        {**REQUEST, "result_status": "s3cret"},
        {**REQUEST, "claim_token": {"token": "s3cret"}},
        ["s3cret"],
        "s3cret",
    ],
)
def test_a_violation_never_quotes_a_value_that_may_be_secret(broken: object) -> None:
    with pytest.raises(ContractViolation) as caught:
        check("finish-request", broken)

    assert "s3cret" not in str(caught.value)


def test_a_type_that_only_toml_has_is_named() -> None:
    document = tomllib.loads("[cloud]\nurl = 2026-11-20T12:00:00Z")

    found = violations("config", document)

    assert "must be a string, not a datetime" in [each.rule for each in found]


@pytest.mark.torture(least_s=20)
def test_the_wheel_that_comes_from_the_sdist_carries_every_schema(
    tmp_path: Path,
) -> None:
    """An editable install never looks there, so only a built wheel shows a schema that is missing."""
    pytest.importorskip("hatchling", reason="builds the project with its own backend")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path), "-t"]

    subprocess.run([*build, "sdist"], cwd=ROOT, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        sdist.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    subprocess.run([*build, "wheel"], cwd=source, check=True)
    built = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(tmp_path / "installed")

    # From other files, at another time, with other modes: the same wheel, byte for byte.
    from_sdist = built.read_bytes()
    subprocess.run([*build, "wheel"], cwd=ROOT, check=True, umask=0o077)
    assert built.read_bytes() == from_sdist

    seen = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json; from dispatchd.protocol.published import schemas; print(json.dumps([schemas.__file__, schemas.names()]))",
        ],
        cwd=tmp_path / "installed",
        check=True,
        capture_output=True,
    )
    module, found = json.loads(seen.stdout)

    assert Path(module).is_relative_to(tmp_path / "installed")
    assert found == NAMES
    shipped = tmp_path / "installed" / "dispatchd" / "_contracts"
    assert len([*(shipped / "schemas").iterdir()]) == len(NAMES)
    assert (shipped / "openapi.json").is_file()
    assert (shipped / "hub.openapi.json").is_file()


@pytest.mark.parametrize(
    ("contract", "document", "path", "rule"),
    [
        (
            "pull-request",
            {"heartbeat_secret": "s", "workflows": [1] * 1_000_000},
            "$.workflows",
            "1000 or fewer",
        ),
        (
            "pull-request",
            {"heartbeat_secret": "s", "extensions": [{}] * 101},
            "$.extensions",
            "100 or fewer",
        ),
        (
            "dispatch-job",
            {"id": "j", "dag_name": "w", "from_fork": ["x" * 30_000_000]},
            "$.from_fork",
            "true or false, not a list",
        ),
        (
            "finish-request",
            {
                "secret": "s",
                "result_status": "failed",
                "result_outputs": {"n" * 4_000_000: 1},
            },
            "$.result_outputs",
            "must be a string",
        ),
    ],
)
def test_a_mistake_is_told_shortly_however_large_the_document_is(
    contract: str, document: dict[str, Any], path: str, rule: str
) -> None:
    with pytest.raises(ContractViolation) as caught:
        check(contract, {"license_id": "l", "server_id": "m", **document})

    assert caught.value.path.startswith(path)
    assert rule in caught.value.rule
    assert len(str(caught.value)) < 300


def test_not_more_mistakes_are_listed_than_anybody_reads() -> None:
    finish = {**REQUEST, "result_annotations": [{}] * 100_000}

    assert 0 < len(violations("finish-request", finish)) <= 1000
    with pytest.raises(ContractViolation, match="is required and is missing"):
        check("finish-request", finish)


def test_a_pattern_ends_where_the_text_ends_as_in_every_other_language() -> None:
    """In Python a dollar sign also stands before a last line break (re); in ECMA-262, which JSON Schema names, it doesn't."""
    machine = {"name": "m"}
    check("machine-request", machine)
    for ending in ("\n", "\n\n", "\r\n"):
        with pytest.raises(ContractViolation):
            check("machine-request", {**machine, "name": f"m{ending}"})


def test_after_a_load_no_contract_needs_its_file() -> None:
    script = """
import sys
from dispatchd.protocol import contracts
from dispatchd.protocol.published import schemas
contracts.load_all()
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
for name in schemas.names():
    contracts.violations(name, {})
print([path for path in opened if str(path).endswith(".json")])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
