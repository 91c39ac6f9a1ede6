"""`dispatchd bug-report`: the facts that a maintainer needs about a problem, in one file without secrets.

It packs the output of other commands, each run as a process of its own with a deadline, so that a command that is
stuck or broken stops no other. No output of a run and no payload goes into it.
"""

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import attrs
import click

from dispatchd import __version__
from dispatchd.agent.config.keys import File, WorkflowEntry
from dispatchd.agent.config.usual import unit_credentials
from dispatchd.agent.store.codec import decode
from dispatchd.cli import options
from dispatchd.cli.brand import brand, branded, program
from dispatchd.drop_ins import Sources
from dispatchd.errors import ConfigError, DispatchdError, UserError
from dispatchd.protocol import toml_text
from dispatchd.protocol.job import Json
from dispatchd.redaction.redactor import MARK, Redactor

_DEADLINE_S: Final = 30.0
"""Time limit of a command (seconds); they run side by side."""

_LONGEST: Final = 1024 * 1024
"""Longest part of a command's output that is packed (bytes): its end."""

_RECORDS: Final = 20
"""Most records that are packed (count)."""

_OWN: Final = {
    "config-check.json": "config check --json",
    # Not as JSON, which is printed at the end: findings before a check that hangs are worth having.
    "doctor.json": "doctor",
    "status.json": "status --json",
    "records.json": f"jobs --json --past={_RECORDS}",
}
_SYSTEM: Final = {
    "systemd.json": "systemctl --version",
    "journal.json": "journalctl --no-pager --quiet --output=short-iso --lines=500 --unit=dispatchd.service --unit=dispatchd@*.service",
}
"""Commands of dispatchd and of the system, by the member for their output."""

_FOLDER: Final = "bug-report"
"""Name of the folder that is packed, behind the program's."""

_INSIDE: Final = "It has versions, configuration, status, doctor's findings, the newest records and log lines"
_README: Final = """\
Made by `dispatchd bug-report`; no output of a run and no payload is in here. [redacted] stands for known secrets,
values of env tables, and what looks like a credential. Look at every file all the same before you send this.
"""

_NO_SECRETS: Final = frozenset({"ca_file", "client_cert_file", "textfile"})
"""Keys of the configuration that name a file without a secret."""


class ReportNotWritten(UserError):
    """The file of a bug report can't be written."""

    exit_code = os.EX_CANTCREAT

    def __init__(self, *, file: Path, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self.exit_code = os.EX_NOPERM  # type: ignore[misc]  # the kind of refusal decides, not the class
        super().__init__(f"cannot write {file}: {error.strerror}; try another name")


@click.command("bug-report")
@options.config_option
@options.json_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The file to make.  [default: dispatchd-bug-report-TIME.tar.gz in this folder]",
)
def bug_report(config_file: Path | None, *, as_json: bool, output: Path | None) -> None:
    """Collect diagnostics in a file, without secrets.

    It works without a daemon, and with a broken configuration. Look at the file before you send it.
    """
    now = datetime.now(UTC)  # noqa: TID251  # shown, never decided from
    file = output or Path(f"{brand().name}-{_FOLDER}-{now:%Y%m%dT%H%M%SZ}.tar.gz")
    if os.path.lexists(file):
        # Before it takes its time; whoever makes the file meanwhile keeps it too.
        raise ReportNotWritten(
            file=file, error=FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        )
    members, missing = _members(config_file, now)
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as raw:
            raw.write(_packed(members, int(now.timestamp())))
    except OSError as error:
        raise ReportNotWritten(file=file, error=error) from error
    for omission in missing:
        click.echo(f"warning: a secret was not looked for: {omission}", err=True)
    if as_json:
        options.print_json({"file": file, "members": [*members]})
    else:
        click.echo(f"{file}\n{_INSIDE}; look at it before you send it.")


