"""`dispatchd completion SHELL`: the script with which a shell completes commands, options and job ids."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import click
from click.shell_completion import CompletionItem, get_completion_class

from dispatchd.agent.config.load import Places
from dispatchd.agent.domain.phase import Phase
from dispatchd.cli.brand import brand
from dispatchd.errors import DispatchdError, NotReachable

PROGRAM: Final = brand().name

VARIABLE: Final = f"_{PROGRAM.replace('-', '_')}_COMPLETE".upper()
"""Variable with which the script asks for completions; click makes its name from the program's name."""

_TIMEOUT_S: Final = 1.0
"""Longest wait of a key press for the daemon (seconds)."""

_MOST: Final = 100
"""Most past jobs that are offered (count), the newest first if a daemon answers."""

_HARMLESS: Final = re.compile(r"[A-Za-z0-9_.:@%+=/][A-Za-z0-9_.:@%+=/,-]*", re.ASCII)
"""Form of ids that a shell takes as they are. An endpoint chooses ids, and shells insert offered ones unquoted."""

_TRACKED: Final = frozenset(Phase) - {Phase.HISTORY}

_PHASES: Final[Mapping[str, frozenset[Phase]]] = {
    "block": _TRACKED,
    "cancel": _TRACKED,
    "resolve": frozenset({Phase.NEEDS_ATTENTION}),
    "replay": frozenset({Phase.HISTORY}),
}
"""Phases of the jobs that a command can act on; the other commands accept any phase."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    To install it: `dispatchd completion bash > /etc/bash_completion.d/dispatchd`, or for one user
    `eval "$(dispatchd completion bash)"` in ~/.bashrc; zsh likewise in ~/.zshrc; fish:
    `dispatchd completion fish > ~/.config/fish/completions/dispatchd.fish`.
    """
    kind = get_completion_class(shell)
    root = ctx.find_root().command
    if kind is not None:
        # Not `source()`: in bash it checks the bash on PATH, and the script may be for another machine.
        script = kind(root, {}, PROGRAM, VARIABLE)
        click.echo(kind.source_template % script.source_vars(), nl=False)


def job_ids(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Return the ids of jobs that begin with the text typed so far, for the argument JOB of a command.

    A completion that fails offers nothing: its error would be printed into the command line.
    """
    from dispatchd.cli.options import find_daemon

    try:
        places = find_daemon(ctx.params.get("config_file"), quiet=True)
        phases = _PHASES.get(ctx.info_name or "", frozenset(Phase))
        jobs = list(_jobs(places, phases, incomplete))
    except (DispatchdError, OSError):
        return []
    return [
        CompletionItem(job_id, help=about)
        for job_id, about in jobs
        if job_id.startswith(incomplete) and _HARMLESS.fullmatch(job_id)
    ]


def _jobs(
    places: Places, phases: frozenset[Phase], incomplete: str
) -> Iterator[tuple[str, str]]:
    """Yield the ids of jobs with a text that helps to tell them apart."""
    try:
        documents = _jobs_of_daemon(places, incomplete)
    except NotReachable:
        # The folder of a job's file shows whether it is tracked; reading thousands of files takes too long.
        if phases & _TRACKED:
            yield from _in_folder(places.state_folder / "jobs", "tracked")
        if Phase.HISTORY in phases:
            yield from _in_folder(places.state_folder / "history", "past")
        return
    for document in documents:
        job, phase = document["job"], document["phase"]
        if phase in phases:
            yield job["id"], f"{phase} {job.get('workflow', '')}".strip()


def _jobs_of_daemon(places: Places, incomplete: str) -> Iterable[Any]:
    from urllib.parse import quote

    from dispatchd.agent.control.client import ask

    query = f"like={quote(incomplete, safe='')}" if incomplete else f"past={_MOST}"
    answer: Any = ask(
        places.control_folder,
        "GET",
        f"/v1/jobs?{query}",
        cannot="complete",
        timeout_s=_TIMEOUT_S,
        state=places.state_folder,
    )
    documents: list[Any] = answer["jobs"]
    return documents


def _in_folder(folder: Path, about: str) -> Iterator[tuple[str, str]]:
    """Yield the ids in the names of a folder's files; those too long for a name are left out."""
    for path in sorted(folder.glob("*.json")):
        if not path.name.startswith("%sha256-"):
            yield unquote(path.stem, errors="surrogatepass"), about
