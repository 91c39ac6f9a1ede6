"""The manual page dispatchd(1), made from the commands; `python -m dispatchd.cli.manual` prints it.

Form: man(7). The page has no date and no path of the machine that made it, so that it changes with the program only.
"""

import re
from collections.abc import Iterator
from typing import Final

import click

_DESCRIPTION: Final = """
dispatchd sits behind a firewall, opens no listening network port, and asks a dispatch endpoint for work over outbound
HTTPS. Each job names a workflow that the machine's owner has configured; an endpoint chooses among these and never
sends a command. Every job is kept in a durable store, run as a local process, and reported. The daemon can be killed
at any instruction, restarted, upgraded, or cut off from the network without losing a job, running one twice, or
leaving one unreported.

Wherever JOB is wanted, the beginning of a job's id will do where it is enough. On a terminal, lists show such
beginnings and are cut to its width; in a pipe they are whole. With --json every list is one array of objects.
"""

_FILES: Final = (
    (
        "$XDG_CONFIG_HOME/dispatchd/config.toml",
        "The user's configuration; $XDG_CONFIG_HOME is ~/.config where it isn't set.",
    ),
    ("/etc/dispatchd/config.toml", "The configuration where the user has none."),
    (
        "$STATE_DIRECTORY, else $XDG_STATE_HOME/dispatchd",
        "The state folder, unless store.folder names another; $XDG_STATE_HOME is ~/.local/state where it isn't set.",
    ),
    ("STATE/jobs/, STATE/history/", "One JSON record for each tracked and past job."),
    (
        "STATE/quarantine/",
        "Records that could not be read.",
    ),
    (
        "STATE/runs/JOB/",
        "What a run was given and left: event.json, workspace/, and output.log of each attempt, among others.",
    ),
    (
        "STATE/control.sock",
        "The socket on which the running daemon answers these commands, unless control.folder names another place.",
    ),
    (
        "STATE/license.jwt",
        "A license token, for a machine that has neither a key nor an activation.",
    ),
)

EXITS: Final = (
    ("0", "It is done."),
    (
        "1",
        "status: something is wrong. doctor, hub github check: the worst is a warning. demo: a job did not end as expected. replay, hub logs --follow: the job has not succeeded. hub watch, hub run --watch: the job has failed. hub artifacts: the hub doesn't have all of them. license inspect: the license isn't valid. conformance, engine check: a rule is broken, or the level is not reached.",
    ),
    (
        "2",
        "doctor, hub github check: something has failed. hub watch, hub run --watch: the job has partially succeeded. conformance: the trial ended early.",
    ),
    ("3", "hub watch, hub run --watch: the job was aborted or superseded."),
    (
        "4",
        "hub watch, hub run --watch: the job was rejected or ignored, and never ran.",
    ),
    ("64", "The command line asks for what doesn't exist or can't be (EX_USAGE)."),
    ("66", "The current folder has been deleted (EX_NOINPUT)."),
    (
        "69",
        "No daemon or hub answers, another daemon runs on the state folder, or something that is needed isn't there now (EX_UNAVAILABLE).",
    ),
    (
        "70",
        "The first process of a container could not become its init (EX_SOFTWARE).",
    ),
    ("73", "A file or folder can't be created (EX_CANTCREAT)."),
    (
        "74",
        "A file can't be read or written, stdout among them. hub backup: something is left out of the backup, and named. service uninstall: something could not be deleted, and is named (EX_IOERR).",
    ),
    ("77", "This user lacks a permission (EX_NOPERM)."),
    (
        "78",
        "The configuration can't be used, this machine lacks what is needed, or a newer release wrote the store (EX_CONFIG).",
    ),
    (
        "130",
        "It was interrupted (128 + SIGINT), or a question was answered with no.",
    ),
    ("143", "engine check: SIGTERM has ended it (128 + SIGTERM)."),
)
"""Exit codes of all commands, each with its meaning."""

ENVIRONMENT: Final = (
    ("DISPATCHD_CONFIG", "The configuration file, where --config isn't given."),
    ("DISPATCHD_LICENSE", "A license token; it goes before every other license."),
    ("DISPATCHD_LICENSE_KEY", "A license key, which the daemon activates."),
    ("DISPATCHD_LICENSE_FILE", "A file with a license token, looked for last."),
    ("STATE_DIRECTORY", "The state folder; systemd sets it, see systemd.exec(5)."),
    ("CREDENTIALS_DIRECTORY", "Where the credentials are that the configuration names; systemd sets it."),
    ("DISPATCHD_HUB_CONFIG", "The hub's configuration file, where --config isn't given."),
    ("DISPATCHD_HUB_URL", "The hub's address, where --url isn't given."),
    ("DISPATCHD_HUB_TOKEN", "The token for the hub, where --token-file isn't given."),
    ("NO_COLOR", "No colours, if it is set and not empty; it goes before CLICOLOR_FORCE."),
    ("CLICOLOR_FORCE", "Colours in a pipe too, if it is set, and neither empty nor 0."),
    (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "The proxy on the way to the endpoint, unless cloud.proxy names one.",
    ),
    ("PATH", "Where the programs of workflows are looked for."),
)  # fmt: skip
"""Environment variables that commands and daemon read, each with its meaning."""

