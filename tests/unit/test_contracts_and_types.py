"""The golden examples through our types and back, and the schemas against the types that they describe."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs
import pytest

from dispatchd.agent.config import keys
from dispatchd.agent.domain.executions.identities import (
    BatchJob,
    DagRun,
    EngineRun,
    ProcessIdentity,
)
from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.job import STEPS_KEPT, Attempt, Step, Terms, TrackedJob
from dispatchd.agent.domain.phase import Event, Phase
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.endpoint.wire import job_to_wire, read_delivery
from dispatchd.agent.store.codec import SCHEMA_VERSION, decode, to_document
from dispatchd.agent.store.evidence import read_result
from dispatchd.errors import ContractViolation
from dispatchd.hub.api.schedules import schedule_document
from dispatchd.hub.api.views import (
    attempt_document,
    delivery_document,
    job_document,
    machine_document,
    token_document,
)
from dispatchd.hub.api.webhooks import webhook_document
from dispatchd.hub.config import load as settings
from dispatchd.hub.config.schedules import Schedule
from dispatchd.hub.config.webhooks import Webhook
from dispatchd.hub.domain.model import Attempt as Claim
from dispatchd.hub.domain.model import Delivery, HubJob, Machine, State, Token
from dispatchd.hub.domain.result_details import NAMES
from dispatchd.hub.domain.webhooks.senders import Sender
from dispatchd.protocol.contracts import check
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import FailureCause, Outcome, Verdict
from dispatchd.protocol.published.schemas import schema
from dispatchd.protocol.result import Annotation, NoResult, ResultStatus, RunResult
from support.golden import examples, name_of, read

OLD_RECORDS = Path(__file__).parents[1] / "fixtures" / "records"
"""Records as earlier releases wrote them, one folder for each version."""


@pytest.mark.parametrize("path", examples("dispatch-job"), ids=name_of)
def test_a_valid_job_goes_through_our_types_and_comes_back(path: Path) -> None:
    document = read(path)
    known = schema("dispatch-job")["properties"].keys() - {"payload", "headers"}

    delivery = read_delivery(path.read_text(encoding="utf-8"))

    assert delivery.problem == ""
    assert json.loads(delivery.payload) == document.get("payload")
    assert json.loads(delivery.headers) == document.get("headers")
    assert json.loads(json.dumps(job_to_wire(delivery.job))) == {
        name: value
        for name, value in document.items()
        if name in known and value not in (None, "", 0)
    }


@pytest.mark.parametrize("path", examples("dispatch-job", "invalid"), ids=name_of)
def test_an_invalid_job_is_delivered_with_its_flaw_if_it_has_an_id(path: Path) -> None:
    example = read(path)
    text = json.dumps(example["document"])

    if example["path"] in ("$", "$.id"):
        with pytest.raises(ContractViolation):
            read_delivery(text)
    else:
        assert (
            read_delivery(text)
            .problem.removeprefix(example["path"])
            .startswith((" must", " is required"))
        )


@pytest.mark.parametrize("path", examples("tracked-job"), ids=name_of)
def test_a_valid_record_goes_through_our_types_and_comes_back(path: Path) -> None:
    record = decode(path.read_bytes(), path=path)

    assert json.loads(json.dumps(to_document(record))) == read(path)


def test_a_record_with_every_field_filled_keeps_the_contract() -> None:
    record = decode(examples("tracked-job")[0].read_bytes(), path=Path())
    filled = {
        field.name: ["heartbeat"]
        if field.name == "extensions"
        else True
        if field.type is bool
        else 7
        if "None" in str(field.type)
        else "x"
        for field in attrs.fields(Job)
    }

    check("tracked-job", {**to_document(record), "job": filled})


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (TrackedJob, ()),
        (Job, ("job",)),
        (Attempt, ("attempts", "items")),
        (Terms, ("attempts", "items", "terms")),
        (ProcessIdentity, ("attempts", "items", "process")),
        (BatchJob, ("attempts", "items", "batch_job")),
        (DagRun, ("attempts", "items", "dag_run")),
        (EngineRun, ("attempts", "items", "engine_run")),
        (Verdict, ("verdict",)),
        (Step, ("steps", "items")),
    ],
)
def test_the_record_has_the_fields_of_our_types(
    kind: type[attrs.AttrsInstance], steps: tuple[str, ...]
) -> None:
    node: Any = schema("tracked-job")
    for step in steps:
        node = node["items"] if step == "items" else node["properties"][step]
    fields = attrs.fields(kind)

    assert list(node["properties"]) == [
        *(["schema_version"] if kind is TrackedJob else []),
        *(field.name for field in fields),
    ]
    assert set(node["required"]) - {"schema_version"} == {
        field.name for field in fields if field.default is attrs.NOTHING
    }
    assert node["additionalProperties"] is False


def test_the_closed_lists_are_those_of_our_types() -> None:
    record = schema("tracked-job")["properties"]
    attempt = record["attempts"]["items"]["properties"]
    step = record["steps"]["items"]["properties"]
    verdict = record["verdict"]["properties"]

    def values(kind: type[StrEnum]) -> list[str]:
        return [str(each) for each in kind]

    assert record["schema_version"]["const"] == SCHEMA_VERSION
    assert record["steps"]["maxItems"] == STEPS_KEPT
    assert record["phase"]["enum"] == step["phase"]["enum"] == values(Phase)
    assert step["event"]["enum"] == values(Event)
    assert verdict["outcome"]["enum"] == values(Outcome)
    assert attempt["contract"]["enum"] == values(Contract)
    terms = attempt["terms"]["properties"]
    assert terms["isolation"]["enum"] == values(Isolation)
    for place in (verdict["cause"], attempt["cause"], attempt["stop"]):
        assert place["enum"] == [*values(FailureCause), None]
    assert schema("finish-request")["properties"]["result_status"]["enum"] == values(
        Outcome
    )
    assert schema("heartbeat-request")["properties"]["phase"]["enum"] == [
        # Nobody beats for what is given back, or has left.
        each
        for each in values(Phase)
        if each not in (Phase.RELEASING, Phase.HISTORY)
    ]


def test_the_schemas_of_a_run_have_the_values_of_our_types() -> None:
    result = schema("run-result")["properties"]
    workflow = schema("config")["properties"]["workflows"]["additionalProperties"]

    assert result["status"]["enum"] == [str(each) for each in ResultStatus]
    assert list(result) == [field.name for field in attrs.fields(RunResult)]
    assert list(result["annotations"]["items"]["properties"]) == [
        field.name for field in attrs.fields(Annotation)
    ]
    assert workflow["properties"]["contract"]["enum"] == [str(e) for e in Contract]

    told = schema("finish-request")["properties"]["result_annotations"]["items"]
    assert told["required"] == result["annotations"]["items"]["required"]
    assert list(told["properties"]) == list(
        result["annotations"]["items"]["properties"]
    )
    assert (
        told["properties"]["level"]["enum"]
        == result["annotations"]["items"]["properties"]["level"]["enum"]
    )


def test_a_workflow_has_the_keys_and_defaults_of_our_type() -> None:
    workflow = schema("config")["properties"]["workflows"]["additionalProperties"]
    properties = workflow["properties"]
    fields = attrs.fields_dict(keys.WorkflowEntry)

    assert set(properties) == set(fields)
    for name, each in properties.items():
        if "default" in each and each["default"] not in ([], {}):
            default: Any = fields[name].default
            assert each["default"] == (
                list(default) if isinstance(default, tuple) else default
            )


@pytest.mark.parametrize("path", examples("run-event"), ids=name_of)
def test_a_valid_event_is_taken(path: Path) -> None:
    story = Story()

    story.feed(json.dumps(read(path)).encode())

    assert (story.events, story.malformed) == (1, 0)


@pytest.mark.parametrize("path", examples("run-event", "invalid"), ids=name_of)
def test_an_invalid_event_is_counted_and_skipped(path: Path) -> None:
    story = Story()

    story.feed(json.dumps(read(path)["document"]).encode())

    assert (story.events, story.malformed) == (0, 1)


@pytest.mark.parametrize("path", examples("run-result"), ids=name_of)
def test_a_valid_result_is_read(path: Path) -> None:
    found = read_result(path)

    assert isinstance(found, RunResult)
    assert found.status == read(path)["status"]


@pytest.mark.parametrize("path", examples("run-result", "invalid"), ids=name_of)
def test_an_invalid_result_is_refused_with_what_and_why(
    path: Path, tmp_path: Path
) -> None:
    example = read(path)
    file = tmp_path / "result.json"
    file.write_text(json.dumps(example["document"]))

    found = read_result(file)

    assert isinstance(found, NoResult)
    assert example["path"].removeprefix("$.") in found.reason


@pytest.mark.parametrize(
    "path",
    sorted(OLD_RECORDS.glob("*/*.json")),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_a_record_of_every_earlier_version_is_read(path: Path) -> None:
    before = read(path)
    assert before["schema_version"] < SCHEMA_VERSION

    record = decode(path.read_bytes(), path=path)

    written = json.loads(json.dumps(to_document(record)))
    check("tracked-job", written)
    for name in before.keys() - {"schema_version"}:
        assert written[name] == before[name]
    assert record.blocked or record.phase is not Phase.NEEDS_ATTENTION
    assert record.job.from_fork is before["job"].get("from_fork", False)


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("cloud", keys.Cloud),
        ("store", keys.Store),
        ("runs", keys.Limits),
        ("log", keys.Log),
    ],
)
def test_the_configuration_has_the_keys_and_defaults_of_our_types(
    table: str, kind: type[attrs.AttrsInstance]
) -> None:
    properties = schema("config")["properties"][table]["properties"]

    for field in attrs.fields(kind):
        documented = properties[field.name].get("default", attrs.NOTHING)
        if (table, field.name) != ("store", "folder"):
            assert documented == field.default
    assert set(properties) == {field.name for field in attrs.fields(kind)}


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("leases", settings.Leases),
        ("queue", settings.Queue),
        ("connections", settings.ConnectionLimits),
        ("retention", settings.Retention),
    ],
)
def test_a_table_of_the_hubs_configuration_has_the_keys_and_defaults_of_our_type(
    table: str, kind: type[attrs.AttrsInstance]
) -> None:
    properties = schema("hub-config")["properties"][table]["properties"]

    assert {name: each["default"] for name, each in properties.items()} == {
        field.name: field.default for field in attrs.fields(kind)
    }


def test_the_hubs_configuration_has_the_keys_and_defaults_of_our_type() -> None:
    properties = schema("hub-config")["properties"]
    fields = attrs.fields_dict(settings.Settings)

    assert set(properties) == set(fields) - {"file"}
    for name, each in properties.items():
        default = each.get("default", fields[name].default)
        # A list of a file is a tuple of ours.
        default = tuple(default) if isinstance(default, list) else default
        assert default == fields[name].default
        assert ("default" in each) != ("properties" in each)


def toml_value(value: object) -> str:
    """Return a value of an example as TOML, whose inline tables have other signs than JSON."""
    if not isinstance(value, dict):
        return json.dumps(value)
    pairs = ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items())
    return f"{{{pairs}}}"


@pytest.mark.parametrize("path", examples("hub-config"), ids=name_of)
def test_a_valid_configuration_of_the_hub_is_read(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    lines: list[str] = []
    for name, value in sorted(read(path).items(), key=lambda pair: str(pair[1])):
        if isinstance(value, dict):
            lines += [
                f"[{name}]",
                *(f"{k} = {toml_value(v)}" for k, v in value.items()),
            ]
        elif isinstance(value, list):
            for table in value:
                lines += [
                    f"[[{name}]]",
                    *(f"{k} = {toml_value(v)}" for k, v in table.items()),
                ]
        else:
            lines = [f"{name} = {json.dumps(value)}", *lines]
    file.write_text("\n".join(lines))

    assert settings.load(file).file == file


LATER: dict[str, set[str]] = {
    "hub-job": {"started_at", "run_ended_at"},
    "hub-machine": {"version", "slots", "running", "free_bytes"},
}
"""Fields that a hub of an earlier release doesn't show."""

