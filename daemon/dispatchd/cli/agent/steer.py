"""`dispatchd block`, `resolve`, `cancel`: a person's decisions about a job of the running daemon."""

from pathlib import Path

import click

from dispatchd.cli.agent.records import find_job
from dispatchd.cli.completion import job_ids
from dispatchd.cli.options import config_option, find_daemon, json_option, not_blank
from dispatchd.cli.terminal import echo
from dispatchd.errors import UsageError
from dispatchd.protocol.job import Json


@click.command()
@config_option
@json_option
@click.option("--reason", required=True, help="Why it has to wait; for those who look.")
@click.argument("job", callback=not_blank, shell_complete=job_ids)
def block(config_file: Path | None, *, as_json: bool, job: str, reason: str) -> None:
    """Park JOB for a person; what runs of it is ended first."""
    if not reason.strip():
        raise UsageError(cannot=f"block {job}", reason="--reason is blank")
    _tell(config_file, job, "block", {"reason": reason}, as_json=as_json)


@click.command()
@config_option
@json_option
@click.option("--retry", "decision", flag_value="retry", help="Another attempt.")
@click.option("--fail", "decision", flag_value="fail", help="It has failed.")
@click.option("--succeed", "decision", flag_value="succeed", help="It has succeeded.")
@click.option("--note", default="", help="Why; part of the job's summary.")
@click.argument("job", callback=not_blank, shell_complete=job_ids)
def resolve(
    config_file: Path | None,
    *,
    as_json: bool,
    job: str,
    decision: str | None,
    note: str,
) -> None:
    """Decide about JOB, which is parked: --retry, --fail or --succeed."""
    if decision is None:
        reason = "one of --retry, --fail, --succeed is needed"
        raise UsageError(cannot=f"resolve {job}", reason=reason)
    body: dict[str, Json] = {"as": decision, "note": note}
    _tell(config_file, job, "resolve", body, as_json=as_json)


@click.command()
@config_option
@json_option
@click.option("--reason", default="", help="Why; part of the job's summary.")
@click.argument("job", callback=not_blank, shell_complete=job_ids)
def cancel(config_file: Path | None, *, as_json: bool, job: str, reason: str) -> None:
    """End JOB: at once if nothing of it runs, else once its run has been ended."""
    _tell(config_file, job, "cancel", {"reason": reason}, as_json=as_json)


def _tell(
    config_file: Path | None,
    job: str,
    what: str,
    body: dict[str, Json],
    *,
    as_json: bool,
) -> None:
    from dispatchd.agent.control.client import ask, in_path
    from dispatchd.cli.options import print_json

    places = find_daemon(config_file)
    job_id = find_job(places, job).job.id
    answer = ask(
        places.control_folder,
        "POST",
        f"/v1/jobs/{in_path(job_id)}/{what}",
        body,
        cannot=f"{what} job {job_id}",
        state=places.state_folder,
    )
    if as_json:
        print_json(answer)
    elif isinstance(answer, dict):
        echo(f"{answer['job']}  {answer['phase']}")
