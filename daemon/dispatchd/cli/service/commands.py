"""`dispatchd service install` and `uninstall`."""

import os
import shlex
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from dispatchd.cli.brand import brand
from dispatchd.cli.options import load_config
from dispatchd.cli.service.places import Service, service_of
from dispatchd.cli.service.stamp import State, is_untouched, stamped, state_of, write
from dispatchd.cli.service.systemctl import Systemd
from dispatchd.cli.terminal import echo
from dispatchd.errors import UsageError
from dispatchd.linux.folder_tree import remove_tree

_HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108  # compared, not written to
"""Folders that the system's units hide from the program."""

_TOP: Final = Path("/")

_WRITTEN: Final = {
    State.MISSING: ("wrote", "would write"),
    State.OLDER: ("replaced", "would replace"),
}
"""Words for a file that is written; the second is that of a dry run."""

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def service() -> None:
    """Install or remove the service of systemd."""


def _places(command: F) -> F:
    """Add the options that name a service, and where it is."""
    for option in (
        click.option(
            "--dry-run",
            is_flag=True,
            help="Say what would be done, and change nothing.",
        ),
        click.option(
            "--root",
            type=click.Path(path_type=Path, file_okay=False),
            default=_TOP,
            help="Top of another system's files, such as an image's; systemd isn't called then.",
        ),
        click.option(
            "--name", default="", help="An instance of the daemon, beside others."
        ),
        click.option(
            "--user", "is_user", is_flag=True, help="For this user alone, without root."
        ),
        click.option("--hub", "is_hub", is_flag=True, help="The hub, not the daemon."),
    ):
        command = option(command)
    return command


@service.command()
@_places
@click.option(
    "--program",
    default="",
    help="Path of dispatchd for the unit.  [default: the program that runs now]",
)
@click.option("--now", is_flag=True, help="Enable and start it, too.")
def install(
    *,
    is_hub: bool,
    is_user: bool,
    name: str,
    root: Path,
    dry_run: bool,
    program: str,
    now: bool,
) -> None:
    """Install the daemon, or the hub, as a service of systemd.

    Writes the unit, its user, its folders, examples, and a first configuration if there is none. A file that
    a person wrote or edited is left alone; those of an earlier release are replaced.
    """
    that = service_of(is_hub=is_hub, is_user=is_user, name=name, root=root.absolute())
    program = program or _program(is_user=is_user)
    systemd = Systemd.of(is_user=is_user, is_elsewhere=root != _TOP, is_dry_run=dry_run)
    for file, text in that.files(program):
        _put(file, text, dry_run=dry_run)
    if not is_hub:
        _begin(that, dry_run=dry_run)
    systemd.settle()
    if now and not dry_run and not is_hub:
        # Its mistakes are said here rather than in the journal.
        load_config(that.config)
    if now:
        systemd.call("enable", "--now", that.unit)
    echo(f"\nNext:\n{_next(that, now=now)}")


@service.command()
@_places
@click.option("--yes", is_flag=True, help="Delete the state without a question.")
@click.option("--keep-state", is_flag=True, help="Keep the state without a question.")
def uninstall(
    *,
    is_hub: bool,
    is_user: bool,
    name: str,
    root: Path,
    dry_run: bool,
    yes: bool,
    keep_state: bool,
) -> None:
    """Stop the service, and remove what `install` wrote.

    Asks whether its configuration and state are to be deleted, too; runs are ended then. Files that a person
    edited, users and credentials stay.
    """
    if yes and keep_state:
        raise UsageError(
            cannot="remove the service", reason="say either --yes or --keep-state"
        )
    that = service_of(is_hub=is_hub, is_user=is_user, name=name, root=root.absolute())
    owned = that.owned()
    removes = bool(owned) and not keep_state and (dry_run or yes or _asked(owned))
    systemd = Systemd.of(is_user=is_user, is_elsewhere=root != _TOP, is_dry_run=dry_run)
    systemd.stop(that.unit, with_runs=removes)
    files = [that.unit_folder / that.unit_file] if _is_last(that) else []
    if not _others(that):
        files += [file for file, _ in that.shared()]
    for file in files:
        _remove(file, dry_run=dry_run)
    if not dry_run:
        _prune(that.examples)
    is_deleted = _delete_or_keep(owned, removes=removes, dry_run=dry_run)
    systemd.reload()
    if not is_deleted:
        sys.exit(os.EX_IOERR)


def _put(file: Path, text: str, *, dry_run: bool) -> None:
    state = state_of(file, text)
    match state:
        case State.UNCHANGED:
            _say("unchanged", file)
        case State.EDITED:
            _say("kept", file, "a person wrote or edited it")
        case State.MISSING | State.OLDER:
            if not dry_run:
                write(file, stamped(text))
            _say(_WRITTEN[state][dry_run], file)


