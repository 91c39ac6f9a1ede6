"""`dispatchd hub ...`: a dispatch endpoint that a site hosts itself, on the machine where it runs."""

import os
import shlex
import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click

from dispatchd.cli.hub import access as hub_people
from dispatchd.cli.hub import artifacts as hub_artifacts
from dispatchd.cli.hub import jobs as hub_jobs
from dispatchd.cli.hub import keys as hub_keys
from dispatchd.cli.hub import login as hub_login
from dispatchd.cli.hub import logs as hub_logs
from dispatchd.cli.hub import run as hub_run
from dispatchd.cli.hub.client import config_option
from dispatchd.cli.hub.database import busy_is_said, open_database, require_extra
from dispatchd.cli.hub.github import commands as hub_github
from dispatchd.cli.hub.github import route as hub_route
from dispatchd.cli.hub.sources import schedules as hub_schedules
from dispatchd.cli.hub.sources import webhooks as hub_webhooks
from dispatchd.cli.imports import without_collection
from dispatchd.cli.options import json_option, print_json
from dispatchd.cli.screen.colour import is_coloured
from dispatchd.cli.screen.groups import SectionedGroup, Sections
from dispatchd.cli.screen.hints import working
from dispatchd.cli.screen.table import print_pairs
from dispatchd.cli.terminal import complain, echo

if TYPE_CHECKING:
    from dispatchd.hub.config.load import Settings
    from dispatchd.hub.storage.migrate import Migrating
    from dispatchd.hub.storage.sole_server import SoleServer

_MIGRATION_GRACE_S = 60.0
"""Time that each request to systemd adds to the start while the database is migrated (seconds)."""


_SECTIONS: Final[Sections] = MappingProxyType(
    {
        "Jobs": (
            *("run", "watch", "jobs", "show", "logs", "artifacts"),
            *("open", "cancel", "resolve", "requeue", "submit"),
            "schedules",
            *("webhooks", "webhook"),
            *("pause", "resume", "prune"),
        ),
        "Machines and people": ("machines", "machine", "token", "login-link"),
        "GitHub": ("github", "deliveries", "redeliver", "route"),
        "Server": ("init", "serve", "backup", "restore", "keys"),
    }
)


@click.group(cls=SectionedGroup, sections=_SECTIONS)
def hub() -> None:
    """Host a dispatch endpoint (extra `hub`)."""


for _command in (
    *(*hub_run.COMMANDS, *hub_jobs.COMMANDS, *hub_people.COMMANDS),
    *(hub_github.github, hub_route.route, hub_keys.keys, hub_logs.logs),
    *(hub_login.login_link_command, hub_artifacts.artifacts),
    *(hub_schedules.schedules, hub_webhooks.webhooks, hub_webhooks.webhook),
):
    hub.add_command(_command)


@hub.command(short_help="Make a hub in FOLDER.")
@click.option(
    "--listen",
    default="127.0.0.1:8484",
    show_default=True,
    help="Address and port, as HOST:PORT.",
)
@click.option(
    "--database-url",
    default="sqlite:///hub.db",
    show_default=True,
    help="The database; a file is relative to the folder.",
)
@click.option(
    "--license-id",
    default="self-hosted",
    show_default=True,
    help="The license that machines work under.",
)
@json_option
@click.argument("folder", type=click.Path(path_type=Path))
def init(
    folder: Path, *, listen: str, database_url: str, license_id: str, as_json: bool
) -> None:
    """Make a hub in FOLDER: hub.toml, the database with its keys, and a first token."""
    require_extra()
    from dispatchd.hub.init import init as make

    made = make(folder, listen=listen, database_url=database_url, license_id=license_id)
    document = {
        "configuration": str(made.settings.file),
        "token": str(made.settings.token_file),
        "fingerprint": made.fingerprint,
    }
    if as_json:
        print_json({**document, "public_key": made.public_key})
        return
    print_pairs(document)
    config = shlex.quote(str(made.settings.file))
    echo(
        f"\nNext: dispatchd hub serve --config {config}\n"
        f"      dispatchd hub machine add NAME --config {config}"
    )


