"""`dispatchd explain EVENT.json`: show the workflow and parameters of a job without running it."""

from collections.abc import Sequence
from pathlib import Path

import click
from attrs import evolve

from dispatchd.agent.domain.delivery import Delivery, foreign_repository
from dispatchd.agent.domain.run.environment import (
    ADDRESSES,
    Parameters,
    derive,
    runtime_parameters,
)
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.endpoint.wire import read_delivery
from dispatchd.cli.options import (
    config_option,
    json_option,
    load_config,
    print_json,
    read_text,
)
from dispatchd.cli.screen.table import print_pairs
from dispatchd.cli.terminal import echo
from dispatchd.errors import ContractViolation, UsageError
from dispatchd.protocol.github_event import job_from_event
from dispatchd.protocol.json_text import loads, members


@click.command()
@config_option
@json_option
@click.option(
    "--workflow",
    help="The workflow of a bare payload.  [default: the only one configured]",
)
@click.option(
    "--event", help="The event of a bare payload, as in X-GitHub-Event.", default=""
)
@click.argument("file", metavar="EVENT.json", type=click.Path(path_type=Path))
def explain(
    config_file: Path | None,
    *,
    as_json: bool,
    workflow: str | None,
    event: str,
    file: Path,
) -> None:
    """Say which workflow and parameters a job would get, without running it.

    EVENT.json is a dispatch job as an endpoint hands it out, or the bare payload of a GitHub event.
    """
    config = load_config(config_file)
    names = list(config.workflows)
    delivery = _read(file, workflow or (names[0] if len(names) == 1 else ""), event)
    configured = config.workflows.get(delivery.job.workflow)
    parameters = _parameters(delivery, configured)
    refusal = _refusal(delivery, configured, names)
    if as_json:
        print_json(
            {
                "workflow": delivery.job.workflow,
                "rejected": refusal or None,
                "command": list(configured.command) if configured else None,
                "parameters": dict(parameters.values),
                "left_out": {
                    parameter.name: parameter.reason
                    for parameter in parameters.left_out
                },
                "runtime_parameters": runtime_parameters(parameters.values),
            }
        )
        return
    if configured:
        echo(f"workflow {configured.name} would run: {' '.join(configured.command)}")
    if refusal:
        echo(f"it would be rejected: {refusal}")
    if parameters.values:
        print_pairs(parameters.values)
    for parameter in parameters.left_out:
        echo(f"left out: {parameter.name}: {parameter.reason}")


def _parameters(delivery: Delivery, workflow: Workflow | None) -> Parameters:
    payload = loads(delivery.payload)
    if workflow is None:
        return derive(delivery.job, payload)
    derived = derive(delivery.job, payload, workflow.github_servers)
    own = {name: value for name, value in workflow.env.items() if name in ADDRESSES}
    return evolve(derived, values={**derived.values, **own})


def _refusal(
    delivery: Delivery, workflow: Workflow | None, names: Sequence[str]
) -> str:
    """Return the reason why a job would be rejected, or an empty string."""
    if delivery.problem:
        return f"the job breaks the contract: {delivery.problem}"
    if delivery.job.is_cancel:
        return ""
    if workflow is None:
        return f"no workflow called {delivery.job.workflow!r} is configured; there are: {', '.join(names) or 'none'}"
    foreign = foreign_repository(delivery.job, workflow)
    return foreign.summary if foreign is not None else ""


def _read(file: Path, workflow: str, event: str) -> Delivery:
    text = read_text(file)
    try:
        if "dag_name" in members(text):
            return read_delivery(text)
        payload = loads(text)
    except ContractViolation as violation:
        raise UsageError(
            cannot=f"use {file}", reason=f"{violation.path} {violation.rule}"
        ) from violation
    return Delivery(
        job=job_from_event("explained", workflow, event, payload),
        payload=text,
        headers="null",
    )
