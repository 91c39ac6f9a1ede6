"""Entry point: finds the command, and turns every expected error into one line and an exit code."""

import importlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EBADF, EDQUOT, EFBIG, EIO, ENOSPC
from types import MappingProxyType
from typing import Any, Final, NoReturn

import click
from typing_extensions import override

from dispatchd import __version__
from dispatchd.brand import DISPATCHD, Brand
from dispatchd.cli import brand as branding
from dispatchd.cli.imports import without_collection
from dispatchd.cli.screen.groups import SectionedGroup, Sections
from dispatchd.cli.terminal import complain
from dispatchd.errors import DispatchdError, UserError

_COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "run": ("dispatchd.cli.agent.run", "Run the daemon in the foreground."),
    "quickstart": (
        "dispatchd.cli.begin.quickstart",
        "Set up a hub and a machine in a folder, and run a first job.",
    ),
    "demo": (
        "dispatchd.cli.demo.command",
        "Show the main job end to end, on this machine alone.",
    ),
    "status": ("dispatchd.cli.agent.status", "Show the state of the daemon."),
    "jobs": ("dispatchd.cli.agent.jobs", "List the tracked and the latest past jobs."),
    "show": ("dispatchd.cli.agent.show", "Show everything about one job."),
    "logs": ("dispatchd.cli.agent.logs", "Print what a job's command wrote."),
    "block": ("dispatchd.cli.agent.steer", "Park a job for a person."),
    "resolve": ("dispatchd.cli.agent.steer", "Decide about a parked job."),
    "cancel": ("dispatchd.cli.agent.steer", "End a job."),
    "replay": (
        "dispatchd.cli.agent.replay",
        "Run a job's payload again, on this machine alone.",
    ),
    "drain": (
        "dispatchd.cli.agent.intake",
        "Empty the machine: take nothing new, wait for what runs.",
    ),
    "pause": ("dispatchd.cli.agent.intake", "Take no new jobs."),
    "resume": ("dispatchd.cli.agent.intake", "Take jobs again."),
    "reload": ("dispatchd.cli.agent.intake", "Read the configuration again."),
    "explain": (
        "dispatchd.cli.explain",
        "Say which workflow and parameters a job would get.",
    ),
    "license": (
        "dispatchd.cli.agent.license",
        "Show the license; make and issue licenses, for vendors.",
    ),
    "join": ("dispatchd.cli.begin.join", "Make this machine one of a hub's."),
    "activate": (
        "dispatchd.cli.agent.license",
        "Activate a license key on this machine.",
    ),
    "deactivate": ("dispatchd.cli.agent.license", "Forget the stored activation."),
    "doctor": (
        "dispatchd.cli.agent.doctor",
        "Check everything that has to work; say what to do.",
    ),
    "bug-report": (
        "dispatchd.cli.bug_report",
        "Collect diagnostics into a file, with secrets removed.",
    ),
    "config": ("dispatchd.cli.config", "Check the configuration."),
    "service": (
        "dispatchd.cli.service.commands",
        "Install or remove the service of systemd.",
    ),
    "hub": (
        "dispatchd.cli.hub.main",
        "Host a dispatch endpoint (extra `hub`); see dispatchd hub -h.",
    ),
    "conformance": (
        "dispatchd.cli.vendor.conformance",
        "Judge a dispatch endpoint by the rules of the contract.",
    ),
    "engine": ("dispatchd.cli.vendor.engine", "Check what executes runs."),
    "completion": (
        "dispatchd.cli.completion",
        "Print the completion script of a shell.",
    ),
}
"""Commands with their module, imported on use, and their line in `--help`."""

_SECTIONS: Final[Sections] = MappingProxyType(
    {
        "Jobs": ("jobs", "show", "logs", "cancel", "block", "resolve", "replay"),
        "Daemon": ("run", "status", "pause", "resume", "drain", "reload"),
        "Setting up": (
            *("join", "config", "service", "license", "activate", "deactivate"),
            *("explain", "doctor", "bug-report", "completion"),
        ),
        "Endpoints and engines": ("hub", "conformance", "engine"),
        "First look": ("quickstart", "demo"),
    }
)

_NAMES: Final[Mapping[str, str]] = {
    "license": "license_",
    "bug-report": "bug_report",
}


_CANNOT_WRITE: Final = (ENOSPC, EDQUOT, EFBIG, EIO, EBADF)
"""Errors of a write to stdout: a full disk, a quota, a device that is gone, a closed descriptor."""


class _ReaderGone(DispatchdError):
    """The reader of stdout has gone, as in `dispatchd jobs | head`."""


