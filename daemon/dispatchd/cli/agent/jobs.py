"""`dispatchd jobs`: every tracked job, and the latest past ones."""

from pathlib import Path
from typing import Final

import click

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.codec import to_public
from dispatchd.cli.agent.records import read_records
from dispatchd.cli.agent.views import age_s, purpose, standing, took
from dispatchd.cli.options import config_option, find_daemon, json_option, print_json
from dispatchd.cli.screen.hints import next_step
from dispatchd.cli.screen.table import Column, Kind, print_table
from dispatchd.protocol.times import rough

_ORDER: Final = (
    # Jobs that wait for a person come first.
    Phase.NEEDS_ATTENTION,
    Phase.RUNNING,
    Phase.RETRY_WAIT,
    Phase.ACCEPTED,
    Phase.PENDING_ACCEPT,
    Phase.RELEASING,
    Phase.FINISHING,
    Phase.HISTORY,
)

_COLUMNS: Final = (
    Column("JOB", Kind.ID),
    Column("STATUS", Kind.STATE),
    Column("WORKFLOW"),
    Column("FOR"),
    Column("AGE", Kind.WHOLE),
    Column("TOOK", Kind.WHOLE),
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
    places = find_daemon(config_file)
    chosen = read_records(places, past=past)
    chosen.sort(key=lambda record: _ORDER.index(record.phase))
    if as_json:
        print_json([to_public(record) for record in chosen])
    elif chosen:
        print_table(_COLUMNS, [_row(record) for record in chosen])
    else:
        click.echo(f"No jobs in {places.state_folder}.")
        next_step("`dispatchd status` says whether this machine takes jobs.")


def _row(record: TrackedJob) -> tuple[str, ...]:
    return (
        record.job.id,
        standing(record),
        record.job.workflow or record.job.command,
        purpose(record),
        rough(age_s(record.received_at)),
        took(record),
    )
