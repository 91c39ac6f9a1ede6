"""`dispatchd hub run`, `watch` and `open`: start a job by hand, follow it, and look at its page."""

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import click

from dispatchd.cli.hub.client import HubClient, asks_hub, limit_option
from dispatchd.cli.hub.job import took
from dispatchd.cli.hub.jobs import JOB_COLUMNS, job_row
from dispatchd.cli.hub.lookup import job_id_of
from dispatchd.cli.hub.patience import patiently
from dispatchd.cli.options import not_blank, print_json
from dispatchd.cli.screen.colour import is_terminal, painted, show
from dispatchd.cli.screen.hints import next_step
from dispatchd.cli.screen.names import hint, short_ids
from dispatchd.cli.screen.table import cells_of, print_table, terminal_width, wrapped
from dispatchd.cli.terminal import echo
from dispatchd.errors import UsageError
from dispatchd.network.request_target import in_path
from dispatchd.redaction.escapes import written_out

_EXIT_CODES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "succeeded": 0,
        "failed": 1,
        "partially_succeeded": 2,
        "aborted": 3,
        "superseded": 3,
        "rejected": 4,
        "ignored": 4,
    }
)
"""Exit codes of a watch, by the state in which the job has ended."""

_NOT_STARTED: Final = frozenset({"received", "queued", "claimed", "accepted"})

_AGAIN_S: Final = 2.0
"""Time between two looks (seconds)."""


@click.command(short_help="Run WORKFLOW on a machine of the hub.")
@asks_hub
@click.option(
    *("-f", "--field", "fields"),
    metavar="KEY=VALUE",
    multiple=True,
    help="An input; the run finds it as .inputs.KEY in $GITHUB_EVENT_PATH. May be repeated.",
)
@click.option("--repo", default="", help="The repository, as OWNER/NAME.")
@click.option("--ref", default="", help="The full git ref, such as refs/heads/main.")
@click.option("--sha", default="", help="The commit, in lower-case hex.")
@click.option("-w", "--watch", "watches", is_flag=True, help="Follow it to its end.")
@click.argument("workflow", callback=not_blank)
def run(
    hub: HubClient,
    *,
    as_json: bool,
    fields: Sequence[str],
    repo: str,
    ref: str,
    sha: str,
    watches: bool,
    workflow: str,
) -> None:
    """Run WORKFLOW on a machine of the hub, and print the job's id.

    A workflow that no machine has is refused; `dispatchd hub submit` queues it all the same. With --watch the exit
    code is that of `dispatchd hub watch JOB`.
    """
    _require_workflow(hub, workflow)
    document = {
        "dag_name": workflow,
        "event_name": "workflow_dispatch",
        "repository_name": repo,
        "ref": ref,
        "sha": sha,
        "payload": {"inputs": _inputs(fields)},
    }
    answer = hub.submit(document, cannot=f"run {workflow}")
    if watches:
        sys.exit(_watch(hub, answer["id"], as_json=as_json))
    if as_json:
        print_json(answer)
    else:
        echo(answer["id"])
        next_step(f"Follow it: dispatchd hub watch {answer['id']}")


@click.command(short_help="Follow a job to its end, or the list of jobs.")
@asks_hub
@limit_option
@click.argument("job", required=False)
def watch(hub: HubClient, *, as_json: bool, limit: int, job: str | None) -> None:
    """Follow JOB to its end, or without JOB the list of the newest jobs, until Ctrl-C.

    Exit code of a job: 0 if it has succeeded, 1 failed, 2 partially succeeded, 3 aborted or superseded, 4 rejected or
    ignored, which never ran.
    """
    if job is not None:
        sys.exit(_watch(hub, job_id_of(hub, job), as_json=as_json))
    path = f"/api/v1/jobs?limit={limit}"
    ask = partial(hub.rows, path, "jobs", "hub-job", cannot="list jobs")
    jobs = ask()
    while True:
        if as_json:
            print_json(jobs)
        else:
            _print_screen(jobs)
        time.sleep(_AGAIN_S)
        jobs = patiently(ask)


@click.command("open", short_help="Print the address of a job's page, and open it.")
@asks_hub
@click.argument("job", required=False)
def open_(hub: HubClient, *, as_json: bool, job: str | None) -> None:
    """Print the address of JOB's page, or of the list of jobs, and open it in the browser of a desktop."""
    url = hub.page_url.rstrip("/")
    url += f"/jobs/{in_path(hub.job(job_id_of(hub, job))['id'])}" if job else "/"
    if as_json:
        print_json({"url": url})
        return
    echo(url)
    environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
    has_desktop = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    if has_desktop and is_terminal(sys.stdout):
        click.launch(url)


