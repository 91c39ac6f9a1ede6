"""Preparation: from a tracked job and its workflow to a launch that an engine can start."""

import json
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.isolation import Home, Isolation
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.launch import Checkout, Launch
from dispatchd.agent.domain.run.brief import brief
from dispatchd.agent.domain.run.environment import (
    ADDRESSES,
    LeftOut,
    RunPaths,
    environment,
)
from dispatchd.agent.domain.run.github_server import chosen
from dispatchd.agent.domain.workflow import Repository, Workflow
from dispatchd.agent.store.runs import RunFolder, Runs
from dispatchd.errors import (
    ContractViolation,
    FolderDamaged,
    StoreUnavailable,
    WorkspaceFailed,
)
from dispatchd.protocol.job import Job, Json
from dispatchd.protocol.json_text import loads
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class Prepared:
    """Launch, and the values left out of it.

    `left_out` are the parameters of the job that could not be variables. `withheld` are the variables of the
    workflow's secrets that code of a fork doesn't get, sorted.
    """

    launch: Launch
    left_out: tuple[LeftOut, ...]
    withheld: tuple[str, ...] = ()


def prepare(
    record: TrackedJob,
    attempt: Attempt,
    workflow: Workflow,
    runs: Runs,
    base: Mapping[str, str],
    known: KnownSecrets,
) -> Prepared:
    """Lay out an attempt: its folder and brief, and an environment that is built, not inherited. Blocks.

    Args:
        record: The job.
        attempt: Its newest attempt.
        workflow: The workflow that it asks for.
        runs: Folders of runs, its own among them.
        base: The variables that every child gets from the daemon's own environment.
        known: Secrets that must not get into the brief.

    Raises:
        StoreUnavailable: The disk refuses a write.
        FolderDamaged: The run's folder can't be used; that is its job's trouble alone.
        WorkspaceFailed: The job names no repository that could be cloned.
    """
    try:
        return _prepared(record, attempt, workflow, runs, base, known)
    except StoreUnavailable as error:
        if not error.is_of_the_path:
            raise
        reason = error.error.strerror or str(error.error)
        raise FolderDamaged(path=error.path, reason=reason) from error


def _prepared(
    record: TrackedJob,
    attempt: Attempt,
    workflow: Workflow,
    runs: Runs,
    base: Mapping[str, str],
    known: KnownSecrets,
) -> Prepared:
    number, run = attempt.number, runs.folder(record.run_id)
    folder = runs.prepare_attempt(record.run_id, number)
    texts = runs.read_texts(run)
    payload = _payload(texts[0])
    files = _files(run, number) if workflow.contract is Contract.HEADLESS else {}
    paths = _paths(record, run, number, files, texts)
    parameters = environment(record.job, payload, paths, workflow.github_servers)
    checkout = _checkout(record.job, workflow.checkout)
    if checkout is not None:
        runs.mark_private(record.run_id)
    if files:
        document = brief(
            record.job,
            payload,
            attempt,
            workspace=str(run.workspace),
            clone_url=_clone_url(record.job, workflow, payload, checkout),
            scrub=known.scrub,
        )
        runs.write_brief(run, number, json.dumps(document, indent=1))
    forked = record.job.from_fork
    own, home = _homes(workflow, runs, run, number, forked=forked)
    launch = Launch(
        run_id=record.run_id,
        command=_command(workflow, files),
        env={**base, **own, **_variables(workflow, parameters.values)},
        base_env=base,
        secrets={} if forked else workflow.secrets,
        resources=workflow.resources,
        isolation=workflow.isolation,
        network=workflow.network,
        image=workflow.image,
        pull=workflow.pull,
        read_paths=workflow.read_paths,
        write_paths=workflow.write_paths,
        hidden_paths=workflow.hidden_paths,
        writable_paths=workflow.writable_paths,
        files=run.files(number),
        home=home,
        temporary=run.temporary(number),
        inputs=(run.event_file, run.headers_file),
        engine=workflow.engine,
        limit_s=workflow.max_duration_s,
        checkout=checkout,
        token=None if workflow.checkout is None else workflow.checkout.token,
        workspace=run.workspace,
        folder=folder,
        output_file=run.output_file(number),
    )
    withheld = workflow.secret_variables if forked else ()
    return Prepared(launch=launch, left_out=parameters.left_out, withheld=withheld)