_SEE_ALSO: Final = "systemctl(1), journalctl(1), systemd.exec(5), sysexits.h(3head)"


def page(root: click.Group, version: str) -> str:
    """Return the page as roff, in ASCII.

    Args:
        root: The group of all commands.
        version: The release that is described.
    """
    ctx = click.Context(root, info_name="dispatchd")
    lines = [
        r".\" Made from the commands by dispatchd.cli.manual; write it again with: make docs",
        f'.TH DISPATCHD 1 "" "dispatchd {_text(version)}" "User Commands"',
        *_section("NAME"),
        rf"dispatchd \- {_text(_purpose(root))}",
        *_section("SYNOPSIS"),
        r"\fBdispatchd\fR [\fB\-\-version\fR] [\fB\-\-help\fR] \fICOMMAND\fR [\fIARGUMENT\fR ...]",
        *_section("DESCRIPTION"),
        *_paragraphs(_DESCRIPTION),
        *_section("COMMANDS"),
        r"Every command takes \fB\-\-help\fR.",
        *(
            line
            for command, below in commands_below(root, ctx)
            for line in _command(command, below)
        ),
        *_section("FILES"),
        *_items(_FILES, font="I"),
        *_section("EXIT STATUS"),
        *_items(EXITS, font="B"),
        *_section("ENVIRONMENT"),
        *_items(ENVIRONMENT, font="B"),
        *_section("SEE ALSO"),
        _text(_SEE_ALSO),
    ]
    return "".join(f"{line}\n" for line in lines)


def _purpose(root: click.Command) -> str:
    """Return the first sentence of a help text in the form of the section NAME: without its full stop."""
    first = (root.help or "").split("\n\n", 1)[0]
    sentence = " ".join(first.split()).removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def commands_below(
    group: click.Group, ctx: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield every command of a group and of the groups in it, in their order, each with its context."""
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is None or command.hidden:
            continue
        below = click.Context(command, info_name=name, parent=ctx)
        if isinstance(command, click.Group):
            yield from commands_below(command, below)
        else:
            yield command, below


def _command(command: click.Command, ctx: click.Context) -> Iterator[str]:
    yield f".SS {_quoted(_usage(command, ctx))}"
    # \b is click's mark for a paragraph that keeps its lines, \f for the end of the text that is shown.
    shown = (command.help or "").split("\f", 1)[0].replace("\b\n", "")
    yield from _paragraphs(shown)
    for parameter in command.get_params(ctx):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from _option(parameter, ctx)


def _usage(command: click.Command, ctx: click.Context) -> str:
    """Return a command with its required arguments and options."""
    required = [
        record[0].split(", ")[-1]
        for option in command.get_params(ctx)
        if isinstance(option, click.Option) and option.required
        if (record := option.get_help_record(ctx)) is not None
    ]
    pieces = command.collect_usage_pieces(ctx)
    others = [piece for piece in pieces if piece != command.options_metavar]
    return " ".join((ctx.command_path, *required, *others))


def _option(option: click.Option, ctx: click.Context) -> Iterator[str]:
    """Yield an option with its help; `--help` itself is described once, above."""
    record = option.get_help_record(ctx)
    if record is None or "--help" in option.opts:
        return
    names, help_text = record
    yield ".TP"
    yield ", ".join(_option_name(name) for name in names.split(", "))
    yield _text(" ".join(help_text.split()))


def _option_name(name: str) -> str:
    """Return an option in bold with its value in italics, such as `--past INTEGER`."""
    flag, _, metavar = name.partition(" ")
    taken = rf" \fI{_text(metavar)}\fR" if metavar else ""
    return rf"\fB{_text(flag)}\fR{taken}"


def _section(title: str) -> Iterator[str]:
    yield f".SH {_quoted(title)}"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _items(pairs: tuple[tuple[str, str], ...], *, font: str) -> Iterator[str]:
    for name, description in pairs:
        yield ".TP"
        yield rf"\f{font}{_text(name)}\fR"
        yield _text(description)


def _quoted(text: str) -> str:
    """Return a text as one argument of a macro (groff(7), a quote in quotes)."""
    return '"' + _text(text).removeprefix(r"\&").replace('"', r"\(dq") + '"'


def _text(text: str) -> str:
    r"""Return a text as roff that shows it: groff_char(7).

    A hyphen is written as `\-`, because options are copied from the page, and a plain one may come out as a
    typographic hyphen; a line that begins with a dot or a quote would be a request.
    """
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    for plain, roff in (("'", r"\(aq"), ("`", r"\(ga"), ("^", r"\(ha"), ("~", r"\(ti")):
        escaped = escaped.replace(plain, roff)
    escaped = "".join(
        char if char.isascii() else rf"\[u{ord(char):04X}]" for char in escaped
    )
    return rf"\&{escaped}" if escaped.startswith((".", r"\(aq")) else escaped


if __name__ == "__main__":
    from dispatchd import __version__
    from dispatchd.cli.main import cli

    click.echo(page(cli, __version__), nl=False)
