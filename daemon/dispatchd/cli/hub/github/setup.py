"""`dispatchd hub github setup` and `check`: make the hub's GitHub App, and check everything about it."""

import json
import os
import shlex
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatchd.cli.findings import conclude, gather
from dispatchd.cli.hub.client import config_option
from dispatchd.cli.hub.github.settings import github_settings
from dispatchd.cli.options import json_option, print_json
from dispatchd.cli.terminal import echo
from dispatchd.errors import FolderUnusable, UsageError
from dispatchd.protocol.finding import Finding, Level
from dispatchd.protocol.job import Json

if TYPE_CHECKING:
    from dispatchd.hub.config.github import GithubSettings
    from dispatchd.hub.github.app.registration import Registered

_REDIRECT: Final = "http://127.0.0.1:47474/"
"""Address without a server: a browser shows it all the same, and the code in it goes into no log."""


@click.command()
@config_option
@json_option
@click.option(
    "--name",
    default="dispatchd",
    show_default=True,
    help="The App's name; GitHub lets it be changed on the way.",
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
    "--redirect-url",
    default=_REDIRECT,
    show_default=True,
    help="Where the browser goes at the end; nobody has to answer there.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path),
    help="Write a page that posts the manifest to GitHub when it is opened.",
)
@click.option(
    "--code",
    help="End the registration: the code, or the address that the browser was sent to.",
)
def setup(
    config_file: Path,
    *,
    as_json: bool,
    name: str,
    organization: str,
    webhook_url: str,
    redirect_url: str,
    page: Path | None,
    code: str | None,
) -> None:
    """Make the hub's GitHub App: print its manifest, then exchange the code for its key.

    The manifest has exactly the permissions and events that the rules in hub.toml need. With --code the App's
    private key, webhook secret and client secret are written beside hub.toml, and what hub.toml lacks is printed.
    """
    from dispatchd.hub.github.app.manifest import form_page, form_url, manifest

    settings = github_settings(config_file, before_app=True)
    if code is not None:
        _say_registered(_register(config_file, settings, code), as_json=as_json)
        return
    document = manifest(
        settings, name=name, webhook_url=webhook_url, redirect_url=redirect_url
    )
    url = form_url(settings.api_url, organization)
    if page is not None:
        _write_page(page, form_page(document, url))
    if as_json:
        print_json({"manifest": document, "post_to": url})
        return
    if page is None:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    _say_steps(config_file, url, redirect_url, page)


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


def _say_steps(config_file: Path, url: str, redirect: str, page: Path | None) -> None:
    how = (
        f"Open {page.absolute()} in a browser that is logged in to GitHub"
        if page
        else "Post it as the form field `manifest` (--html FILE writes a page that does)"
    )
    echo(
        f"\n1. {how}: {url}\n"
        f'2. Press "Create GitHub App". The browser is sent to {redirect}?code=..., where nobody has to answer.\n'
        f"3. Within an hour: dispatchd hub github setup --config {shlex.quote(str(config_file))} --code 'THAT ADDRESS'"
    )


def _register(config_file: Path, settings: "GithubSettings", text: str) -> "Registered":
    import time

    import anyio

    from dispatchd.hub.github.api.transport import transport
    from dispatchd.hub.github.app.manifest import code_of
    from dispatchd.hub.github.app.registration import Reserved, register
    from dispatchd.linux.log import silence
    from dispatchd.redaction.known_secrets import KnownSecrets

    silence()

    async def ask() -> "Registered":
        known = KnownSecrets()
        async with transport(
            settings,
            now=time.time,  # noqa: TID251  # a person's command
            known=known,
            environment=os.environ,  # noqa: TID251  # the command line is where it comes in
        ) as way:
            return await register(way, code_of(text), files)

    files = Reserved.beside(config_file.absolute())
    try:
        return anyio.run(ask)
    except BaseException:
        files.discard()
        raise


def _say_registered(app: "Registered", *, as_json: bool) -> None:
    lines: Mapping[str, Json] = {
        "app_id": app.app_id,
        "private_key_file": app.key_file.name,
        **({"webhook_secret_files": [app.secret_file.name]} if app.secret_file else {}),
    }
    login: Mapping[str, Json] = (
        {"client_id": app.client_id, "client_secret_file": app.client_secret_file.name}
        if app.client_id and app.client_secret_file
        else {}
    )
    install = f"{app.page}/installations/new"
    if as_json:
        about = {"name": app.name, "page": app.page, "install": install}
        print_json({**lines, **about, "login": {**login}})
        return
    click.echo(f"GitHub has made the App {app.name}; put these lines into [github]:\n")
    for key, value in lines.items():
        # JSON's numbers, strings and lists are valid TOML.
        click.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    if login:
        click.echo("\nFor people to log in to the page with GitHub, also:\n")
        click.echo("[login.github]")
        for key, value in login.items():
            click.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    echo(
        f"\nNext: install it: {install}\n"
        "      restart the hub, then: dispatchd hub github check"
    )


@click.command()
@config_option
@json_option
def check(config_file: Path, *, as_json: bool) -> None:
    """Check the hub's GitHub App: key, clock, permissions, events, webhook, installations, deliveries, rules.

    Each line is ok, warning or failed, with what to do. The exit code is that of the worst: 0, 1 or 2. It only
    reads.
    """
    import anyio

    from dispatchd.linux.log import silence

    silence()
    conclude(anyio.run(_findings, config_file, as_json), as_json=as_json)


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