def _packed(members: Mapping[str, str], made_at: int) -> bytes:
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in members.items():
            data = text.encode(errors="backslashreplace")
            entry = tarfile.TarInfo(f"{brand().name}-{_FOLDER}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, made_at
            tar.addfile(entry, BytesIO(data))
    return packed.getvalue()


def _members(
    config_file: Path | None, now: datetime
) -> tuple[dict[str, str], list[str]]:
    """Return the members, name to text without secrets, and the secrets that are not known, each with the reason."""
    file, state = _find(config_file)
    try:
        document = Sources.read(file, _tables).merged
    except (ConfigError, OSError, ValueError):
        # The secrets in it can't be recognized, so nothing of it is shown; `config check` reports the mistakes.
        document = {}
    known, missing = _known(document, file.parent, state)
    hidden: set[str] = set()
    contents = {
        "config.json": {"file": file, "content": _shown(document, File, hidden)},
        "store.json": _store(state),
        **_said(config_file),
    }
    redactor = Redactor.of({*known, *hidden})
    about = f"{branded(_README)}\n{now}, dispatchd {__version__}, Python {sys.version}, {platform.platform()}"
    texts = {"README.txt": "\nNot looked for: ".join((about, *missing))}
    for name, content in contents.items():
        texts[name] = json.dumps(
            _scrubbed(content, redactor), indent=1, ensure_ascii=False
        )
    # Once more, because the key before some secrets marks them.
    return {name: redactor.scrub(text) for name, text in texts.items()}, missing


def _tables(file: Path) -> dict[str, Json]:
    return toml_text.loads(file.read_text(encoding="utf-8-sig"))


def _scrubbed(value: Any, redactor: Redactor) -> Any:  # noqa: ANN401  # JSON
    """Return a value without secrets. Each string is scrubbed by itself: inside the value's JSON it has more escapes."""
    if isinstance(value, dict):
        return {str(key): _scrubbed(item, redactor) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item, redactor) for item in value]
    return (
        value if isinstance(value, int | float | None) else redactor.scrub(str(value))
    )


def _find(config_file: Path | None) -> tuple[Path, Path | None]:
    """Return the configuration file and the state folder; None if the file doesn't show it."""
    file = options.config_path(config_file).absolute()
    with suppress(ConfigError):
        return file, options.find_daemon(config_file).state_folder
    return file, None


def _said(config_file: Path | None) -> dict[str, dict[str, Any]]:
    """Return the output of each command, by member."""
    config = () if config_file is None else ("--config", str(config_file))
    commands = {
        name: (*program(), *line.split(), *config) for name, line in _OWN.items()
    }
    system = {name: brand().file_text(line) for name, line in _SYSTEM.items()}
    commands |= {name: tuple(line.split()) for name, line in system.items()}
    with ThreadPoolExecutor(len(commands)) as pool:
        said = dict(zip(commands, pool.map(_run, commands.values()), strict=True))
    records = said["records.json"].get("said")
    if isinstance(records, list):
        records.sort(key=lambda record: str(record["changed_at"]), reverse=True)
        del records[_RECORDS:]
    return said


