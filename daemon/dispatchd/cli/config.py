"""`dispatchd config`: check that the daemon can use a configuration; print the schema of one for editors."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from dispatchd.agent.config.load import Config
from dispatchd.cli.options import (
    config_option,
    config_path,
    json_option,
    load_config,
    print_json,
)
from dispatchd.errors import ConfigError, Problem, UsageError

_LEFT_OUT: Final = (
    "the machine's secret, or its license and the keys for it",
    "certificates, keys and other files that the configuration names",
    "the programs of workflows, and how a checkout reaches its repository",
    "the proxy of the environment",
)
"""Checks that only the machine itself can make."""


@click.group()
def config() -> None:
    """Check the configuration, or print its schema."""


@config.command()
@config_option
@json_option
@click.option(
    "--portable",
    is_flag=True,
    help="Judge files for another machine, as in a repository: nothing on this one counts.",
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(
    config_file: Path | None,
    *,
    as_json: bool,
    portable: bool,
    files: Sequence[Path],
) -> None:
    """Say whether the configuration can be used; every mistake gets one line and the exit code is 78.

    With --portable FILES may be named. Left out is what only their machine can answer: whether the secret, certificates, keys and
    programs are there, and what its environment says of proxies.
    """
    if portable:
        _check_portable([*files] or [config_path(config_file)], as_json=as_json)
        return
    if files:
        reason = "they are for --portable; name one file with --config"
        raise UsageError(cannot="check FILES", reason=reason)
    _check_here(config_file, as_json=as_json)


def _check_here(config_file: Path | None, *, as_json: bool) -> None:
    """Check a configuration for this machine.

    Raises:
        ConfigError: It can't be used.
    """
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


def _check_portable(files: Sequence[Path], *, as_json: bool) -> None:
    """Check configurations for other machines.

    Raises:
        ConfigError: One can't be used; carries the problems of all.
    """
    from dispatchd.agent.endpoint.open import check_addresses

    problems: list[Problem] = []
    for file in files:
        try:
            configuration = load_config(file, elsewhere=True)
            check_addresses(configuration)
        except ConfigError as error:
            problems += error.problems
            continue
        for warning in configuration.warnings:
            click.echo(f"warning: {warning}", err=True)
        if not as_json:
            names = ", ".join(sorted(configuration.workflows)) or "none"
            click.echo(f"{file} has no mistakes; workflows: {names}")
    if as_json:
        shown = [_problem(problem) for problem in problems]
        paths = [str(file) for file in files]
        print_json({"files": paths, "problems": shown, "left_out": [*_LEFT_OUT]})
    else:
        click.echo(
            f"left out, since only its machine can answer: {'; '.join(_LEFT_OUT)}"
        )
    if problems:
        raise ConfigError(problems)


@config.command()
@click.option(
    "--hub", "is_hub", is_flag=True, help="The schema of hub.toml in place of it."
)
def schema(*, is_hub: bool) -> None:
    """Print the JSON Schema of the configuration file.

    An editor completes and checks a TOML file whose first line names it: #:schema ./dispatchd.schema.json
    """
    from dispatchd.protocol.published import schemas

    document = schemas.schema("hub-config" if is_hub else "config")
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
