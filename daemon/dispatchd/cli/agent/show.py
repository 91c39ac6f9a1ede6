"""`dispatchd show JOB`: everything about one job."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dispatchd.agent.config.load import Places
from dispatchd.agent.domain.executions.identities import (
    BatchJob,
    DagRun,
    EngineRun,
    Remote,
)
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.run.github_server import chosen
from dispatchd.agent.store.codec import to_public
from dispatchd.cli.agent.records import find_job
from dispatchd.cli.agent.views import (
    age_s,
    annotation_line,
    passed_s,
    purpose,
    standing,
)
from dispatchd.cli.completion import job_ids
from dispatchd.cli.options import (
    config_option,
    find_daemon,
    json_option,
    load_config,
    not_blank,
    print_json,
)
from dispatchd.cli.screen.table import print_pairs
from dispatchd.cli.terminal import echo
from dispatchd.errors import ContractViolation, NotReachable, UsageError, UserError
from dispatchd.protocol.github_event import link_of
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import loads
from dispatchd.protocol.times import ago, duration, rough, utc

if TYPE_CHECKING:
    from dispatchd.agent.store.runs import RunFolder

_TIMEOUT_S: Final = 5.0
"""Time limit of the daemon's answer (seconds)."""


@click.command()
@config_option
@json_option
@click.argument("job", callback=not_blank, shell_complete=job_ids)
def show(config_file: Path | None, *, as_json: bool, job: str) -> None:
    """Show everything about JOB (its id, or the beginning of it)."""
    from dispatchd.agent.store.runs import Runs

    places = find_daemon(config_file)
    record = find_job(places, job)
    folder = Runs.at(places.state_folder).folder(record.run_id)
    link = _link(config_file, record, folder)
    if as_json:
        more = {"run_folder": str(folder.path), "link": link}
        print_json({**to_public(record), **more})
        return
    where = _where(places, record)
    print_pairs({**_facts(record, folder, link), **({"where": where} if where else {})})
    _print_story(record, folder)
    _print_report(record, folder)
    if record.attempts:
        echo("\nAttempts")
        for attempt in record.attempts:
            echo(f"  {_attempt(attempt)}")
    echo("\nSteps")
    echo(f"  {utc(record.received_at)}  received")
    for step in record.steps:
        echo(f"  {utc(step.at)}  {step.event} -> {step.phase}")


def _where(places: Places, record: TrackedJob) -> str:
    """Return where a running job's attempt is and what it waits for, as its daemon knows; empty for a local process."""
    attempt = record.attempt
    remote = None if attempt is None else attempt.remote
    if remote is None or record.phase is not Phase.RUNNING:
        return ""
    from dispatchd.agent.control.client import ask

    try:
        document: Any = ask(
            places.control_folder,
            "GET",
            "/v1/status",
            cannot="get the daemon's status",
            timeout_s=_TIMEOUT_S,
            state=places.state_folder,
        )
    except (NotReachable, UsageError):
        return f"{_words(remote)}; no daemon is running that follows it"
    jobs = document.get("engines", {}).get(remote.engine, {}).get("jobs", {})
    return str(jobs.get(record.job.id, ""))


def _print_story(record: TrackedJob, folder: "RunFolder") -> None:
    """Print the events of the newest attempt."""
    if record.attempt is None:
        return
    from dispatchd.agent.store.evidence import read_story

    story = read_story(folder.events_file(record.attempt.number)).shown()
    span = story.last_span
    facts = {
        "run phase": story.phases[-1].name if story.phases else "",
        "phases took": story.timings(),
        "progress": str(story.progress) if story.progress else "",
        "last span": f"{span.name}, {duration(span.duration_s)}, {'ok' if span.ok else 'failed'}"
        if span
        else "",
        "left to do": "; ".join(story.follow_ups),
        "bad events": f"{story.malformed} lines" if story.malformed else "",
        "events left out": f"{story.left_out:,} lines" if story.left_out else "",
    }
    if any(facts.values()):
        echo("")
        print_pairs(facts)


def _print_report(record: TrackedJob, folder: "RunFolder") -> None:
    """Print the report of the newest attempt; it exists from the attempt's end on."""
    if record.attempt is None:
        return
    from dispatchd.agent.store import reports

    report, problem = reports.read(folder, record.attempt.number)
    outputs = [f"{name}={value}" for name, value in report.outputs.items()]
    remarks = [
        annotation_line(
            annotation.level, annotation.path, annotation.start_line, annotation.message
        )
        for annotation in report.annotations
    ]
    for title, text in (
        ("Step summary", report.step_summary),
        ("Outputs", "\n".join(outputs)),
        ("Annotations", "\n".join(remarks)),
        ("Can't be read", problem),
    ):
        if text:
            echo(f"\n{title}\n{text}")


def _link(config_file: Path | None, record: TrackedJob, folder: "RunFolder") -> str:
    """Return the page of what a job is about, at the GitHub of its workflow; empty where that isn't known."""
    try:
        workflow = load_config(config_file).workflows.get(record.job.workflow)
    except (UserError, OSError):
        return ""
    servers = workflow.github_servers if workflow is not None else ()
    payload: Json = None
    if len(servers) > 1:
        with suppress(OSError, ValueError, ContractViolation):
            payload = loads(folder.event_file.read_text(encoding="utf-8"))
    server = chosen(servers, payload)
    job = record.job
    about: dict[str, Json] = {
        "repository_name": job.repository,
        "pull_request_number": job.pull_request,
        "issue_number": job.issue,
        "sha": job.sha,
    }
    return link_of(about, server) if server else ""


def _facts(record: TrackedJob, folder: "RunFolder", link: str) -> dict[str, str]:
    job, verdict = record.job, record.verdict
    return {
        "job": job.id,
        "workflow": job.workflow or job.command,
        "for": purpose(record),
        "link": link,
        "pull request": str(job.pull_request or ""),
        "ref": job.ref,
        "commit": job.sha,
        "actor": job.actor,
        "phase": f"{record.phase} for {rough(age_s(record.changed_at))}",
        "status": standing(record),
        "summary": verdict.summary if verdict else "",
        "parked for": record.blocked,
        "next attempt": f"{utc(record.retry_at)} ({ago(passed_s(record.retry_at))})"
        if record.retry_at
        else "",
        "run folder": str(folder.path),
        "output": str(folder.output_file(record.attempts[-1].number))
        if record.attempts
        else "",
    }


def _words(remote: Remote) -> str:
    match remote:
        case BatchJob():
            return f"Slurm job {remote.job_id}"
        case DagRun():
            return f"Dagu run {remote.name}"
        case EngineRun():
            return f"{remote.kind} run {remote.name}"


def _attempt(attempt: Attempt) -> str:
    pid = f", pid {attempt.process.pid}" if attempt.process else ""
    if attempt.remote is not None:
        pid = f", {_words(attempt.remote)} on {attempt.remote.engine}"
    if attempt.ended_at is None:
        stop = f", being ended: {attempt.stop}" if attempt.stop else ""
        return f"{attempt.number}. started {ago(age_s(attempt.started_at))}{pid}{stop}"
    seconds = (attempt.ended_at - attempt.started_at).total_seconds()
    return (
        f"{attempt.number}. took {duration(seconds)}{pid}, {attempt.cause or 'success'}"
    )
