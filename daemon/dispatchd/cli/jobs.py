"""`dispatchd jobs`: every tracked job, and the latest past ones."""

from pathlib import Path
from typing import Final

import click

from dispatchd.cli.options import (
    config_option,
    json_option,
    load_config,
    print_json,
    print_table,
)
from dispatchd.cli.views import age, document, purpose, standing
from dispatchd.domain.job import TrackedJob
from dispatchd.domain.phase import Phase
from dispatchd.store.jobs import read_all

_ORDER: Final = (
    # What waits for a person comes first.
    Phase.NEEDS_ATTENTION,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
    Phase.ACCEPTED,
    Phase.PENDING_ACCEPT,
    Phase.FINISHING,
    Phase.HISTORY,
)


@click.command()
@config_option
@json_option
@click.option(
    "--past",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many past jobs to list.",
)
def jobs(config_file: Path | None, *, as_json: bool, past: int) -> None:
    """List the tracked jobs, and the latest past ones."""
    config = load_config(config_file)
    records = sorted(
        read_all(config.state_folder),
        key=lambda record: record.changed_at,
        reverse=True,
    )
    tracked = [record for record in records if record.phase is not Phase.HISTORY]
    tracked.sort(key=lambda record: _ORDER.index(record.phase))
    chosen = (
        tracked + [record for record in records if record.phase is Phase.HISTORY][:past]
    )
    if as_json:
        print_json([document(record) for record in chosen])
    elif chosen:
        print_table(
            ("JOB", "WORKFLOW", "PHASE", "STANDS AT", "FOR", "SINCE"),
            [_row(record) for record in chosen],
        )
    else:
        click.echo(f"No jobs in {config.state_folder}.")


def _row(record: TrackedJob) -> tuple[str, ...]:
    workflow = record.job.workflow or record.job.command
    return (
        record.job.id,
        workflow,
        record.phase,
        standing(record),
        purpose(record),
        age(record.changed_at),
    )