def _variables(workflow: Workflow, facts: Mapping[str, str]) -> dict[str, str]:
    """Return a workflow's variables and the job's facts, which it can't override, but for GitHub's addresses."""
    own = workflow.env
    return {**own, **facts, **{name: own[name] for name in ADDRESSES if name in own}}


def _files(run: RunFolder, number: int) -> dict[str, str]:
    """Return the files of a headless command, by their names in its arguments."""
    return {
        "brief": str(run.brief_file(number)),
        "result": str(run.result_file(number)),
    }


def _paths(
    record: TrackedJob,
    run: RunFolder,
    number: int,
    files: Mapping[str, str],
    texts: tuple[str, str],
) -> RunPaths:
    return RunPaths(
        run_id=record.run_id,
        attempt=number,
        workspace=str(run.workspace),
        event_file=str(run.event_file),
        headers_file=str(run.headers_file),
        events_file=str(run.events_file(number)),
        outputs_file=str(run.outputs_file(number)),
        summary_file=str(run.summary_file(number)),
        brief_file=files.get("brief", ""),
        result_file=files.get("result", ""),
        payload_text=texts[0],
        headers_text=texts[1],
    )


def _homes(
    workflow: Workflow, runs: Runs, run: RunFolder, number: int, *, forked: bool
) -> tuple[dict[str, str], Path | None]:
    """Return HOME and TMPDIR of an attempt, and the home of its workflow if it has that; none where nothing isolates it."""
    if workflow.isolation is Isolation.NONE:
        return {}, None
    if workflow.isolation is Isolation.SANDBOX:
        way = runs.short_way(run, number)
        own = {
            "HOME": str(way / run.home(number).name),
            "TMPDIR": str(way / run.temporary(number).name),
        }
    else:
        # The run's temporary folder is the only /tmp that it sees.
        own = {"HOME": str(run.home(number)), "TMPDIR": "/tmp"}  # noqa: S108
    if workflow.home is not Home.WORKFLOW or forked:
        return own, None
    home = runs.workflow_home(workflow.name)
    return {**own, "HOME": str(home)}, home


def _command(workflow: Workflow, files: Mapping[str, str]) -> tuple[str, ...]:
    def filled(argument: str) -> str:
        for name, path in files.items():
            argument = argument.replace("{" + name + "}", path)
        return argument

    return (*workflow.command, *map(filled, workflow.arguments))


def _clone_url(
    job: Job, workflow: Workflow, payload: Json, checkout: Checkout | None
) -> str:
    """Return the address from which a job's repository can be cloned. A stranger's payload doesn't decide it."""
    if checkout is not None:
        return checkout.url
    server = chosen(workflow.github_servers, payload)
    return f"{server}/{job.repository}.git" if server and job.owner_and_name else ""


def _checkout(job: Job, source: Repository | None) -> Checkout | None:
    """Return the checkout of a job. The machine's owner decides the server, the job only the repository.

    Raises:
        WorkspaceFailed: The job names no repository.
    """
    if source is None:
        return None
    if job.owner_and_name is None:
        reason = f"the job's repository is {job.repository!r:.100}, not OWNER/NAME"
        raise WorkspaceFailed(url=source.url, reason=reason, refused=True)
    return Checkout(
        url=f"{source.url}/{job.repository}.git",
        sha=job.sha,
        ref=job.ref,
        timeout_s=source.timeout_s,
    )


def _payload(text: str) -> Json:
    try:
        return loads(text)
    except ContractViolation:
        # Python's limit on nesting depends on the caller's depth: a payload that the pull could read may fail here.
        # The command has the file; only the variables that would come from it are missing.
        return None
