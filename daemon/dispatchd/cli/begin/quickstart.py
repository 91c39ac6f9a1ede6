"""`dispatchd quickstart`: a hub, a machine and a first job, in one folder that is a real installation."""

import shlex
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from dispatchd.cli.begin.child import Child, until_one_ends
from dispatchd.cli.begin.installation import Installation
from dispatchd.cli.brand import brand
from dispatchd.cli.signals import EndedBySignal, ended_by_signals
from dispatchd.cli.terminal import echo
from dispatchd.errors import NotReachable, UsageError


@click.command()
@click.argument(
    "folder",
    metavar="[DIR]",
    default=f"{brand().name}-quickstart",
    type=click.Path(path_type=Path, file_okay=False),
)
@click.option(
    "--listen",
    default="",
    metavar="HOST:PORT",
    help="Address of a new hub.  [default: 127.0.0.1:8484, or another port if that is taken]",
)
def quickstart(folder: Path, listen: str) -> None:
    """Set up a hub and a machine in DIR, run a first job, and keep both running until Ctrl-C.

    What is in DIR (by default dispatchd-quickstart) is a real installation: every command works on it. A second call
    starts what is there.
    """
    from dispatchd.cli.hub.database import require_extra

    require_extra()
    if listen.endswith(":0"):
        reason = "its machine has to know the port; name one, or leave --listen out"
        raise UsageError(cannot=f"listen on {listen}", reason=reason)
    that = Installation(folder)
    # A signal is its usual end.
    with suppress(EndedBySignal), ended_by_signals(), ExitStack() as children:
        _play(that, listen, children)


def _play(that: Installation, listen: str, children: ExitStack) -> None:
    may_move = not (listen or that.hub_file.exists())
    that.make(listen)
    hub = started_hub(that, may_move=may_move)
    children.callback(hub.stop, signal.SIGTERM)
    echo(f"hub      {that.client.url}, in {that.hub_file.parent}")
    is_new = not that.has_joined
    if is_new:
        that.join()
    machine = Child.start(
        "machine",
        ("run", "--config", str(that.machine_file)),
        that.machine_file.with_name("daemon.log"),
    )
    # As Ctrl-C twice: its runs are ended, too.
    children.callback(partial(_stop_machine, machine))
    echo(f"machine  ready, in {that.machine_file.parent}")
    both = [hub, machine]
    if is_new:
        _show(that.run_hello(partial(_require_running, both)))
    _say_next(that)
    until_one_ends(both)
    _require_running(both)


def started_hub(that: Installation, *, may_move: bool) -> Child:
    """Start the hub. A new one gets another port if somebody has taken the one that was free when it was chosen.

    Raises:
        NotReachable: It doesn't start.
    """
    arguments = ("hub", "serve", "--config", str(that.hub_file))
    log = that.hub_file.with_name("hub.log")
    try:
        return Child.start("hub", arguments, log)
    except NotReachable:
        if not (may_move and that.move_hub()):
            raise
    return Child.start("hub", arguments, log)


def _require_running(children: Sequence[Child]) -> None:
    """Check that no child has ended.

    Raises:
        NotReachable: One has.
    """
    for child in children:
        if child.has_ended:
            reason = f"the {child.what} has ended; see {child.log}"
            raise NotReachable(cannot="continue", reason=reason)


def _stop_machine(machine: Child) -> None:
    echo("\nstopping: what runs is ended, then the machine and the hub")
    machine.stop(signal.SIGINT, signal.SIGINT)


def _show(job: dict[str, Any]) -> None:
    took_s = job["finished_at"] - job["created_at"]
    echo(f"job      hello: {job['state']} after {took_s:.1f} s")
    text = str(job.get("result_output") or job.get("result_summary") or "")
    for line in text.splitlines():
        echo(f"         | {line}")


def _say_next(that: Installation) -> None:
    from dispatchd.cli.hub.login import login_link

    hub, config, script = (
        shlex.quote(str(file))
        for file in (that.hub_file, that.machine_file, that.script)
    )
    echo(f"""
The page, for 10 minutes and one login (again: dispatchd hub login-link --config {hub}):
  {login_link(that.hub_file)}

In another terminal:
  echo '{{"dag_name": "hello"}}' | dispatchd hub submit - --config {hub}
  dispatchd hub jobs --config {hub}
  dispatchd status --config {config}

What to edit next:
  {script}   # what the workflow hello does
  {config}   # workflows of your own; then: dispatchd reload --config {config}
  {hub}   # the hub; another machine: dispatchd hub machine add NAME --config {hub}

Ctrl-C ends both. They start again by: dispatchd quickstart {shlex.quote(str(that.folder))}""")
