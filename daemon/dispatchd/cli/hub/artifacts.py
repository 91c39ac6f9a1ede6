"""`dispatchd hub artifacts JOB [-o DIR]`: the files that a job has left, and their bytes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatchd.cli.hub.client import HubClient, asks_hub, print_rows
from dispatchd.cli.hub.lookup import job_id_of
from dispatchd.cli.options import not_blank, print_json
from dispatchd.cli.screen.hints import next_step, working, yes_option
from dispatchd.cli.screen.table import Column, Kind
from dispatchd.cli.terminal import complain, echo
from dispatchd.errors import UsageError

if TYPE_CHECKING:
    from dispatchd.client import Artifact

_SHORT: Final = 12
"""Digits of a hash in a table (count)."""

_COLUMNS: Final = (
    Column("FILE"),
    Column("BYTES", Kind.WHOLE),
    Column("SHA-256", Kind.WHOLE),
    Column("STATE"),
)


@click.command(short_help="List or download the files that JOB has left.")
@asks_hub
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    help="Download them into this folder, which is made if it is missing.",
)
@yes_option
@click.argument("job", callback=not_blank)
@click.pass_context
def artifacts(
    ctx: click.Context,
    hub: HubClient,
    *,
    as_json: bool,
    folder: Path | None,
    yes: bool,
    job: str,
) -> None:
    """List the artifacts of JOB, or download them with --output. Each is checked against its hash.

    Nothing is written outside of the folder, and no other file is replaced without --yes. The exit code is 1 if the hub
    doesn't have all of them.
    """
    job = job_id_of(hub, job)
    listed = artifacts_of(hub, job)
    if folder is None:
        rows = {artifact.path: _row(artifact) for artifact in listed}
        print_rows(
            [{**artifact.document} for artifact in listed],
            _COLUMNS,
            lambda document: rows[document["path"]],
            as_json=as_json,
            empty="no artifacts; a workflow names them (artifacts = [...] in the machine's configuration)",
        )
        if any(artifact.from_fork for artifact in listed):
            complain("the job ran code from a fork")
        if listed and not as_json:
            next_step(f"Download them: dispatchd hub artifacts {job} -o DIR")
        return
    stored = [artifact for artifact in listed if artifact.is_stored]
    for path in _download(hub, job, stored, folder, replace=yes):
        if not as_json:
            echo(path)
    if as_json:
        print_json([{**artifact.document} for artifact in listed])
    if len(stored) < len(listed):
        _say_left_out(listed)
        ctx.exit(1)


def artifacts_of(hub: HubClient, job_id: str) -> "list[Artifact]":
    """Return the artifacts of a job.

    Raises:
        NotReachable: The hub doesn't say.
    """
    with hub.calls(f"list the artifacts of {job_id}") as calls:
        return calls.artifacts(job_id)


def _row(artifact: "Artifact") -> tuple[str, ...]:
    state, reason = artifact.state, artifact.reason
    return (
        artifact.path,
        str(artifact.size),
        artifact.sha256[:_SHORT],
        f"{state}: {reason}" if reason else state,
    )


def _say_left_out(listed: "Sequence[Artifact]") -> None:
    for artifact in listed:
        if not artifact.is_stored:
            reason = artifact.reason or {
                "waiting": "its machine has not sent it yet",
                "missing": "the hub doesn't have it any more",
            }.get(artifact.state, artifact.state)
            complain(f"no {artifact.path}: {reason}")


def _download(
    hub: HubClient,
    job: str,
    stored: "Sequence[Artifact]",
    folder: Path,
    *,
    replace: bool,
) -> Iterator[str]:
    """Download artifacts into a folder; yield the paths of those that were written.

    Raises:
        NotReachable: The hub doesn't answer, or with other bytes.
        UsageError: One can't be written, or would replace another file.
    """
    from dispatchd.client.folder import DownloadFolder, require_path

    cannot = f"download into {folder}"
    with hub.calls(cannot):
        for artifact in stored:
            require_path(artifact)
    with hub.calls(cannot), DownloadFolder(folder) as top:
        wanted = [artifact for artifact in stored if not top.has(artifact)]
        taken = [artifact.path for artifact in wanted if top.is_taken(artifact)]
    if taken and not replace:
        reason = f"{taken[0]} is there already, with other content; say --yes to replace such files"
        raise UsageError(cannot=cannot, reason=reason)
    for artifact in wanted:
        with (
            working(f"downloading {artifact.path}"),
            hub.calls(f"download {artifact.path}") as calls,
        ):
            path = calls.download(job, artifact, folder, replace=replace)
        yield str(path)
