"""Set-up of a new hub by `dispatchd hub init`: a configuration, a database with a signing key, and the first token."""

import errno
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from uuid import uuid4

from attrs import evolve, frozen

from dispatchd.errors import ConfigError, FolderUnusable, UsageError
from dispatchd.hub.auth.hashing import hashed, new_secret
from dispatchd.hub.auth.license_signing_key import public_key
from dispatchd.hub.config.load import FILE, TOKEN_FILE, Settings, load
from dispatchd.hub.domain.model import Token
from dispatchd.hub.domain.scopes import ADMIN
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.tokens import TokenStore
from dispatchd.network.signing_key import fingerprint
from dispatchd.protocol import toml_text

_TEMPLATE: Final = """\
# The hub's configuration; each key is explained in the documentation (docs/hub.md). Values shown as comments are the defaults.
listen = {listen}                  # behind a proxy with TLS where machines come from elsewhere
database_url = {database_url}         # or postgresql://USER@HOST/NAME for several hub processes
license_id = {license_id}

[leases]
# seconds = 60                     # how long a claim holds without a heartbeat
# patience_s = 300                 # how much longer an accepted job stays with a machine that isn't heard of any more
# unheard_s = 86400                # ... with one that has never sent a heartbeat for it
# most_expiries = 3                # after that it has failed, as lease-expired

[queue]
# most = 100000                    # jobs that may wait; more are refused with 503
# supersede = true                 # a newer commit of a pull request takes older queued jobs of it out

[retention]
# days = 30                        # how long ended jobs and deliveries are kept
# audit_days = 365                 # how long the audit list is kept

[logs]
# folder = "logs"                  # shared, where several hub processes use one database
# days = 14                        # how long the log of a job is kept
# job_mib = 256                    # how large all logs of one job may be together

[artifacts]
# folder = "artifacts"             # shared, where several hub processes use one database
# days = 14                        # how long the artifacts of a job are kept
# job_mib = 1024                   # how large all artifacts of one job may be together; 0 keeps none
# file_mib = 512                   # how large one of them may be

# People log in with GitHub, beside access tokens (docs/login.md).
# [login.github]
# client_id = "Iv1.8a61f9b3a7aba766"        # this and the file come from `dispatchd hub github setup`
# client_secret_file = "github-client-secret"
# admins = ["id:583231"]           # or logins; everybody else sees the jobs of what they may read at GitHub

# Jobs at the times of cron expressions (docs/hub.md, schedules).
# [[schedules]]
# name = "nightly"
# cron = "30 2 * * *"              # minute, hour, day of month, month, day of week
# timezone = "Europe/Berlin"       # UTC without it
# workflow = "backup"              # a workflow of the machines
# inputs = {{ level = "full" }}      # the run finds them as .inputs in $GITHUB_EVENT_PATH

# Jobs of what a forge, an alert manager or any other sender delivers (docs/webhooks.md).
# [[webhooks]]
# name = "forge"                   # the sender delivers to https://HUB/webhooks/forge
# sender = "gitea"                 # gitea, forgejo, gitlab, alertmanager, standard; other = say all by keys
# secret_files = ["forge-secret"]  # what the sender signs with; each of several is valid
# workflow = "tests"               # a workflow of the machines
# events = ["push", "pull_request"]

# A GitHub App of your own (docs/github.md): write the rules, then `dispatchd hub github setup`.
# [github]
# public_url = "https://hub.example.org"
# [[github.rules]]
# name = "tests"                   # the check that GitHub shows
# workflow = "ci"                  # a workflow of the machines
# repositories = ["acme/shop"]
# events = ["pull_request", "push"]
"""


@frozen(kw_only=True)
class Made:
    """A new hub."""

    settings: Settings
    public_key: str
    fingerprint: str


def init(folder: Path, *, listen: str, database_url: str, license_id: str) -> Made:
    """Make a hub in a folder. Its configuration comes last, so that a call that was killed can be made again.

    Raises:
        UsageError: The folder has a hub already.
        FolderUnusable: The folder can't be written.
    """
    file = folder / FILE
    text = _TEMPLATE.format(
        listen=toml_text.quoted(listen),
        database_url=toml_text.quoted(database_url),
        license_id=toml_text.quoted(license_id),
    )
    cannot = f"make a hub in {folder}"
    if os.path.lexists(file):
        raise UsageError(cannot=cannot, reason=f"{file} is there already")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = _written_beside(file, text)
    except FileExistsError as error:
        raise UsageError(cannot=cannot, reason="it is no folder") from error
    except OSError as error:
        raise FolderUnusable(folder=folder, error=error) from error
    with ExitStack() as undo:
        undo.callback(aside.unlink, missing_ok=True)
        made = _filled(_settings(aside, file), undo)
        aside.rename(file)
        undo.pop_all()
    return made


def is_unfinished(folder: Path) -> bool:
    """Return whether a folder has nothing but what a call of `init` leaves that was killed."""
    return all(
        each.name in {_aside(Path(FILE)).name, _aside(Path(TOKEN_FILE)).name}
        or each.name == TOKEN_FILE
        or each.name.startswith("hub.db")
        for each in folder.iterdir()
    )


def _settings(aside: Path, file: Path) -> Settings:
    """Return the settings in a file beside the one that they are for.

    Raises:
        ConfigError: They can't be used.
    """
    try:
        return evolve(load(aside), file=file.absolute())
    except ConfigError as error:
        problems = [evolve(problem, file=file) for problem in error.problems]
        raise ConfigError(problems) from error


def _filled(settings: Settings, undo: ExitStack) -> Made:
    """Make the database and the first token of a hub, unless an earlier call has; register in `undo` what removes the token's file."""
    database = Database.open(settings.database_url)
    try:
        tokens, now = TokenStore(database), time.time()  # noqa: TID251  # a person's command, at their time
        if not _has_token(settings.token_file, tokens):
            token = new_secret("token")
            # Several hubs on one database have a first token each.
            admin = Token(
                name=f"init-{uuid4().hex[:8]}",
                token_hash=hashed(token),
                scopes=ADMIN,
                created_at=now,
            )
            tokens.add(admin)
            written = _written_beside(settings.token_file, token + "\n")
            written.rename(settings.token_file)
            undo.callback(settings.token_file.unlink, missing_ok=True)
        MachineStore(database).add_license(settings.license_id, now=now)
        public = public_key(tokens)
    finally:
        database.close()
    return Made(settings=settings, public_key=public, fingerprint=fingerprint(public))


def _has_token(file: Path, tokens: TokenStore) -> bool:
    """Return whether a file holds a token of the hub.

    Raises:
        FileExistsError: It holds something else.
    """
    if not os.path.lexists(file):
        return False
    if tokens.find(hashed(file.read_text("utf-8", "replace").strip())) is None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file))
    return True


def _aside(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def _written_beside(file: Path, text: str) -> Path:
    """Write what is to be a file beside it, and return where."""
    aside = _aside(file)
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with ExitStack() as undo:
        undo.callback(aside.unlink, missing_ok=True)
        with os.fdopen(fd, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(fd)
        undo.pop_all()
    return aside
