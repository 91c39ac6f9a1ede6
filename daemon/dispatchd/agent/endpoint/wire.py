"""Conversion between the wire's names and ours: a job, a report; see contracts/README.md."""

from collections.abc import Callable, Mapping
from typing import Final

from attrs import fields

from dispatchd.agent.domain.delivery import Delivery, Stored
from dispatchd.errors import ContractViolation
from dispatchd.protocol.contracts import check
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.job import Job, Json
from dispatchd.protocol.json_text import Member, flawed_members
from dispatchd.protocol.report import Report, RunSpan
from dispatchd.protocol.result import Annotation

LONGEST_ID: Final = 512
"""Longest job id (characters), as in the dispatch-job schema."""

_MOST_EXTENSIONS: Final = 100
"""Most extensions of a job that are read (count): unknown ones are ignored anyway."""

_WIRE_NAMES: Final = {
    "workflow": "dag_name",
    "event": "event_name",
    "action": "event_action",
    "repository": "repository_name",
    "pull_request": "pull_request_number",
    "issue": "issue_number",
    "actor": "actor_login",
    "target_run_id": "dag_run_id",
    "lease_s": "lease_seconds",
}

_FIELDS: Final = {
    field.name: _WIRE_NAMES.get(field.name, field.name) for field in fields(Job)
}

_converter = strict_converter(forbid_extra_keys=False, detailed_validation=False)


def job_from_wire(document: Mapping[str, Json]) -> Job:
    """Return the job in a valid document; zero values and null count as absent."""
    values = {ours: document.get(theirs) for ours, theirs in _FIELDS.items()}
    return _converter.structure(
        {name: value for name, value in values.items() if value not in (None, "", 0)},
        Job,
    )


def job_to_wire(job: Job) -> dict[str, Json]:
    """Return a job in the wire's names, absent fields left out."""
    return {_FIELDS[name]: value for name, value in _converter.unstructure(job).items()}


def report_to_wire(report: Report, scrub: Callable[[str], str]) -> dict[str, Json]:
    """Return the fields of a finish beside its verdict. `scrub` is applied to every text in them.

    They may be empty.
    """
    return {
        "result_output": scrub(report.output),
        "result_step_summary": scrub(report.step_summary),
        "result_outputs": {
            name: scrub(value)
            for name, value in report.outputs.items()
            # A name that becomes a mark is no name.
            if scrub(name) == name
        },
        "result_annotations": [
            _scrubbed(annotation, scrub) for annotation in report.annotations
        ],
        "result_spans": [_scrubbed(span, scrub) for span in report.spans],
    }


def _scrubbed(
    item: Annotation | RunSpan, scrub: Callable[[str], str]
) -> dict[str, Json]:
    document = _converter.unstructure(item)
    return {
        name: scrub(value) if isinstance(value, str) else value
        for name, value in document.items()
    }


def read_delivery(text: str) -> Delivery:
    """Return the job in the body of a pull's reply, even if it breaks the contract.

    A job that breaks the contract still has to be finished, so it only needs an id.

    Raises:
        ContractViolation: The body isn't a JSON object with a usable id.
    """
    members = flawed_members(text)
    document = {name: member.value for name, member in members.items()}
    shown = document.get("extensions")
    if isinstance(shown, list):
        document["extensions"] = shown[:_MOST_EXTENSIONS]
    texts = {
        name: members[name].text if name in members else "null"
        for name in ("payload", "headers")
    }
    try:
        _require_readable(members)
        check("dispatch-job", document)
    except ContractViolation as violation:
        job_id = document.get("id")
        if not isinstance(job_id, str) or not 0 < len(job_id) <= LONGEST_ID:
            raise
        problem = f"{violation.path} {violation.rule}"
        return Delivery(
            job=_claim_only(document, job_id),
            problem=problem,
            payload=texts["payload"],
            headers=texts["headers"],
        )
    return Delivery(
        job=job_from_wire(document), payload=texts["payload"], headers=texts["headers"]
    )


def _require_readable(members: Mapping[str, Member]) -> None:
    """Return if a whole job could be read.

    Raises:
        ContractViolation: Something in it couldn't.
    """
    for name, member in members.items():
        if member.problem:
            raise ContractViolation(
                contract="dispatch-job", path=f"$.{name:.100}", rule=member.problem
            )


def _claim_only(document: Mapping[str, Json], job_id: str) -> Job:
    """Return the parts that are needed to finish a flawed job: its id, its claim, and its purpose if readable."""
    text = {name: value for name, value in document.items() if isinstance(value, str)}
    shown = document.get("extensions")
    return Job(
        id=job_id,
        claim_token=text.get("claim_token", ""),
        extensions=tuple(extension for extension in shown if isinstance(extension, str))
        if isinstance(shown, list)
        else (),
        workflow=text.get("dag_name", ""),
        repository=text.get("repository_name", ""),
    )


def stored_of(fields: Mapping[str, Json]) -> Stored:
    """Return the answer about an artifact, in fields that keep the schema."""
    return Stored(
        offset=int(str(fields["offset"])),
        whole=fields.get("whole") is True,
        refused=str(fields.get("refused") or ""),
    )
