"""`dispatchd hub github status` and `redeliver`: check that GitHub's events arrive, and get those that haven't."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatchd.cli.hub.client import HubClient, asks_hub, config_option, when
from dispatchd.cli.options import in_seconds, json_option, print_json
from dispatchd.cli.screen.table import print_pairs
from dispatchd.cli.terminal import echo
from dispatchd.errors import ConfigError, NotReachable, Problem, UsageError
from dispatchd.protocol.times import duration, utc

if TYPE_CHECKING:
    from dispatchd.hub.config.github import GithubSettings
    from dispatchd.hub.config.load import Settings
    from dispatchd.hub.github.poller.redeliver import Choice

_INGEST: Final = {
    "none": "nothing (there is no [github] in the configuration)",
    "webhook": "GitHub sends events",
    "poll": "the hub fetches events",
}


@click.command()
@asks_hub
def status(hub: HubClient, *, as_json: bool) -> None:
    """Say how the hub gets on with GitHub."""
    document = hub.ask(
        "GET",
        "/api/v1/github",
        cannot="say how it is with GitHub",
        contract="hub-github-status",
    )
    if as_json:
        print_json(document)
        return
    fetches = document["app_id"] and document["ingest"] != "none"
    print_pairs(
        {
            "GitHub": _INGEST.get(document["ingest"], document["ingest"]),
            "App": str(document["app_id"] or ""),
            "complete until": (when(document["watermark"]) or "nothing yet")
            if fetches
            else "",
            "last sweep": (when(document["swept_at"]) or "never") if fetches else "",
            "trouble": document["trouble"],
            "since": when(document["trouble_at"]),
            "checks owed": f"{document['checks_owed']} ({document['checks_failing']} failing)",
            "jobs received": str(document["jobs_received"]),
        }
    )
    for loss in document["losses"]:
        since, until = loss["since"], loss["until"]
        echo(
            f"lost: what came from {utc(since)} to {utc(until)} ({duration(until - since)})"
        )


@click.command()
@config_option
@json_option
@click.option(
    "--since",
    "since_s",
    metavar="DURATION",
    callback=in_seconds,
    default="2h",
    show_default=True,
    help="Without GUIDs: how far to look back, as 90m, 2h or 1d.",
)
@click.option("--dry-run", is_flag=True, help="Ask for nothing; print what would be.")
@click.argument("guids", nargs=-1, metavar="[GUID]...")
def redeliver(
    config_file: Path,
    *,
    as_json: bool,
    since_s: float,
    dry_run: bool,
    guids: Sequence[str],
) -> None:
    """Have GitHub send deliveries again: those named, or those that failed and that the hub doesn't have.

    Needs the hub's configuration, its key and its database, so it is for the hub's own machine.
    """
    import anyio

    cannot = "have deliveries sent once more"
    shown: list[dict[str, object]] = []

    def said(choice: "Choice") -> None:
        word = _word(choice, dry_run=dry_run)
        listed = choice.listed
        shown.append({"guid": listed.guid, "id": str(listed.id), "state": word})
        if not as_json:
            event = f"{listed.event} {listed.action}".strip()
            advice = (
                "; `dispatchd hub redeliver` or the check's Re-run starts its jobs again"
                if choice.is_known
                else ""
            )
            echo(f"{listed.guid}  {when(listed.delivered_at)}  {event}  {word}{advice}")

    with _in_one_line(cannot):
        anyio.run(_redeliver, config_file, tuple(guids), since_s, dry_run, said)
    if as_json:
        print_json(shown)
    elif not shown:
        echo("No delivery has failed that the hub doesn't have.")


def _word(choice: "Choice", *, dry_run: bool) -> str:
    if choice.is_known:
        return "known"
    return "would be asked for" if dry_run else "asked for"


async def _redeliver(
    config_file: Path,
    guids: tuple[str, ...],
    since_s: float,
    dry_run: bool,  # noqa: FBT001  # anyio.run takes no keywords
    said: Callable[["Choice"], None],
) -> None:
    """Choose the deliveries, and request them unless it is a rehearsal.

    Raises:
        UsageError: GitHub doesn't have one of the deliveries named.
    """
    import time

    from dispatchd.hub.config.load import load
    from dispatchd.hub.github.api.client import Client
    from dispatchd.hub.github.api.credentials import Credentials
    from dispatchd.hub.github.api.transport import transport
    from dispatchd.hub.github.poller.redeliver import Redelivery
    from dispatchd.hub.storage.database import Database
    from dispatchd.redaction.known_secrets import KnownSecrets

    now = time.time  # noqa: TID251  # the command line is where the clock comes in
    settings = load(config_file)
    github = _app_of(settings)
    database = Database.open(settings.database_url, must_exist=True)
    try:
        async with transport(
            github,
            now=now,
            known=KnownSecrets(),
            environment=os.environ,  # noqa: TID251  # the command line is where it comes in
        ) as way:
            client = Client(Credentials.open(github, way))
            work = Redelivery(settings=github, client=client, database=database)
            chosen = await work.choose(guids, since_s)
            if chosen.missing:
                reason = f"GitHub doesn't have it, or not any more (it keeps deliveries for {github.retention_days:g} days)"
                raise UsageError(
                    cannot=f"redeliver {', '.join(chosen.missing)}", reason=reason
                )
            if dry_run:
                for choice in chosen.choices:
                    said(choice)
            else:
                await work.ask(chosen.choices, said)
    finally:
        database.close()


def _app_of(settings: "Settings") -> "GithubSettings":
    """Return the settings of a hub that is an App.

    Raises:
        ConfigError: The hub is no App.
    """
    github = settings.github
    if github is None or not github.is_app:
        expected = (
            "must be set: only an App's deliveries can be sent once more this way"
        )
        problem = Problem(file=settings.file, key="github.app_id", expected=expected)
        raise ConfigError([problem])
    return github


@contextmanager
def _in_one_line(cannot: str) -> Iterator[None]:
    from dispatchd.hub.domain.errors import StorageBusy
    from dispatchd.hub.github.api.responses import GithubError, Limited, Unclear

    try:
        yield
    except (Limited, Unclear) as error:
        raise NotReachable(cannot=error.call, reason=error.reason) from error
    except GithubError as error:
        raise UsageError(cannot=error.call, reason=error.reason) from error
    except StorageBusy as error:
        raise NotReachable(cannot=cannot, reason=str(error)) from error


COMMANDS: Final = (status, redeliver)
"""Commands of this module for the group `github`."""
