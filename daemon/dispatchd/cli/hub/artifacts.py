"""`dispatchd hub artifacts JOB [-o DIR]`: the files that a job has left, and their bytes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from dispatchd.cli.hub.client import HubClient, asks_hub, in_path, print_rows
from dispatchd.cli.hub.lookup import job_id_of
from dispatchd.cli.options import not_blank, print_json
from dispatchd.cli.screen.hints import next_step, working, yes_option
from dispatchd.cli.screen.table import Column, Kind
from dispatchd.cli.terminal import echo
from dispatchd.errors import NotReachable, UsageError
from dispatchd.protocol.uploads.artifacts import path_problem

_PIECE: Final = 8 << 20
"""Part of a file in one answer (bytes)."""

_SHORT: Final = 12
"""Digits of a hash in a table (count)."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_UNIQUE_BYTES: Final = 6

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
        print_rows(
            listed,
            _COLUMNS,
            _row,
            as_json=as_json,
            empty="no artifacts; a workflow names them (artifacts = [...] in the machine's configuration)",
        )
        if any(artifact["from_fork"] for artifact in listed):
            echo("dispatchd: the job ran code from a fork", err=True)
        if listed and not as_json:
            next_step(f"Download them: dispatchd hub artifacts {job} -o DIR")
        return
    stored = [artifact for artifact in listed if artifact["state"] == "stored"]
    for path in _download(hub, job, stored, folder, replace=yes):
        if not as_json:
            echo(path)
    if as_json:
        print_json(listed)
    if len(stored) < len(listed):
        _say_left_out(listed)
        ctx.exit(1)


def artifacts_of(hub: HubClient, job_id: str) -> list[dict[str, Any]]:
    """Return the artifacts of a job (contracts/schemas/hub-artifact.schema.json).

    Raises:
        NotReachable: The hub doesn't say.
    """
    return hub.rows(
        f"/api/v1/jobs/{in_path(job_id)}/artifacts",
        "artifacts",
        "hub-artifact",
        cannot=f"list the artifacts of {job_id}",
    )


def _row(artifact: dict[str, Any]) -> tuple[str, ...]:
    state = artifact["state"]
    reason = artifact["reason"]
    return (
        artifact["path"],
        str(artifact["size"]),
        artifact["sha256"][:_SHORT],
        f"{state}: {reason}" if reason else state,
    )


def _say_left_out(listed: Sequence[dict[str, Any]]) -> None:
    for artifact in listed:
        if artifact["state"] != "stored":
            reason = artifact["reason"] or {
                "waiting": "its machine has not sent it yet",
                "missing": "the hub doesn't have it any more",
            }.get(artifact["state"], artifact["state"])
            echo(f"dispatchd: no {artifact['path']}: {reason}", err=True)


def _download(
    hub: HubClient,
    job: str,
    stored: Sequence[dict[str, Any]],
    folder: Path,
    *,
    replace: bool,
) -> Iterator[str]:
    """Download artifacts into a folder; yield the paths of those that were written.

    Raises:
        NotReachable: The hub doesn't answer, or with other bytes.
        UsageError: One can't be written, or would replace another file.
    """
    cannot = f"download into {folder}"
    for artifact in stored:
        if problem := path_problem(artifact["path"]):
            reason = f"{artifact['path']!r} is no path of an artifact: {problem}"
            raise NotReachable(cannot=cannot, reason=reason)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        top = os.open(folder, _FOLDER & ~os.O_NOFOLLOW)
    except OSError as error:
        raise UsageError(cannot=cannot, reason=str(error)) from error
    try:
        wanted = [artifact for artifact in stored if not _is_there(top, artifact)]
        taken = [
            artifact["path"] for artifact in wanted if _is_taken(top, artifact["path"])
        ]
        if taken and not replace:
            reason = f"{taken[0]} is there already, with other content; say --yes to replace such files"
            raise UsageError(cannot=cannot, reason=reason)
        for artifact in wanted:
            with working(f"downloading {artifact['path']}"):
                _write(hub, job, top, artifact, replace=replace)
            yield str(folder / artifact["path"])
    except OSError as error:
        raise UsageError(cannot=cannot, reason=str(error)) from error
    finally:
        os.close(top)


def _write(
    hub: HubClient, job: str, top: int, artifact: dict[str, Any], *, replace: bool
) -> None:
    """Download one artifact; its file appears once it is whole and has its hash.

    Raises:
        NotReachable: The hub doesn't answer, or with other bytes.
        OSError: It can't be written.
    """
    with _parent(top, artifact["path"], make=True) as (parent, name):
        aside = f".dispatchd-{os.urandom(_UNIQUE_BYTES).hex()}"
        fd = os.open(aside, _NEW, 0o666, dir_fd=parent)
        try:
            with os.fdopen(fd, "wb") as file:
                digest = sha256()
                for piece in _pieces(hub, job, artifact):
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != artifact["sha256"]:
                cannot = f"download {artifact['path']}"
                reason = f"{hub.url} has sent other bytes than its hash says"
                raise NotReachable(cannot=cannot, reason=reason)
            if replace or not _linked(parent, aside, name):
                os.rename(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
                aside = ""
        finally:
            if aside:
                os.unlink(aside, dir_fd=parent)


def _linked(parent: int, aside: str, name: str) -> bool:
    """Give a file another name, unless something has that by now. Return False where there are no hard links.

    Raises:
        OSError: Something has come there meanwhile.
    """
    try:
        os.link(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
    except (PermissionError, NotImplementedError):
        if name in os.listdir(parent):
            raise
        return False
    return True


def _pieces(hub: HubClient, job: str, artifact: dict[str, Any]) -> Iterator[bytes]:
    """Yield the bytes of an artifact, of the size that it was listed with.

    Raises:
        NotReachable: The hub doesn't answer, or with fewer bytes.
    """
    offset, path = 0, artifact["path"]
    cannot = f"download {path}"
    while offset < artifact["size"]:
        query = f"path={quote(path, safe='')}&offset={offset}&limit={_PIECE}"
        address = f"/api/v1/jobs/{in_path(job)}/artifact?{query}"
        piece, _ = hub.text(address, ("artifact-size",), cannot=cannot)
        if not piece or len(piece) > _PIECE:
            reason = f"{hub.url} has sent {len(piece)} bytes at {offset}"
            raise NotReachable(cannot=cannot, reason=reason)
        yield piece
        offset += len(piece)


@contextmanager
def _parent(top: int, path: str, *, make: bool) -> Iterator[tuple[int, str]]:
    """Yield the folder of a path below an open one, opened without following links, and the last name.

    Raises:
        OSError: There is no such folder, or a link or a file is in its place.
    """
    *folders, name = path.split("/")
    fd = os.dup(top)
    try:
        for folder in folders:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=fd)
            below = os.open(folder, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, name
    finally:
        os.close(fd)


def _is_taken(top: int, path: str) -> bool:
    """Return whether something is at a path, or where one of its folders has to be."""
    try:
        with _parent(top, path, make=False) as (parent, name):
            os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_there(top: int, artifact: dict[str, Any]) -> bool:
    """Return whether an artifact has been downloaded before."""
    try:
        with _parent(top, artifact["path"], make=False) as (parent, name):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=parent)
            with os.fdopen(fd, "rb") as file:
                digest = sha256()
                while piece := file.read(_PIECE):
                    digest.update(piece)
    except OSError:
        return False
    return bool(digest.hexdigest() == artifact["sha256"])
