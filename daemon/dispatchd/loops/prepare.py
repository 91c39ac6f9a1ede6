"""From a tracked job and its workflow to something an engine can start."""

from collections.abc import Mapping

from attrs import frozen

from dispatchd.domain.job import Json, TrackedJob
from dispatchd.domain.launch import Launch
from dispatchd.domain.parameters import LeftOut, RunPaths, environment
from dispatchd.domain.raw_json import loads
from dispatchd.domain.workflow import Workflow
from dispatchd.errors import ContractViolation, SpawnFailed
from dispatchd.store.runs import Runs


@frozen(kw_only=True)
class Prepared:
    """A launch, and the parameters of the job that could not be given to it as variables."""

    launch: Launch
    left_out: tuple[LeftOut, ...]


def prepare(
    record: TrackedJob, workflow: Workflow, runs: Runs, base: Mapping[str, str]
) -> Prepared:
    """Lay out the newest attempt of a job: its folder, and an environment that is built, not inherited.

    Args:
        record: The job; it has an attempt.
        workflow: What it asks for.
        runs: Where its folder is.
        base: The variables that every child gets from the daemon's own environment.

    Blocks. Fails with StoreUnavailable if the disk refuses.

    Raises:
        SpawnFailed: What the run was to be given is gone.
    """
    number = len(record.attempts)
    run = runs.folder(record.run_id)
    folder = runs.prepare_attempt(record.run_id, number)
    try:
        payload_text = run.event_file.read_text(errors="surrogatepass")
        headers_text = run.headers_file.read_text(errors="surrogatepass")
    except OSError as error:
        reason = f"the job's file {error.filename} is gone: {error.strerror}"
        raise SpawnFailed(command=workflow.command[0], reason=reason) from error
    parameters = environment(
        record.job,
        _payload(payload_text),
        RunPaths(
            run_id=record.run_id,
            attempt=number,
            workspace=str(run.workspace),
            event_file=str(run.event_file),
            headers_file=str(run.headers_file),
            payload_text=payload_text,
            headers_text=headers_text,
        ),
    )
    launch = Launch(
        run_id=record.run_id,
        command=workflow.command,
        # Last the job's facts: a workflow can't make a run lie about what it is for.
        env={**base, **workflow.env, **parameters.values},
        workspace=run.workspace,
        folder=folder,
        output_file=run.output_file(number),
    )
    return Prepared(launch=launch, left_out=parameters.left_out)


def _payload(text: str) -> Json:
    try:
        return loads(text)
    except ContractViolation:
        # Python's limit on nesting depends on who calls: what could be read at the pull may not be here.
        # The command has the file; only the variables that would come from it are missing.
        return None
