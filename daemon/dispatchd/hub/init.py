"""Set-up of a new hub by `dispatchd hub init`: a configuration, a database with a signing key, and the first token."""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from uuid import uuid4

from attrs import frozen

from dispatchd.errors import FolderUnusable, UsageError
from dispatchd.hub.auth.hashing import hashed, new_secret
from dispatchd.hub.auth.license_signing_key import fingerprint, public_key
from dispatchd.hub.config.load import FILE, Settings, load
from dispatchd.hub.domain.model import Token
from dispatchd.hub.domain.scopes import ADMIN
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.tokens import TokenStore

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

[logs]
# folder = "logs"                  # shared, where several hub processes use one database
# days = 14                        # how long the log of a job is kept
# job_mib = 256                    # how large all logs of one job may be together

[artifacts]
# folder = "artifacts"             # shared, where several hub processes use one database
# days = 14                        # how long the artifacts of a job are kept
# job_mib = 1024                   # how large all artifacts of one job may be together; 0 keeps none
# file_mib = 512                   # how large one of them may be

# A GitHub App of your own (docs/github.md): write the rules, then `dispatchd hub github setup`.
# [github]
# public_url = "https://hub.example.org"
# app_id = 4711                    # this and the files come from `setup`
# private_key_file = "github-app.pem"
# webhook_secret_files = ["github-webhook-secret"]
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
    """Make a hub in a folder.

    Raises:
        UsageError: The folder has a hub already.
        FolderUnusable: The folder can't be written.
    """
    file = folder / FILE
    text = _TEMPLATE.format(
        listen=_quoted(listen),
        database_url=_quoted(database_url),
        license_id=_quoted(license_id),
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(file, text)
    except FileExistsError as error:
        is_folder = folder.is_dir()
        reason = f"{file} is there already" if is_folder else "it is no folder"
        raise UsageError(cannot=f"make a hub in {folder}", reason=reason) from error
    except OSError as error:
        raise FolderUnusable(folder=folder, error=error) from error
    with ExitStack() as undo:
        # A failed try removes the files that would prevent a second one.
        undo.callback(file.unlink, missing_ok=True)
        made = _filled(load(file), undo)
        undo.pop_all()
    return made


def _filled(settings: Settings, undo: ExitStack) -> Made:
    """Make the database and the first token of a hub; register the removal of the token's file in `undo`."""
    database = Database.open(settings.database_url)
    try:
        tokens, now = TokenStore(database), time.time()  # noqa: TID251  # a person's command, at their time
        token = new_secret("token")
        # Several hubs on one database have a first token each.
        admin = Token(
            name=f"init-{uuid4().hex[:8]}",
            token_hash=hashed(token),
            scopes=ADMIN,
            created_at=now,
        )
        tokens.add(admin)
        _write(settings.token_file, token + "\n")
        undo.callback(settings.token_file.unlink, missing_ok=True)
        MachineStore(database).add_license(settings.license_id, now=now)
        public = public_key(tokens)
    finally:
        database.close()
    return Made(settings=settings, public_key=public, fingerprint=fingerprint(public))


def _quoted(text: str) -> str:
    # TOML takes a string of JSON's (TOML 1.0, basic strings).
    return json.dumps(text, ensure_ascii=False)


def _write(file: Path, text: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with ExitStack() as undo:
        # A part of it would keep a second try from being made.
        undo.callback(file.unlink, missing_ok=True)
        with os.fdopen(fd, "w", encoding="utf-8") as opened:
            opened.write(text)
        undo.pop_all()
