"""`dispatchd config`: check that the daemon can use a configuration; print the schema of one for editors."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click

from dispatchd.agent.config.load import Config
from dispatchd.cli.options import config_option, json_option, load_config, print_json
from dispatchd.errors import ConfigError, Problem


@click.group()
def config() -> None:
    """Check the configuration, or print its schema."""


@config.command()
@config_option
@json_option
def check(config_file: Path | None, *, as_json: bool) -> None:
    """Say whether the configuration can be used; every mistake gets one line and the exit code is 78."""
    from dispatchd.agent.endpoint.open import check_outward

    environment = dict(os.environ)  # noqa: TID251  # the command line is where the environment comes in
    try:
        configuration = load_config(config_file)
        check_outward(configuration, environment)
    except ConfigError as error:
        if as_json:
            print_json({"problems": [_problem(problem) for problem in error.problems]})
        raise
    warnings = list(_warnings(configuration))
    if as_json:
        print_json(
            {
                "file": str(configuration.file),
                "workflows": sorted(configuration.workflows),
                "problems": [],
                "warnings": warnings,
            }
        )
        return
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    names = ", ".join(sorted(configuration.workflows)) or "none"
    click.echo(
        f"{configuration.file} is good; workflows: {names}; state in {configuration.state_folder}"
    )


@config.command()
@click.option(
    "--hub", "is_hub", is_flag=True, help="The schema of hub.toml in place of it."
)
def schema(*, is_hub: bool) -> None:
    """Print the JSON Schema of the configuration file.

    An editor completes and checks a TOML file whose first line names it: #:schema ./dispatchd.schema.json
    """
    from dispatchd.protocol import contracts

    document = contracts.schema("hub-config" if is_hub else "config")
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _problem(problem: Problem) -> dict[str, str]:
    return {
        "file": str(problem.file),
        "key": problem.key,
        "expected": problem.expected,
    }


def _warnings(configuration: Config) -> Iterator[str]:
    if configuration.secret_is_exposed:
        yield f"{configuration.secret_file} is open to other users; run: chmod 600 {configuration.secret_file}"
    yield from configuration.warnings
    if not configuration.workflows:
        yield f"{configuration.file} has no [workflows.NAME], so every job would be rejected"
    for name, workflow in configuration.workflows.items():
        if not workflow.program.is_file():
            yield f"workflows.{name}.command: there is no {workflow.program} now; jobs for it would fail"
