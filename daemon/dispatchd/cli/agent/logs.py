"""`dispatchd logs [-f] JOB`: print the stdout and stderr of a job's command."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatchd.agent.config.load import Places
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.cli.agent.records import find_job
from dispatchd.cli.completion import job_ids
from dispatchd.cli.options import (
    config_option,
    find_daemon,
    json_option,
    not_blank,
    print_json,
    raw_option,
)
from dispatchd.cli.terminal import LogFilter, complain
from dispatchd.errors import UsageError
from dispatchd.linux.file_holes import read_around_holes

if TYPE_CHECKING:
    from dispatchd.agent.store.runs import RunFolder

_CHUNK_BYTES: Final = 64 * 1024
_LOOK_S: Final = 0.2
"""Time between two looks at a followed file (seconds): without inotify(7) nothing announces the growth of a file."""

_LIVE: Final = frozenset(
    {Phase.PENDING_ACCEPT, Phase.ACCEPTED, Phase.RUNNING, Phase.RETRY_WAIT}
)


@click.command()
@config_option
@json_option
@raw_option
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Follow the output, and that of further attempts, until the run has ended.",
)
@click.option(
    "--attempt",
    type=click.IntRange(min=1),
    help="Which attempt alone.  [default: the newest]",
)
@click.argument("job", callback=not_blank, shell_complete=job_ids)
def logs(
    config_file: Path | None,
    *,
    as_json: bool,
    raw: bool,
    follow: bool,
    attempt: int | None,
    job: str,
) -> None:
    """Print what the command of JOB (its id, or the beginning of it) wrote to stdout and stderr."""
    places = find_daemon(config_file)
    record = find_job(places, job)
    number = attempt or len(record.attempts) or 1
    path = _output_file(
        places, record, number, may_come=follow and record.phase in _LIVE
    )
    if as_json:
        text = b"".join(_between(path, 0, _size(path))).decode(errors="replace")
        print_json(
            {"job": record.job.id, "attempt": number, "file": str(path), "output": text}
        )
        return
    job_id, folder = record.job.id, _run_folder(places, record)
    while True:
        path = folder.output_file(number)
        safe = LogFilter()
        for chunk in _chunks(places, job_id, number, path, follow=follow):
            click.echo(chunk if raw else safe.feed(chunk), nl=False)
        click.echo(safe.feed(b"", last=True), nl=False)
        if not follow or attempt or len(find_job(places, job_id).attempts) <= number:
            return
        number += 1
        complain(f"attempt {number} of job {job_id}:")


def _run_folder(places: Places, record: TrackedJob) -> "RunFolder":
    from dispatchd.agent.store.runs import Runs

    return Runs.at(places.state_folder).folder(record.run_id)


def _output_file(
    places: Places, record: TrackedJob, number: int, *, may_come: bool
) -> Path:
    path = _run_folder(places, record).output_file(number)
    if not path.exists() and not may_come:
        raise UsageError(
            cannot=f"show output of job {record.job.id}",
            reason=f"attempt {number} has written none ({path})",
        )
    return path


def _chunks(
    places: Places, job_id: str, number: int, path: Path, *, follow: bool
) -> Iterator[bytes]:
    """Yield the output of an attempt; while it is followed, until the job has ended or has another attempt."""
    position = 0
    while True:
        # Checked first, so that the last round reads everything that was written before the end.
        live = follow and _may_grow(find_job(places, job_id), number)
        size = _size(path)
        yield from _between(path, position, size)
        position = size
        if not live:
            return
        time.sleep(_LOOK_S)


def _may_grow(record: TrackedJob, number: int) -> bool:
    return record.phase in _LIVE and len(record.attempts) <= number


def _size(path: Path) -> int:
    try:
        return path.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _between(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Yield the content of a file between two offsets; nothing if it can't be read."""
    with suppress(OSError):
        yield from read_around_holes(path, _CHUNK_BYTES, start, end)
