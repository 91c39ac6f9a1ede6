"""`dispatchd hub submit`, `jobs`, `show`, `cancel`, `resolve`, `requeue`, `pause`, `resume`, `deliveries`, `redeliver`, `prune`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from dispatchd.cli.agent.views import age_s
from dispatchd.cli.hub.artifacts import artifacts_of
from dispatchd.cli.hub.client import (
    HubClient,
    asks_hub,
    limit_option,
    print_rows,
    say,
)
from dispatchd.cli.hub.job import decided, print_job, took
from dispatchd.cli.hub.lookup import delivery_id_of, job_id_of, workflows_of
from dispatchd.cli.options import finite, not_blank, print_json, read_text
from dispatchd.cli.screen.hints import confirm, next_step, working, yes_option
from dispatchd.cli.screen.names import hint
from dispatchd.cli.screen.table import Column, Kind
from dispatchd.cli.terminal import echo
from dispatchd.errors import UsageError
from dispatchd.network.request_target import in_path
from dispatchd.protocol.times import rough

if TYPE_CHECKING:
    from dispatchd.client.jobs import Decision


@click.command()
@asks_hub
@click.option("--state", default="", help="Only those in a state.")
@click.option("--repository", default="", help="Only those of a repository.")
@click.option("--workflow", default="", help="Only those of a workflow.")
@limit_option
def jobs(
    hub: HubClient,
    *,
    as_json: bool,
    state: str,
    repository: str,
    workflow: str,
    limit: int,
) -> None:
    """List the newest jobs."""
    filters = {"state": state, "repository": repository, "workflow": workflow}
    pairs = [
        f"{name}={quote(value, safe='', errors='surrogatepass')}"
        for name, value in filters.items()
        if value
    ]
    query = "&".join([*pairs, f"limit={limit}"])
    rows = hub.rows(f"/api/v1/jobs?{query}", "jobs", "hub-job", cannot="list jobs")
    empty = (
        "No jobs match."
        if pairs
        else "No jobs yet. Run one: dispatchd hub run WORKFLOW"
    )
    if workflow and not rows and not as_json:
        empty = f"No jobs of the workflow {workflow}{hint(workflow, workflows_of(hub))}"
    print_rows(rows, JOB_COLUMNS, job_row, as_json=as_json, empty=empty)


@click.command(short_help="Show everything about JOB.")
@asks_hub
@click.argument("job", callback=not_blank)
def show(hub: HubClient, *, as_json: bool, job: str) -> None:
    """Show everything about JOB (its id, or the beginning of it)."""
    document = hub.job(job_id_of(hub, job))
    if as_json:
        print_json(document)
        return
    print_job(document)
    if left := artifacts_of(hub, document["id"]):
        echo(f"\nArtifacts\n{len(left)} file{'' if len(left) == 1 else 's'}")
        next_step(f"List or download them: dispatchd hub artifacts {document['id']}")


@click.command(short_help="Queue the job in FILE (JSON; - for stdin).")
@asks_hub
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
def submit(hub: HubClient, *, as_json: bool, file: Path) -> None:
    """Queue the job in FILE (JSON, contracts/schemas/submit-request.schema.json; - for stdin)."""
    try:
        document = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            cannot=f"submit {file}", reason=f"it is not JSON ({error})"
        ) from error
    if not isinstance(document, dict):
        raise UsageError(cannot=f"submit {file}", reason="it is no JSON object")
    answer = hub.submit(document, cannot=f"submit {file}")
    say(answer, answer["id"], as_json=as_json)


@click.command(short_help="End JOB.")
@asks_hub
@click.argument("job", callback=not_blank)
def cancel(hub: HubClient, *, as_json: bool, job: str) -> None:
    """End JOB: at once where no machine has it, else through its machine."""
    job_id = job_id_of(hub, job)
    with hub.calls(f"cancel job {job}") as calls:
        document = calls.cancel(job_id).document
    doing = (
        f"cancel requested; {document['machine_name'] or 'its machine'} ends the run"
        if document["cancel_requested"] and not document["ended"]
        else document["state"]
    )
    say(document, f"{job_id}  {doing}", as_json=as_json)


@click.command(short_help="Decide about JOB, which is parked.")
@asks_hub
@click.option("--retry", "decision", flag_value="retry", help="Another attempt.")
@click.option("--fail", "decision", flag_value="fail", help="It has failed.")
@click.option("--succeed", "decision", flag_value="succeed", help="It has succeeded.")
@click.option("--note", default="", help="Why; part of the job's summary.")
@click.argument("job", callback=not_blank)
def resolve(
    hub: HubClient, *, as_json: bool, job: str, decision: "Decision | None", note: str
) -> None:
    """Decide about JOB, which is parked: --retry, --fail or --succeed.

    Its machine carries the decision out, at once if it can be reached. A machine that takes no decisions from the hub is
    named, with the command to type there. Exit code: 0 if the hub has the decision, 64 if it refuses it, 69 if it doesn't answer.
    """
    if decision is None:
        reason = "one of --retry, --fail, --succeed is needed"
        raise UsageError(cannot=f"resolve {job}", reason=reason)
    job_id = job_id_of(hub, job)
    with hub.calls(f"resolve job {job}") as calls:
        document = calls.resolve(job_id, decision, note).document
    say(document, f"{job_id}  {decided(document)}", as_json=as_json)


@click.command(short_help="Run JOB again, under a new id.")
@asks_hub
@click.argument("job", callback=not_blank)
def requeue(hub: HubClient, *, as_json: bool, job: str) -> None:
    """Run JOB again after its end, as a job with another id."""
    job_id = job_id_of(hub, job)
    with hub.calls(f"requeue job {job}") as calls:
        requeued = {"id": calls.requeue(job_id)}
    say(requeued, requeued["id"], as_json=as_json)


@click.command(short_help="List the newest deliveries of webhooks.")
@asks_hub
@limit_option
def deliveries(hub: HubClient, *, as_json: bool, limit: int) -> None:
    """List the newest deliveries: events that came in, and what became of them."""
    rows = hub.rows(
        f"/api/v1/deliveries?limit={limit}",
        "deliveries",
        "hub-delivery",
        cannot="list deliveries",
    )
    empty = "No deliveries yet. See what GitHub has sent: dispatchd hub github status"
    print_rows(rows, _DELIVERY_COLUMNS, _delivery_row, as_json=as_json, empty=empty)


@click.command(short_help="Replay DELIVERY as new jobs.")
@asks_hub
@click.argument("delivery", callback=not_blank)
def redeliver(hub: HubClient, *, as_json: bool, delivery: str) -> None:
    """Replay DELIVERY (its id, or the beginning of it) as new jobs."""
    answer = hub.ask(
        "POST",
        f"/api/v1/deliveries/{in_path(delivery_id_of(hub, delivery))}/redeliver",
        cannot=f"redeliver {delivery}",
        has="ids",
    )
    say(answer, "\n".join(answer["ids"]), as_json=as_json)


@click.command(short_help="Forget old jobs and deliveries.")
@asks_hub
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    callback=finite,
    help="[default: as configured]",
)
@yes_option
def prune(hub: HubClient, *, as_json: bool, days: float | None, yes: bool) -> None:
    """Forget jobs that ended, and deliveries that came, longer ago than some days.

    On a terminal it asks first. A script needs --yes with --days 0, which forgets all of them.
    """
    old = (
        f" older than {days:g} days"
        if days
        else ""
        if days is not None
        else " older than the hub keeps them"
    )
    confirm(
        f"Forget every job that has ended and every delivery{old}?",
        yes=yes,
        cannot="prune everything" if days == 0 else "",
    )
    body = {} if days is None else {"days": days}
    with working("pruning"):
        answer = hub.ask("POST", "/api/v1/prune", body, cannot="prune", has="removed")
    say(answer, f"{answer['removed']} removed", as_json=as_json)


@click.command(short_help="Stop handing out jobs.")
@asks_hub
@click.option("--reason", default="", help="Why; shown to whoever asks.")
def pause(hub: HubClient, *, as_json: bool, reason: str) -> None:
    """Stop handing out jobs until `resume`; jobs that machines have continue, and cancels still get through."""
    answer = hub.ask(
        "POST",
        "/api/v1/dispatch/pause",
        {"reason": reason},
        cannot="pause dispatch",
        has="paused",
    )
    say(answer, "dispatch is paused", as_json=as_json)
    next_step("Hand out jobs again: dispatchd hub resume")


@click.command()
@asks_hub
def resume(hub: HubClient, *, as_json: bool) -> None:
    """Hand out jobs again."""
    answer = hub.ask(
        "POST", "/api/v1/dispatch/resume", {}, cannot="resume dispatch", has="paused"
    )
    say(answer, "jobs are handed out", as_json=as_json)


COMMANDS: Final = (
    *(submit, jobs, show, cancel, resolve, requeue),
    *(pause, resume, deliveries, redeliver, prune),
)
"""Commands of this module for the group `hub`."""


JOB_COLUMNS: Final = (
    Column("JOB", Kind.ID),
    Column("STATE", Kind.STATE),
    Column("WORKFLOW"),
    Column("REPOSITORY"),
    Column("MACHINE"),
    Column("AGE", Kind.WHOLE),
    Column("TOOK", Kind.WHOLE),
)
_DELIVERY_COLUMNS: Final = (
    Column("DELIVERY", Kind.ID),
    Column("AGE", Kind.WHOLE),
    Column("EVENT"),
    Column("REPOSITORY"),
    Column("ROUTING"),
    Column("JOBS", Kind.IDS),
)


def job_row(job: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a job, one for each of `JOB_COLUMNS`."""
    return (
        job["id"],
        job["state"],
        str(job.get("dag_name") or job.get("command") or ""),
        str(job.get("repository_name") or ""),
        job.get("machine_name") or job["machine"],
        rough(age_s(job["created_at"])),
        took(job),
    )


def _delivery_row(delivery: dict[str, Any]) -> tuple[str, ...]:
    return (
        delivery["id"],
        rough(age_s(delivery["received_at"])),
        " ".join((delivery["event"], delivery["action"])).strip(),
        delivery["repository"],
        f"{delivery['state']}: {delivery['routing']}",
        " ".join(delivery["job_ids"]),
    )
