"""Registration of the hub's GitHub App: a browser makes it, its key and a drop-in of hub.toml are written."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen

from dispatchd.cli.agent.as_owner import as_owner_of
from dispatchd.cli.findings import documents
from dispatchd.cli.hub.github.app_file import require_none, write_drop_in
from dispatchd.cli.hub.github.redirect import listening
from dispatchd.cli.signals import signals_held
from dispatchd.cli.terminal import echo
from dispatchd.errors import NotReachable
from dispatchd.protocol import toml_text
from dispatchd.protocol.finding import Finding
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import duration

if TYPE_CHECKING:
    from dispatchd.hub.config.github import GithubSettings
    from dispatchd.hub.github.app.registration import App, Kept


@frozen(kw_only=True)
class Form:
    """Fields of GitHub's form for a new App."""

    settings: "GithubSettings"
    name: str
    organization: str
    """The App's owner; empty for one's own account."""
    webhook_url: str
    """Address for GitHub's events; empty for the hub's own."""

    def manifest(self, redirect_url: str) -> dict[str, Json]:
        """Return the manifest.

        Raises:
            UsageError: GitHub would reject it.
        """
        from dispatchd.hub.github.app.manifest import manifest

        return manifest(
            self.settings,
            name=self.name,
            webhook_url=self.webhook_url,
            redirect_url=redirect_url,
        )

    def url(self, state: str = "") -> str:
        """Return the address to which the form is posted."""
        from dispatchd.hub.github.app.manifest import form_url

        return form_url(self.settings.api_url, self.organization, state)

    def page(self, redirect_url: str, state: str) -> str:
        """Return the page (HTML) that posts the form."""
        from dispatchd.hub.github.app.manifest import form_page

        return form_page(self.manifest(redirect_url), self.url(state))


@frozen
class Made:
    """An App with the files that were written about it."""

    app: "App"
    kept: "Kept"
    drop_in: Path

    @property
    def install_url(self) -> str:
        """Address at which the App is installed."""
        return f"{self.app.page}/installations/new"

    @property
    def login(self) -> Mapping[str, str]:
        """The keys of `[login.github]`; empty if GitHub has made none."""
        if not (self.app.client_id and self.kept.client_secret_file):
            return {}
        return {
            "client_id": self.app.client_id,
            "client_secret_file": self.kept.client_secret_file.name,
        }


def require_room(config_file: Path) -> None:
    """Check, before GitHub makes an App, that its files can be written and that the hub has none yet.

    Raises:
        UsageError: The hub has an App or a token, or one of the files is there.
        FolderUnusable: The files can't be written.
    """
    from dispatchd.hub.github.app.registration import Reserved

    require_none(config_file)
    with as_owner_of(config_file), signals_held():
        Reserved.beside(config_file).discard()


def register_by_browser(config_file: Path, form: Form, within_s: float) -> Made:
    """Wait until a person has made the App in a browser on this machine, and write its files.

    Raises:
        UsageError: GitHub would reject the manifest, or doesn't know the code.
        NotReachable: Nobody made it in time, or GitHub doesn't answer.
        FolderUnusable: The files can't be written.
    """
    with listening(form.page) as redirect:
        echo(
            "Open this in a browser on this machine that is logged in to GitHub:\n"
            f"  {redirect.page_url}\n"
            f'and press "Create GitHub App"; this command waits {duration(within_s)}.\n'
            "For a browser on another machine: Ctrl-C, and --html FILE."
        )
        code = redirect.code(within_s)
    try:
        return register(config_file, form.settings, code)
    except NotReachable:
        echo("The code is good for an hour: --code 'ADDRESS IN THE BROWSER'", err=True)
        raise


def register(config_file: Path, settings: "GithubSettings", text: str) -> Made:
    """Exchange the code in a text, and write the App's files. If that fails, no file is left.

    Raises:
        UsageError: GitHub doesn't know the code (any more), or a file is there already.
        NotReachable: GitHub doesn't answer, or not as its documentation says.
        FolderUnusable: The files can't be written.
    """
    import anyio

    from dispatchd.hub.github.app.registration import Reserved

    with as_owner_of(config_file), signals_held():
        files = Reserved.beside(config_file)
    try:
        app = anyio.run(_exchanged, settings, text)
        with as_owner_of(config_file), signals_held():
            kept = files.fill(app)
            return Made(app, kept, write_drop_in(config_file, app, kept))
    finally:
        files.discard()


async def _exchanged(settings: "GithubSettings", text: str) -> "App":
    import time

    from dispatchd.hub.github.api.transport import transport
    from dispatchd.hub.github.app.manifest import code_of
    from dispatchd.hub.github.app.registration import exchange
    from dispatchd.linux.log import silence
    from dispatchd.redaction.known_secrets import KnownSecrets

    silence()
    async with transport(
        settings,
        now=time.time,  # noqa: TID251  # a person's command
        known=KnownSecrets(),
        environment=os.environ,  # noqa: TID251  # the command line is where it comes in
    ) as way:
        return await exchange(way, code_of(text))


def say(made: Made) -> None:
    """Print where the App and its files are; wait until the person at a terminal has installed it."""
    kept = made.kept
    files = (kept.key_file, kept.secret_file, kept.client_secret_file, made.drop_in)
    echo(f"GitHub has made the App {made.app.name}.")
    for file in filter(None, files):
        echo(f"wrote     {file}")
    if made.login:
        echo("\nFor people to log in to the page with GitHub, put into hub.toml:\n")
        echo("[login.github]")
        for key, value in made.login.items():
            echo(f"{key} = {toml_text.quoted(value)}")
    echo(f"\nNow install it: {made.install_url}")
    click.pause("Then press a key here, and it is checked.")
    echo("")


def document(made: Made, findings: Sequence[Finding]) -> dict[str, Json]:
    """Return an App and the findings about it as JSON, without secrets."""
    kept = made.kept
    return {
        "app_id": made.app.app_id,
        "private_key_file": kept.key_file.name,
        **(
            {"webhook_secret_files": [kept.secret_file.name]}
            if kept.secret_file
            else {}
        ),
        "name": made.app.name,
        "page": made.app.page,
        "install": made.install_url,
        "drop_in": str(made.drop_in),
        "login": {**made.login},
        "check": documents(findings),
    }
