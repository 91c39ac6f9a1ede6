"""`dispatchd drain`, `pause`, `resume`, `reload`: commands of an operator to the running daemon."""

from pathlib import Path
from typing import Any

import click

from dispatchd.agent.config.load import Places
from dispatchd.cli.options import (
    config_option,
    find_daemon,
    in_seconds,
    json_option,
    print_json,
)
from dispatchd.cli.screen.hints import next_step
from dispatchd.protocol.job import Json

reason_option = click.option(
    "--reason", default="", help="Why; shown to whoever asks for the status."
)


@click.command()
@config_option
@json_option
@click.option(
    "--deadline",
    "deadline_s",
    metavar="DURATION",
    callback=in_seconds,
    help="End what still runs after this time, such as 90s, 10m or 2h.  [default: never]",
)
@reason_option
@click.option("--no-wait", is_flag=True, help="Don't wait until the machine is empty.")
def drain(
    config_file: Path | None,
    *,
    as_json: bool,
    deadline_s: float | None,
    reason: str,
    no_wait: bool,
) -> None:
    """Empty the machine: take nothing new, hand back what has not started, wait for the end of what runs.

    What the endpoint doesn't take back is run. It lasts over restarts until `dispatchd resume`; a Ctrl-C ends
    the waiting, not the drain. Parked jobs stay parked.
    """
    places = find_daemon(config_file)
    body: dict[str, Json] = {"reason": reason}
    if deadline_s is not None:
        body["deadline_s"] = deadline_s
    answer = _tell(places, "drain", body)
    last: Any = answer if no_wait else _wait_until_empty(places, quiet=as_json)
    if as_json:
        print_json(last)
    elif no_wait:
        click.echo("draining")


@click.command()
@config_option
@json_option
@reason_option
def pause(config_file: Path | None, *, as_json: bool, reason: str) -> None:
    """Stop taking jobs; those taken so far continue. Lasts over restarts, until `dispatchd resume`."""
    _print(
        _tell(find_daemon(config_file), "pause", {"reason": reason}), as_json=as_json
    )
    next_step("Take jobs again: dispatchd resume")


@click.command()
@config_option
@json_option
def resume(config_file: Path | None, *, as_json: bool) -> None:
    """Take jobs again, after a drain or a pause."""
    _print(_tell(find_daemon(config_file), "resume", {}), as_json=as_json)


@click.command()
@config_option
@json_option
def reload(config_file: Path | None, *, as_json: bool) -> None:
    """Have the daemon read its configuration again; an invalid one is refused, and the previous one stays in force."""
    answer = _tell(find_daemon(config_file), "reload", {})
    if as_json:
        print_json(answer)
    else:
        click.echo("reloaded")


def _tell(places: Places, what: str, body: dict[str, Json]) -> Any:  # noqa: ANN401  # JSON
    from dispatchd.agent.control.client import ask

    return ask(
        places.control_folder,
        "POST",
        f"/v1/{what}",
        body,
        cannot=what,
        state=places.state_folder,
    )


def _wait_until_empty(places: Places, *, quiet: bool) -> Any:  # noqa: ANN401  # JSON
    from dispatchd.agent.control.client import stream

    last: Any = None
    for last in stream(
        places.control_folder,
        "/v1/drain",
        cannot="wait for the drain",
        state=places.state_folder,
    ):
        if not quiet:
            left = last["left"]
            jobs = "1 job" if left == 1 else f"{left} jobs"
            click.echo(
                f"draining: {jobs} left (or one poll still open)" if left else "drained"
            )
    if not quiet:
        next_step("The machine takes nothing until: dispatchd resume")
    return last


def _print(answer: Any, *, as_json: bool) -> None:  # noqa: ANN401  # JSON
    if as_json:
        print_json(answer)
    else:
        click.echo(answer["mode"])
