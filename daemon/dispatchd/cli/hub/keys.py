"""`dispatchd hub keys rotate ...`: keys that a hub has made for itself, on the machine where it runs."""

from contextlib import closing
from pathlib import Path

import click

from dispatchd.cli.hub.client import config_option
from dispatchd.cli.hub.database import busy_is_said, open_database, require_extra
from dispatchd.cli.options import json_option, print_json
from dispatchd.cli.screen.hints import confirm, yes_option
from dispatchd.cli.terminal import echo


@click.group(short_help="Replace the keys that sign sessions and licenses.")
def keys() -> None:
    """The hub's own keys: `page` signs the sessions of browsers, `license` the licenses of machines."""


@keys.command()
@config_option
@json_option
@yes_option
@click.argument("name", type=click.Choice(["page", "license"]))
def rotate(config_file: Path, *, as_json: bool, yes: bool, name: str) -> None:
    """Replace the key NAME (page or license), such as after a backup was lost; the hub may keep running.

    page: everybody is logged out. license: pin the public key that is printed as license.public_keys of each machine;
    until then a machine works on with the license that it has. On a terminal it asks first.
    """
    require_extra()
    confirm(f"Replace the hub's key {name}?", yes=yes)
    from dispatchd.hub.auth.license_signing_key import rotate_signing_key
    from dispatchd.hub.auth.sessions import Sessions
    from dispatchd.hub.storage.cursors import MarkStore
    from dispatchd.hub.storage.tokens import TokenStore
    from dispatchd.network.signing_key import fingerprint

    _, database = open_database(config_file)
    with busy_is_said(f"rotate the key {name}"), closing(database):
        tokens = TokenStore(database)
        if name == "page":
            Sessions(tokens, MarkStore(database)).rotate_key()
            public = ""
        else:
            public = rotate_signing_key(tokens)
    document = {"name": name}
    if public:
        document |= {"public_key": public, "fingerprint": fingerprint(public)}
    if as_json:
        print_json(document)
    elif public:
        echo(f"license  rotated  fingerprint {document['fingerprint']}")
        echo("On each machine, pin this as license.public_keys:\n")
        click.echo(public, nl=False)
    else:
        echo("page  rotated; everybody is logged out")