COMMANDS: Final = (run, watch, open_)
"""Commands of this module for the group `hub`."""


def _inputs(fields: Sequence[str]) -> dict[str, str]:
    """Return the fields of the command line by key.

    Raises:
        UsageError: One has no key or no equals sign.
    """
    inputs: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not (key and equals):
            raise UsageError(
                cannot=f"use the field {field!r}", reason="write it as KEY=VALUE"
            )
        inputs[key] = value
    return inputs


def _require_workflow(hub: HubClient, workflow: str) -> None:
    """Check that a machine takes a workflow, as far as machines say what they take.

    Raises:
        UsageError: None does.
    """
    try:
        takers = hub.machines()
    except UsageError:
        # A token that may submit needs not be one that may read.
        return
    known = [machine for machine in takers if machine["state"] != "revoked"]
    if known and not any(_takes(machine, workflow) for machine in known):
        names = {name for machine in known for name in machine["workflows"] or ()}
        similar = hint(workflow, names)
        reason = similar or f"; there are: {', '.join(sorted(names)) or 'none'}"
        raise UsageError(
            cannot=f"run {workflow}", reason=f"no machine has this workflow{reason}"
        )


def _takes(machine: Mapping[str, Any], workflow: str) -> bool:
    declared, bound = machine["workflows"], machine.get("bound_workflows")
    return all(names is None or workflow in names for names in (declared, bound))


def _watch(hub: HubClient, job_id: str, *, as_json: bool) -> int:
    """Print the states of a job until it has ended, and return the exit code for its outcome."""
    said: list[str] = []
    try:
        while True:
            until = "finished" if said and "running" in said[-1] else "running"
            wait_s = _AGAIN_S if said else 0
            job = patiently(partial(hub.job, job_id, wait_s=wait_s, until=until))
            line = patiently(partial(_told, hub, job))
            if not as_json and line not in said[-1:]:
                show(line)
            said.append(line)
            if job["ended"]:
                break
    except KeyboardInterrupt:
        next_step(f"\nThe job continues. Follow it again: dispatchd hub watch {job_id}")
        raise
    if as_json:
        print_json(job)
    elif job["state"] != "succeeded":
        next_step(f"Look at it: dispatchd hub show {job_id}")
    return _EXIT_CODES.get(job["state"], 1)


def _told(hub: HubClient, job: Mapping[str, Any]) -> str:
    """Return the state of a job in one line."""
    state, machine = job["state"], job["machine_name"]
    if job["ended"]:
        summary = " ".join(str(job["result_summary"]).split())
        about = summary or (f"after {took(job)}" if took(job) else "")
    elif state in _NOT_STARTED:
        about = _waits_for(hub, job) if not machine else f"by {machine}"
    else:
        about = str(job["reason"]) or (f"on {machine}" if machine else "")
    shown = job["id"] if terminal_width() is None else short_ids([job["id"]])[job["id"]]
    beginning = f"{written_out(shown)}  {state}  "
    lines = wrapped(written_out(about), cells_of(beginning))
    line = ("\n" + " " * cells_of(beginning)).join([beginning + lines[0], *lines[1:]])
    return line.replace(f"  {state}", f"  {painted(state, state)}", 1).rstrip()


def _waits_for(hub: HubClient, job: Mapping[str, Any]) -> str:
    """Return why no machine has a job yet, in a sentence; empty if one will take it."""
    pause = hub.ask(
        "GET",
        "/api/v1/dispatch",
        cannot="ask whether jobs are handed out",
        has="paused",
    )
    if pause["paused"]:
        return "Dispatch is paused; resume it: dispatchd hub resume"
    workflow = str(job.get("dag_name") or "")
    active = [machine for machine in hub.machines() if machine["state"] == "active"]
    if not active:
        return "No machine is active."
    if not any(_takes(machine, workflow) for machine in active):
        return f"No active machine has the workflow {workflow}."
    return ""


def _print_screen(jobs: Sequence[dict[str, Any]]) -> None:
    """Print the jobs that the terminal has room for, the newest last; all of them in a pipe."""
    if is_terminal(sys.stdout):
        click.clear()
        room = shutil.get_terminal_size().lines - 2
        jobs = jobs[-max(1, room) :]
    if jobs:
        print_table(JOB_COLUMNS, [job_row(job) for job in jobs])
    else:
        echo("No jobs yet.")