def _begin(that: Service, *, dry_run: bool) -> None:
    """Write a first configuration, which is a person's from then on."""
    if os.path.lexists(that.config):
        _say("kept", that.config, "it is a person's")
        return
    if not dry_run:
        write(that.config, that.starter())
    _say(_WRITTEN[State.MISSING][dry_run], that.config)


def _say(done: str, path: Path, why: str = "") -> None:
    echo(f"{done:<13} {path}{f': {why}' if why else ''}")


def _next(that: Service, *, now: bool) -> str:
    """Return the commands that are to follow, one a line."""
    scope = " --user" if that.is_user else ""
    root = "" if that.is_user else "sudo "
    start = f"  {root}systemctl{scope} enable --now {that.unit}"
    path = that.inside(that.config)
    config, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
    if that.is_hub:
        sudo = "" if that.is_user else f"sudo -u {brand().name}-hub "
        option = f" --config {config}" if that.is_user else ""
        lines = [
            *([] if now else [f"  {sudo}dispatchd hub init {folder}"]),
            *([] if now else [start]),
            f"  {sudo}dispatchd hub machine add NAME{option}",
        ]
    else:
        default = that.config.name == "config.toml"
        option = "" if default else f" --config {config}"
        lines = [
            f"  edit {config}   # what it is to do; options: {that.inside(that.examples)}/config.example.toml",
            *([] if now else [f"  {root}dispatchd join URL KEY{option}", start]),
            f"  dispatchd status{option}",
        ]
    if that.is_user:
        lines.append("  loginctl enable-linger   # keeps it running after you log out")
    return "\n".join(lines)


def _asked(owned: list[Path]) -> bool:
    """Ask whether to delete the state, and return the answer."""
    if not sys.stdin.isatty():
        raise UsageError(
            cannot="ask about the state",
            reason="stdin is no terminal; say --yes (delete it) or --keep-state",
        )
    listed = "\n  ".join(map(str, owned))
    return click.confirm(
        f"Delete its configuration and state, too?\n  {listed}\n", err=True
    )


def _is_last(that: Service) -> bool:
    """Return whether no other instance uses the unit's file."""
    wants = that.unit_folder.glob(f"*.wants/{brand().name}@*.service")
    return not (that.name and any(link.name != that.unit for link in wants))


def _others(that: Service) -> list[Path]:
    """Return the units of other services of ours, which need the shared files."""
    units = (f"{brand().name}{kind}.service" for kind in ("", "@", "-hub"))
    own = that.unit_file if _is_last(that) else ""
    return [
        file
        for unit in units
        if unit != own and (file := that.unit_folder / unit).is_file()
    ]


def _remove(file: Path, *, dry_run: bool) -> None:
    try:
        is_file = stat.S_ISREG(file.lstat().st_mode)
        content = file.read_text("utf-8", "replace") if is_file else ""
    except FileNotFoundError:
        return
    if not is_untouched(content):
        _say("kept", file, "a person wrote or edited it")
        return
    if not dry_run:
        file.unlink()
    _say("would remove" if dry_run else "removed", file)


def _prune(folder: Path) -> None:
    """Remove a folder, and those in it, as far as they are empty."""
    for below in (*folder.glob("*/"), folder):
        with suppress(OSError):
            below.rmdir()


def _delete_or_keep(owned: list[Path], *, removes: bool, dry_run: bool) -> bool:
    """Delete the state, whatever runs have left in it, or say that it is kept; return False if a part of it can't be deleted."""
    stays = []
    for path in owned:
        left = remove_tree(path).first if removes and not dry_run else None
        if left is not None:
            stays.append(left)
            _say("not deleted", Path(str(left.filename)), left.strerror or str(left))
        elif removes:
            _say("would delete" if dry_run else "deleted", path)
        else:
            _say("kept", path)
    return not stays


def _program(*, is_user: bool) -> str:
    """Return the path of the program that runs now, for a unit.

    Raises:
        UsageError: There is none, or a unit of the system couldn't see it.
    """
    called = Path(sys.argv[0]).absolute()
    beside = Path(sys.executable).with_name(brand().name)
    found = called if called.name == brand().name else beside
    if not os.access(found, os.X_OK) or found.is_dir():
        raise UsageError(cannot="find the program", reason="name it with --program")
    for path in (found, found.resolve(), Path(sys.base_prefix).resolve()):
        if not is_user and any(path.is_relative_to(hidden) for hidden in _HIDDEN):
            reason = (
                f"{path} is in a folder that the unit hides from it; install {brand().name} elsewhere, such as in "
                f"/opt/{brand().name}, or name the program with --program, or say --user"
            )
            raise UsageError(cannot="make a service of this program", reason=reason)
    return str(found)
