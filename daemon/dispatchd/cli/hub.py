"""`dispatchd hub serve`: a dispatch endpoint for development and for sites without internet."""

from pathlib import Path

import click

from dispatchd.cli.options import read_text
from dispatchd.errors import NotReachable, UsageError


@click.group()
def hub() -> None:
    """Serve a dispatch endpoint (extra `hub`)."""


@hub.command()
@click.option(
    "--db",
    type=click.Path(path_type=Path),
    required=True,
    help="The database file; made where it is missing.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8484,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--license-id",
    default="self-hosted",
    show_default=True,
    help="The license that machines work under.",
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    required=True,
    help="File with the machines' secret.",
)
@click.option(
    "--license-key-file",
    type=click.Path(path_type=Path),
    help="File with license keys that can be activated, one a line.",
)
@click.option(
    "--lease-s",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="Seconds that a claim holds without a heartbeat.",
)
@click.option(
    "--port-file",
    type=click.Path(path_type=Path),
    help="Write the port here once connections are taken.",
)
def serve(
    db: Path,
    host: str,
    port: int,
    license_id: str,
    secret_file: Path,
    license_key_file: Path | None,
    lease_s: float,
    port_file: Path | None,
) -> None:
    """Serve a dispatch endpoint, in its development form.

    Whoever reaches the port can submit and read jobs, so it listens on the loopback address only, unless
    told otherwise.
    """
    try:
        from dispatchd.hub.desk import Desk
        from dispatchd.hub.server import serve as serve_hub
        from dispatchd.hub.sqlite import SqliteStorage
        from dispatchd.hub.storage import StorageBusy
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed; run: pip install 'dispatchd[hub]'"
        raise NotReachable(cannot="serve a hub", reason=reason) from error
    import anyio

    if host not in ("127.0.0.1", "::1", "localhost"):
        click.echo(
            f"warning: whoever reaches {host} can submit and read jobs", err=True
        )
    keys = (
        frozenset(_read(license_key_file).split()) if license_key_file else frozenset()
    )
    try:
        storage = SqliteStorage.open(db)
    except StorageBusy as error:
        raise NotReachable(
            cannot=f"open the database {db}", reason=str(error)
        ) from error
    desk = Desk(
        storage=storage,
        license_id=license_id,
        secret=_read(secret_file),
        lease_s=lease_s,
        license_keys=keys,
    )

    def announce(bound_port: int) -> None:
        if port_file is not None:
            aside = port_file.with_name(port_file.name + ".aside")
            aside.write_text(str(bound_port))
            aside.replace(port_file)
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"hub ready http://{shown}:{bound_port}")

    async def run_hub() -> None:
        await serve_hub(desk, host, port, announce)

    try:
        anyio.run(run_hub)
    finally:
        storage.close()


def _read(file: Path) -> str:
    found = read_text(file).strip()
    if not found:
        raise UsageError(cannot=f"use {file}", reason="it is empty")
    return found