def _run(command: tuple[str, ...]) -> dict[str, Any]:
    try:
        done = subprocess.run(  # noqa: S603  # one of those above
            command, input=b"", capture_output=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        whole, _, _ = (error.stdout or b"").rpartition(b"\n")
        return {"error": str(error), "said": _end(whole)}
    except OSError as error:
        return {"error": str(error)}
    result: dict[str, Any] = {"exit_code": done.returncode, "said": _end(done.stdout)}
    with suppress(ValueError):
        result["said"] = json.loads(done.stdout)
    return {**result, "complaints": _end(done.stderr)}


def _end(data: bytes) -> str:
    """Return the end of an output, in whole lines: a part of a secret would not be recognized."""
    if len(data) > _LONGEST:
        data = data[-_LONGEST:].partition(b"\n")[2]
    return data.decode(errors="replace")


def _store(state: Path | None) -> dict[str, Any]:
    summary: dict[str, Any] = {"folder": state}
    if state is None:
        return {"error": "not known where it is: the configuration can't be read"}
    try:
        summary["free_bytes"] = shutil.disk_usage(state).free
        for part in ("jobs", "history", "quarantine"):
            names = sorted(path.name for path in (state / part).iterdir())
            summary[part] = names if part == "quarantine" else len(names)
    except OSError as error:
        summary["error"] = str(error)
    return summary


def _shown(value: Any, shape: Any, hidden: set[str]) -> Any:  # noqa: ANN401  # TOML, and any type
    """Return a part of the configuration without possible secrets: env tables, and unknown keys.

    `shape` is the expected type of the value, None for an unknown one. `hidden` gets the names that are left out.
    """
    if isinstance(value, list):
        return [_shown(item, shape, hidden) for item in value]
    if isinstance(value, dict):
        return {k: _shown(v, _inner(shape, k), hidden) for k, v in value.items()}
    if shape is None or attrs.has(shape) or get_origin(shape) is Mapping:
        hidden.add(str(value))
        return MARK
    return value


def _inner(shape: Any, key: str) -> Any:  # noqa: ANN401  # as above
    """Return the expected type of a table's key."""
    if get_origin(shape) is Mapping:
        return get_args(shape)[1]
    if not attrs.has(shape) or (shape is WorkflowEntry and key == "env"):
        return None
    return next(
        (field.type for field in attrs.fields(shape) if field.name == key), None
    )


def _known(
    document: dict[str, Any], folder: Path, state: Path | None
) -> tuple[set[str], list[str]]:
    """Return the secrets that can be read, and those that can't, each with the reason."""
    environment = os.environ  # noqa: TID251  # the command line is where the environment comes in
    licenses = [brand().variable(name) for name in ("LICENSE", "LICENSE_KEY")]
    secrets = {environment.get(name, "") for name in licenses}
    secrets.update(() if state is None else _of_state(state))
    credentials = environment.get("CREDENTIALS_DIRECTORY") or unit_credentials(brand())
    missing = []
    for path, value in _leaves(document):
        key, where = path[-1], ".".join(path)
        if key == "env":
            secrets.add(environment.get(value, ""))
        elif key == "command" and path[0] == "secrets":
            missing.append(f"{where}: not run, because it may cost something")
        elif key.endswith(("file", "credential")) and key not in _NO_SECRETS:
            home = folder if key.endswith("file") else credentials
            try:
                text = Path(home, value).read_text(errors="replace")
            except (OSError, ValueError) as error:
                missing.append(f"{where}: {error}")
            else:
                # NAME: VALUE and user:password have the secret behind the colon.
                behind = (line.partition(":")[2] for line in text.splitlines())
                secrets.update((text, *behind))
    return secrets, missing


def _leaves(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], str]]:  # noqa: ANN401  # as above
    """Yield the texts of the configuration with their keys; of a list the first."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, *path, name)
    elif isinstance(value, list):
        yield from _leaves(next(iter(value), None), *path)
    elif isinstance(value, str):
        yield path, value


def _of_state(state: Path) -> Iterator[str]:
    """Yield the secrets that the daemon was given: claims, secrets of its runs, its activation."""
    from dispatchd.agent.engines.local.secrets import recall
    from dispatchd.agent.store.identity import IdentityStore

    with suppress(DispatchdError, OSError):
        activation = IdentityStore(state).activation()
        yield from (activation.token, activation.heartbeat_secret) if activation else ()
    jobs = state / "jobs"
    for path in jobs.glob("*.json") if os.access(jobs, os.X_OK) else ():
        with suppress(OSError, DispatchdError):
            record = decode(path.read_bytes(), path=path)
            yield record.job.claim_token
            if record.attempt is not None and record.attempt.process is not None:
                yield from recall(record.attempt.process) or ()
