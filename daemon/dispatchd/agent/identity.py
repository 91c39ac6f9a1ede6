"""Wiring of this machine's identity: from its configuration, or from a license that is refreshed."""

import random
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from attrs import frozen

from dispatchd.agent.config.load import Config
from dispatchd.agent.endpoint.caller import Caller
from dispatchd.agent.endpoint.credentials import (
    ConfiguredCredentials,
    Credentials,
    LicensedCredentials,
)
from dispatchd.agent.license.client import LicenseEndpoint
from dispatchd.agent.license.finder import LicenseFinder, LicenseSources
from dispatchd.agent.license.loop import LicenseLoop
from dispatchd.agent.store.identity import IdentityStore, fingerprint
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.license import Claims
from dispatchd.redaction.known_secrets import KnownSecrets


@frozen(kw_only=True)
class Identity:
    """Credentials for every call, and the loop behind them if they come from a license."""

    credentials: Credentials
    license: LicenseLoop | None


def identity(  # noqa: PLR0913, PLR0917  # wiring has as many parts
    config: Config,
    caller: Caller,
    known: KnownSecrets,
    clock: SteadyClock,
    environment: Mapping[str, str],
    bugs: BugFence,
    on_change: Callable[[], None],
) -> Identity:
    """Wire the identity of this machine."""
    if config.secret_file is not None:
        configured = ConfiguredCredentials(
            known=known,
            license_id=config.cloud.license_id,
            server_id=config.cloud.server_id,
            secret_file=config.secret_file,
        )
        return Identity(credentials=configured, license=None)
    loop = LicenseLoop(
        licensing=LicenseEndpoint(caller, config.cloud.call_timeout_s),
        finder=license_finder(config, known, environment),
        machine_name=socket.gethostname(),
        bugs=bugs,
        clock=clock,
        random=random.Random(),  # noqa: S311  # for jitter, not for secrets
        on_change=on_change,
    )
    licensed = LicensedCredentials(known=known, license=loop)
    return Identity(credentials=licensed, license=loop)


def license_finder(
    config: Config, known: KnownSecrets, environment: Mapping[str, str]
) -> LicenseFinder:
    """Return the finder of this machine's license."""
    return LicenseFinder(
        sources=license_sources(config, environment),
        identity=IdentityStore(config.state_folder),
        fingerprint=fingerprint(),
        verify=verifier(config),
        known=known,
    )


def verifier(config: Config) -> Callable[[str], Claims]:
    """Return the function that checks tokens against the pinned keys, which have been checked before."""
    # Only a machine with a license needs the 10 MiB of cryptography.
    from dispatchd.agent.endpoint.license_tokens import load_keys, verify  # noqa: PLC0415

    keys = load_keys(config.license.public_keys, config.file.parent)
    return lambda token: verify(token, keys)


def license_sources(config: Config, environment: Mapping[str, str]) -> LicenseSources:
    """Return the sources of a license."""
    folder, settings = config.file.parent, config.license
    credentials = environment.get("CREDENTIALS_DIRECTORY", "")
    keys = [folder / settings.key_file] if settings.key_file else []
    if settings.key_credential and credentials:
        keys.append(Path(credentials) / settings.key_credential)
    variable = config.brand.variable
    named = environment.get(variable("LICENSE_FILE"), "")
    files = [Path(named)] if named else []
    return LicenseSources(
        inline_token=environment.get(variable("LICENSE"), ""),
        inline_key=environment.get(variable("LICENSE_KEY"), ""),
        configured_key=partial(_first_text, keys),
        file_token=partial(_first_text, [*files, config.state_folder / "license.jwt"]),
    )


def _first_text(files: list[Path]) -> str:
    """Return the text of the first file that has one; a missing or unreadable file counts as none."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return text
    return ""
