"""`dispatchd hub login-link`: a link with which a browser logs in once, made on the machine where the hub runs."""

import time
from contextlib import closing
from pathlib import Path

import click

from dispatchd.cli.hub.client import config_option
from dispatchd.cli.hub.database import busy_is_said, open_database, require_extra
from dispatchd.cli.options import json_option, print_json, read_text
from dispatchd.errors import UsageError


@click.command("login-link", short_help="Print a link that logs one browser in.")
@config_option
@json_option
def login_link_command(config_file: Path, *, as_json: bool) -> None:
    """Print a link to the web page that logs one browser in, as the first token; it is good once, for 10 minutes."""
    require_extra()
    link = login_link(config_file)
    if as_json:
        print_json({"link": link})
    else:
        click.echo(link)


def login_link(config_file: Path) -> str:
    """Return a new link for the token that `hub init` has left.

    Raises:
        UsageError: That token has been revoked.
    """
    from dispatchd.hub.auth.hashing import hashed
    from dispatchd.hub.auth.sessions import Sessions
    from dispatchd.hub.storage.cursors import MarkStore
    from dispatchd.hub.storage.tokens import TokenStore

    settings, database = open_database(config_file)
    with busy_is_said("make a link"), closing(database):
        tokens = TokenStore(database)
        token = tokens.find(hashed(read_text(settings.token_file).strip()))
        if token is None:
            reason = f"the token in {settings.token_file} has been revoked"
            raise UsageError(cannot="make a link", reason=reason)
        now = time.time()  # noqa: TID251  # of this one call
        code = Sessions.open(tokens, MarkStore(database)).invite(token, now=now)
    return f"{settings.url}/login?once={code}"