SHOWN: list[tuple[str, dict[str, Any], set[str]]] = [
    (
        "hub-job",
        job_document(HubJob(id="j", document={"dag_name": "ci"}), now=1),
        {"result_output", *NAMES, "attempts"},
    ),
    (
        "hub-machine",
        machine_document(Machine(name="m"), now=1),
        {
            *("secret", "enrolment_key", "join_key", "key_expires_at"),
            *("public_key", "fingerprint"),
        },
    ),
    ("hub-token", token_document(Token(name="t", token_hash="", scopes="")), {"token"}),
    ("hub-delivery", delivery_document(Delivery(id="d", state="queued")), set()),
    (
        "hub-webhook",
        webhook_document(
            Webhook(name="n", workflow="ci", sender=Sender.GITEA, secret_files=()),
            None,
        ),
        set(),
    ),
    (
        "hub-schedule",
        schedule_document(Schedule(name="n", cron="0 0 * * *", workflow="ci"), {}),
        set(),
    ),
]


@pytest.mark.parametrize(
    ("contract", "document", "more"), SHOWN, ids=[each[0] for each in SHOWN]
)
def test_what_the_hub_shows_keeps_its_contract_and_has_each_of_its_fields(
    contract: str, document: dict[str, Any], more: set[str]
) -> None:
    check(contract, document)

    shown = document.keys() - {"dag_name"}
    assert set(schema(contract)["required"]) == shown - LATER.get(contract, set())
    assert set(schema(contract)["properties"]) == shown | more


def test_a_field_of_a_submitted_job_never_takes_the_place_of_one_of_the_hubs() -> None:
    properties = schema("hub-job")["properties"]
    liar = HubJob(id="j", document=dict.fromkeys(properties, "a lie"))

    shown = job_document(liar, now=1)

    check("hub-job", shown)
    assert "a lie" not in shown.values()


def test_the_hubs_closed_lists_are_those_of_our_types() -> None:
    job = schema("hub-job")["properties"]
    claim = Claim(job_id="j", number=1, machine="m", claimed_at=1)

    assert job["state"]["enum"] == [*State]
    assert list(job["attempts"]["items"]["properties"]) == [*attempt_document(claim)]


def test_of_very_many_extensions_of_a_job_the_first_are_read() -> None:
    names = ["lease", "heartbeat", *(["x"] * 300_000), 7]

    delivery = read_delivery(
        json.dumps({"id": "j", "dag_name": "w", "extensions": names})
    )

    assert delivery.problem == ""
    assert delivery.job.extensions == tuple(names[:100])
