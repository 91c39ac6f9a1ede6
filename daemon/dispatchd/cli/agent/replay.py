"""`dispatchd replay JOB`: a job's payload again, on this machine alone."""

import os
import sys
from pathlib import Path

import click

from dispatchd.cli.agent.records import find_job
from dispatchd.cli.completion import job_ids
from dispatchd.cli.options import (
    config_option,
    find_daemon,
    json_option,
    load_config,
    not_blank,
    print_json,
    raw_option,
)
from dispatchd.cli.screen.colour import is_coloured
from dispatchd.cli.terminal import LogFilter, echo


@click.command()
@config_option
@json_option
@raw_option
@click.option("--workflow", default="", help="Another workflow than the job's own.")
@click.argument("job", callback=not_blank, shell_complete=job_ids)
def replay(
    config_file: Path | None, *, as_json: bool, raw: bool, workflow: str, job: str
) -> None:
    """Run the payload of JOB (its id, or the beginning of it) again, and report it to nobody.

    It is a new run with a folder of its own, beside the daemon and not in its queue. Exits with 0 if it
    succeeds, 1 if not, 130 if it is interrupted.
    """
    import anyio

    from dispatchd.agent.replay import lay_out, play
    from dispatchd.linux.log import configure
    from dispatchd.protocol.outcome import FailureCause, Outcome
    from dispatchd.redaction.known_secrets import KnownSecrets

    config = load_config(config_file)
    past = find_job(find_daemon(config_file), job)
    laid_out = lay_out(config, past, workflow)
    known = KnownSecrets()
    configure(
        "error",
        "text",
        known=known,
        under_systemd=False,
        colours=is_coloured(sys.stderr),
        out=sys.stderr,
    )
    if not as_json:
        echo(f"{laid_out.job.workflow} in {laid_out.run_folder.path}")
    environment = dict(os.environ)  # noqa: TID251  # the command line is where the environment comes in
    record = anyio.run(play, laid_out, config, environment, known)
    verdict, attempt = record.verdict, record.attempt
    output = (
        None if attempt is None else laid_out.run_folder.output_file(attempt.number)
    )
    outcome = record.phase if verdict is None else verdict.outcome
    cause = None if verdict is None else verdict.cause
    summary = record.blocked if verdict is None else verdict.summary
    if as_json:
        print_json(
            {
                "job": past.job.id,
                "workflow": laid_out.job.workflow,
                "outcome": outcome,
                "cause": cause,
                "summary": summary,
                "run_folder": laid_out.run_folder.path,
                "output": output,
            }
        )
    else:
        if output is not None and output.exists():
            _print_output(output.read_bytes(), raw=raw)
        echo(f"{outcome}  {summary}".rstrip())
    if cause is FailureCause.CANCELLED:
        sys.exit(130)  # 128 + SIGINT, as a shell reports it
    sys.exit(0 if outcome is Outcome.SUCCEEDED else 1)


def _print_output(written: bytes, *, raw: bool) -> None:
    safe = written if raw else LogFilter().feed(written, last=True)
    click.echo(safe, nl=not written.endswith(b"\n"))
