"""`dispatchd hub github setup` and `check`: make the hub's GitHub App, and check everything about it."""

import os
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatchd.cli.brand import brand
from dispatchd.cli.findings import conclude, gather
from dispatchd.cli.hub.client import config_option
from dispatchd.cli.hub.github.settings import github_settings
from dispatchd.cli.options import in_seconds, json_option, print_json
from dispatchd.cli.signals import ended_by_signals
from dispatchd.cli.terminal import echo
from dispatchd.errors import FolderUnusable, UsageError
from dispatchd.protocol.finding import Finding, Level

if TYPE_CHECKING:
    from dispatchd.hub.config.github import GithubSettings

_REDIRECT: Final = "http://127.0.0.1:47474/"
"""Address without a server: a browser shows it all the same, and the code in it goes into no log."""

_PATIENCE: Final = "15m"
"""Longest wait for the browser: GitHub may ask for a password and a second factor."""


@click.command()
@config_option
@json_option
@click.option(
    "--name",
    default="",
    help="The App's name; GitHub lets it be changed on the way.  [default: dispatchd-OWNER]",
)
@click.option(
    "--organization",
    default="",
    help="The organization that is to own the App.  [default: your own account]",
)
@click.option(
    "--webhook-url",
    default="",
    help="Where GitHub sends events.  [default: github.public_url and /webhooks/github]",
)
@click.option(
    "--timeout",
    "within_s",
    metavar="DURATION",
    default=_PATIENCE,
    show_default=True,
    callback=in_seconds,
    help="How long to wait for the browser.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path),
    help="For a browser on another machine: write a page that posts the manifest to GitHub, and end.",
)
@click.option(
    "--redirect-url",
    default=_REDIRECT,
    show_default=True,
    help="With --html: where the browser goes at the end; nobody has to answer there.",
)
@click.option(
    "--code",
    help="After --html: the code, or the address that the browser was sent to.",
)
def setup(
    config_file: Path,
    *,
    as_json: bool,
    name: str,
    organization: str,
    webhook_url: str,
    within_s: float,
    redirect_url: str,
    page: Path | None,
    code: str | None,
) -> None:
    """Make the hub's GitHub App in a browser, write its key and a drop-in beside hub.toml, and check it.

    The App gets exactly the permissions and events that the rules in hub.toml need. The browser has to be on this machine:
    one elsewhere takes --html, and then --code. With --json alone the manifest is printed, and nothing is made.
    """
    from dispatchd.cli.hub.github import registration
    from dispatchd.hub.github.app.manifest import form_page, usual_name

    settings = github_settings(config_file, before_app=True)
    form = registration.Form(
        settings=settings,
        name=name or usual_name(brand().name, organization, settings),
        organization=organization,
        webhook_url=webhook_url,
    )
    if code is None and (page is not None or as_json):
        document, url = form.manifest(redirect_url), form.url()
        if page is not None:
            _write_page(page, form_page(document, url))
        if as_json:
            print_json({"manifest": document, "post_to": url})
        elif page is not None:
            _say_steps(config_file, url, redirect_url, page)
        return
    with ended_by_signals():
        file = config_file.absolute()
        registration.require_room(file)
        if code is None:
            made = registration.register_by_browser(file, form, within_s)
        else:
            made = registration.register(file, settings, code)
        if not as_json:
            registration.say(made)
        findings = findings_of(config_file, quiet=as_json)
    if as_json:
        print_json(registration.document(made, findings))
    else:
        echo("\nNext: restart the hub, which reads its configuration at a start.")
    conclude(findings, as_json=False)


def _write_page(page: Path, text: str) -> None:
    try:
        with page.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise UsageError(
            cannot=f"write {page}", reason="it is there already"
        ) from error
    except OSError as error:
        raise FolderUnusable(folder=page.parent, error=error) from error


def _say_steps(config_file: Path, url: str, redirect: str, page: Path) -> None:
    echo(
        f"1. Open {page.absolute()} in a browser that is logged in to GitHub: {url}\n"
        f'2. Press "Create GitHub App". The browser is sent to {redirect}?code=..., where nobody has to answer.\n'
        f"3. Within an hour: dispatchd hub github setup --config {shlex.quote(str(config_file))} --code 'THAT ADDRESS'"
    )


@click.command()
@config_option
@json_option
def check(config_file: Path, *, as_json: bool) -> None:
    """Check the hub's GitHub App: key, clock, permissions, events, webhook, installations, deliveries, rules.

    Each line is ok, warning or failed, with what to do. The exit code is that of the worst: 0, 1 or 2. It only
    reads.
    """
    conclude(findings_of(config_file, quiet=as_json), as_json=as_json)


def findings_of(config_file: Path, *, quiet: bool) -> list[Finding]:
    """Return the findings about the hub's App; print each at once unless quiet."""
    import anyio

    from dispatchd.linux.log import silence

    silence()
    return anyio.run(_findings, config_file, quiet)


async def _findings(config_file: Path, quiet: bool) -> list[Finding]:  # noqa: FBT001  # anyio.run takes no keywords
    import time

    from dispatchd.hub.github.app.check import check_app

    async def check(settings: "GithubSettings") -> AsyncIterator[Finding]:
        yield Finding("config", Level.OK, f"{config_file} is good")
        findings = check_app(
            settings,
            now=time.time,  # noqa: TID251  # shown to a person
            environment=os.environ,  # noqa: TID251  # the command line is where it comes in
        )
        async for finding in findings:
            yield finding

    return await gather(lambda: github_settings(config_file), check, quiet=quiet)


COMMANDS: Final = (setup, check)
"""Commands of this module for the group `github`."""