@hub.command(short_help="Serve the endpoint until SIGTERM or Ctrl-C.")
@config_option
@click.option(
    "--port-file",
    type=click.Path(path_type=Path),
    help="Write the port here once connections are taken.",
)
def serve(config_file: Path, port_file: Path | None) -> None:
    """Serve the endpoint until SIGTERM or Ctrl-C; held polls are answered then."""
    from dispatchd.linux.pid1 import leave_orphans_to_init

    # First, so that the process that stays behind as init is small.
    leave_orphans_to_init()
    require_extra()
    with without_collection():
        import anyio
        import structlog
        from attrs import asdict

        from dispatchd.hub.context import Context
        from dispatchd.hub.main import favour_the_loop
        from dispatchd.hub.main import serve as serve_hub
        from dispatchd.hub.storage.sole_server import sole_server
        from dispatchd.linux.log import configure
        from dispatchd.linux.systemd import ServiceManager
        from dispatchd.redaction.known_secrets import KnownSecrets

    environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
    under_systemd = "JOURNAL_STREAM" in environment
    known = KnownSecrets()
    configure(
        "info",
        "auto",
        known=known,
        under_systemd=under_systemd,
        colours=is_coloured(sys.stdout),
    )
    manager = ServiceManager.of(environment)

    def migrating(progress: "Migrating") -> None:
        manager.more_time(_MIGRATION_GRACE_S)
        structlog.get_logger().info("database_migrating", **asdict(progress))

    settings, database = open_database(config_file, migrating)

    async def serve_context(lock: "SoleServer | None") -> None:
        with anyio.open_signal_receiver(
            signal.SIGTERM, signal.SIGINT, signal.SIGHUP
        ) as signals:
            announce = partial(_announce, settings, port_file)
            await serve_hub(context, announce, manager, signals, lock)

    try:
        with sole_server(database.file) as lock:
            with busy_is_said("start the hub"):
                context = Context.at(settings, database, known, environment=environment)
            favour_the_loop()
            anyio.run(serve_context, lock)
    finally:
        database.close()


def _announce(settings: "Settings", port_file: Path | None, bound_port: int) -> None:
    """Say where the hub answers, to whoever has started it."""
    from dispatchd.linux.log import say

    if port_file is not None:
        aside = port_file.with_name(port_file.name + ".aside")
        aside.write_text(str(bound_port))
        aside.replace(port_file)
    host, _ = settings.address
    shown = f"[{host}]" if ":" in host else host
    say(f"hub ready {settings.scheme}://{shown}:{bound_port}")


@hub.command(short_help="Write the whole database to FILE.")
@config_option
@json_option
@click.option("--without-logs", is_flag=True, help="Leave the logs of jobs out.")
@click.option("--without-artifacts", is_flag=True, help="Leave artifacts out.")
@click.argument("file", type=click.Path(path_type=Path))
def backup(
    config_file: Path,
    *,
    as_json: bool,
    without_logs: bool,
    without_artifacts: bool,
    file: Path,
) -> None:
    """Write everything that the database has, and the logs and artifacts of jobs, to FILE (SQLite); the hub may keep running."""
    require_extra()
    from dispatchd.hub.storage.backup import Folders
    from dispatchd.hub.storage.backup import backup as write

    settings, database = open_database(config_file)
    with (
        busy_is_said(f"back up to {file}"),
        closing(database),
        working("backing up", lambda: _size(file)),
    ):
        folders = Folders(
            logs=None if without_logs else settings.log_folder,
            artifacts=None if without_artifacts else settings.artifact_folder,
        )
        written = write(database, file, folders)
    _say_rows(file, written.rows, as_json=as_json)
    for problem in written.left_out:
        complain(f"{file} lacks {problem}")
    if written.left_out:
        sys.exit(os.EX_IOERR)


@hub.command(short_help="Put a backup into a new hub.")
@config_option
@json_option
@click.option(
    "--events",
    type=click.Choice(["run", "skip"]),
    help="What becomes of GitHub's events since the backup: run them, or skip them.  [default: hand out no job until `hub resume`]",
)
@click.argument("file", type=click.Path(path_type=Path))
def restore(
    config_file: Path, *, as_json: bool, events: str | None, file: Path
) -> None:
    """Put what `backup` has written into a new hub, whose database has no jobs and machines yet.

    Jobs that have run since the backup wait again, and GitHub's events since then are fetched once more. So the hub
    starts paused: look at `hub jobs --state queued`, cancel what isn't to run, then `hub resume`.
    """
    require_extra()
    import time

    from dispatchd.hub.queue.since_backup import SinceBackup, prepare
    from dispatchd.hub.storage.backup import Folders
    from dispatchd.hub.storage.backup import restore as read

    settings, database = open_database(config_file)
    with busy_is_said(f"restore {file}"), closing(database), working("restoring"):
        folders = Folders(logs=settings.log_folder, artifacts=settings.artifact_folder)
        rows = read(file, database, folders)
        now = time.time()  # noqa: TID251  # of this one call
        prepare(database, SinceBackup(events or "look"), file=file, now=now)
    _say_rows(file, rows, as_json=as_json)
    if events is None and not as_json:
        echo(
            "Dispatch is paused. Start the hub, look at `dispatchd hub jobs --state queued`, "
            "cancel what isn't to run again, then run: dispatchd hub resume"
        )


def _size(file: Path) -> str:
    """Return the size of a file that is being written, for people; empty while there is none."""
    try:
        return f"{file.stat().st_size / (1 << 20):.1f} MiB"
    except OSError:
        return ""


def _say_rows(file: Path, rows: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"file": str(file), "rows": rows})
    else:
        click.echo(f"{file}: {rows} rows")