@contextmanager
def _writing() -> Iterator[None]:
    """Report a closed reader by an exception of its own, because click would take it for a failure of the command."""
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGone from error


class _LazyGroup(SectionedGroup):
    """A group that imports a command when it is run, so that `--help` is instant."""

    @override
    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with _writing():
            return super().make_context(info_name, args, parent, **extra)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        with _writing():
            return super().invoke(ctx)

    @override
    def names(self) -> Iterable[str]:
        return _COMMANDS

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        with without_collection():
            module = importlib.import_module(_COMMANDS[cmd_name][0])
        # A command whose name is a keyword or a builtin of Python has another name in its module.
        command = getattr(module, _NAMES.get(cmd_name, cmd_name))
        if not isinstance(command, click.Command):
            message = f"{cmd_name} is not a command"
            raise TypeError(message)
        branding.rename(command)
        return command

    @override
    def short_help_of(self, ctx: click.Context, name: str) -> str:
        return branding.branded(_COMMANDS[name][1])


def _print_version(ctx: click.Context, _: click.Parameter, value: object) -> None:
    """Print the release and exit. A callback of the option."""
    if value:
        brand = branding.brand()
        of = "version" if brand == DISPATCHD else "on dispatchd"
        click.echo(f"{brand.name}, {of} {__version__}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Take dispatch jobs from an endpoint, run them here, and report how they end."""


def main(
    arguments: Sequence[str] | None = None, *, brand: Brand | None = None
) -> NoReturn:
    """Run a command line (default: this process's) under a brand (default: its own name), and exit: 0, or a code of sysexits.h."""
    branding.use(brand or DISPATCHD)
    _show_what_can_be_shown()
    code = _code_of(arguments)
    try:
        # Errors of writing appear here at the latest.
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        code = code or _refuse([error])
    sys.exit(code)


def _show_what_can_be_shown() -> None:
    """Write escapes in place of characters that the terminal's encoding, or any encoding, can't represent."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _code_of(arguments: Sequence[str] | None) -> int:
    """Run a command line, print its error, and return the exit code."""
    try:
        return _code_of_click(arguments)
    except _ReaderGone:
        # Nothing more can reach the reader.
        _silence_stdout()
        return 0
    except (UserError, OSError) as error:
        return _refuse([error])
    except BaseExceptionGroup as group:
        if group.split((UserError, OSError))[1] is not None:
            raise
        return _refuse(list(_leaves(group)))


def _code_of_click(arguments: Sequence[str] | None) -> int:
    """Run a command line, and return the exit code. Print the error if the command line itself is invalid."""
    code: object = 0
    try:
        code = cli.main(
            arguments, prog_name=branding.brand().name, standalone_mode=False
        )
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except SystemExit as stop:
        code = stop.code
    except click.exceptions.NoArgsIsHelpError as bare:
        # A group without a command: its help lists the commands.
        with _writing():
            click.echo(bare.format_message())
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        _complain(f"{message} (see --help)")
        code = os.EX_USAGE
    except (click.Abort, KeyboardInterrupt):
        code = 130  # 128 + SIGINT, as a shell says it
    return code if isinstance(code, int) else 0


def _silence_stdout() -> None:
    """Discard all further output, including buffered output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(errors: Sequence[UserError | OSError]) -> int:
    return max(_refused(error) for error in errors)


def _refused(error: UserError | OSError) -> int:
    """Print the error, and return the exit code."""
    if isinstance(error, UserError):
        for line in str(error).splitlines():
            _complain(line)
        return error.exit_code
    if isinstance(error, PermissionError):
        _complain(f"cannot use {error.filename}: this user may not; use sudo")
        return os.EX_NOPERM
    if isinstance(error, FileNotFoundError) and error.filename is None:
        # getcwd(3) is the only call without a file name in its error.
        _complain("the current folder has been deleted: change to another one (cd)")
        return os.EX_NOINPUT
    if error.errno in _CANNOT_WRITE and error.filename is None:
        _silence_stdout()
        _complain(f"cannot write the output: {error.strerror}")
    else:
        about = f"cannot use {error.filename}: " if error.filename else ""
        _complain(f"{about}{error.strerror or error}")
    return os.EX_IOERR


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[UserError | OSError]:
    for exception in group.exceptions:
        if isinstance(exception, BaseExceptionGroup):
            yield from _leaves(exception)
        elif isinstance(exception, UserError | OSError):
            yield exception


def _complain(line: str) -> None:
    # If stderr can't be written either, only the exit code remains.
    with suppress(OSError):
        complain(line)
