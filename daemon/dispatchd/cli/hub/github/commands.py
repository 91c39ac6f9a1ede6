"""`dispatchd hub github ...`: commands about GitHub itself."""

import click

from dispatchd.cli.hub.github import deliveries as hub_github_deliveries
from dispatchd.cli.hub.github import setup as hub_github_setup


@click.group()
def github() -> None:
    """Set up and look after the hub's GitHub App."""


for _command in (*hub_github_setup.COMMANDS, *hub_github_deliveries.COMMANDS):
    github.add_command(_command)
