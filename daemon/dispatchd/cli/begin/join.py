"""`dispatchd join`: make this machine one of a hub's, by one key that each of the two is known by."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatchd.agent.config.usual import own_file
from dispatchd.cli.brand import brand, branded
from dispatchd.cli.options import config_option, config_path, load_config
from dispatchd.cli.service.places import starter
from dispatchd.cli.service.stamp import State, stamped, state_of, write
from dispatchd.cli.signals import ended_by_signals
from dispatchd.cli.terminal import echo
from dispatchd.drop_ins import drop_in_folder
from dispatchd.errors import NotReachable, RecordUnreadable, UsageError
from dispatchd.network.enrolment_key import EnrolmentKey
from dispatchd.protocol import toml_text
from dispatchd.redaction.escapes import written_out

if TYPE_CHECKING:
    from dispatchd.agent.config.load import Config
    from dispatchd.protocol.license import Activation, Claims

_DROP_IN: Final = "50-join.toml"
_CERTIFICATE: Final = "hub.pem"
_HANDSHAKE_S: Final = 10.0
"""Longest wait for the certificate (seconds)."""

_TEXT: Final = """\
# The hub that this machine has joined, by `dispatchd join`. Read after {config}; what is said here counts.
[cloud]
url = {url}
{ca_file}
[license]
public_keys = [{public_key}]
"""


@click.command()
@config_option
@click.argument("url")
@click.argument("key", default="-")
def join(config_file: Path | None, url: str, key: str) -> None:
    """Join the hub at URL with the KEY that `dispatchd hub machine add` prints.

    The key has the hub's own key and certificate in it: a server that can't prove to be that hub gets nothing. Without
    KEY it is read from a pipe, or asked for. Writes a drop-in beside the configuration, and a first configuration if
    there is none; no file of a person is changed.
    """
    file = _file(config_file)
    enrolment = _parsed(_given(key))
    with ended_by_signals():
        config, claims = join_hub(file, url, enrolment)
    echo(f"joined {url}: license {claims.license_id}")
    _say_next(config, file)


def join_hub(
    file: Path,
    url: str,
    enrolment: EnrolmentKey,
    say: Callable[[str], None] = echo,
) -> "tuple[Config, Claims]":
    """Join a hub: write the drop-in of a configuration file, and activate the key. Say each file.

    If it fails, all files are as before.

    Raises:
        UsageError: The configuration has another identity, or a person edited the drop-in.
        NotReachable: The hub isn't the one of the key, doesn't take it, or can't be reached.
        ConfigError: The configuration can't be used.
    """
    environment = dict(os.environ)  # noqa: TID251  # the command line is where the environment comes in
    with ExitStack() as undo:
        for path, content in _planned(file, url, enrolment).items():
            _write(path, content, undo, say)
        config = load_config(file)
        if config.secret_file is not None:
            reason = f"{file} has an identity of its own: take license_id, server_id and the secret out of [cloud]"
            raise UsageError(cannot=f"join {url}", reason=reason)
        _require_counts(config, url, enrolment)
        certificate = drop_in_folder(file) / _CERTIFICATE
        if enrolment.certificate:
            pem = _proven(config, enrolment, environment)
            _write(certificate, pem, undo, say)
        before = _stored(config)
        try:
            claims = _activated(config, environment, enrolment.secret)
        except BaseException:
            # A signal may come right after it was stored. The files belong to the activation.
            if _stored(config) != before:
                undo.pop_all()
            raise
        undo.pop_all()
    return config, claims


def _given(key: str) -> str:
    if key != "-":
        return key
    if sys.stdin is not None and not sys.stdin.isatty():
        return sys.stdin.read()
    return str(click.prompt("Key", hide_input=True, err=True))


def _parsed(text: str) -> EnrolmentKey:
    try:
        return EnrolmentKey.parse(text.removeprefix("\ufeff"))
    except ValueError as error:
        reason = f"{error}; a key of an older hub is for `dispatchd activate`"
        raise UsageError(cannot="use the key", reason=reason) from error


def _file(config_file: Path | None) -> Path:
    """Return the configuration file to join by: for a user without one, and without root, their own."""
    found = config_path(config_file)
    if config_file is None and os.geteuid() != 0 and not os.access(found, os.W_OK):
        found = own_file(brand())
    return found.absolute()


def _planned(file: Path, url: str, enrolment: EnrolmentKey) -> Mapping[Path, str]:
    """Return the files to write, with their content, in this order.

    Raises:
        UsageError: A person has edited the drop-in.
    """
    folder = drop_in_folder(file)
    text = branded(_TEXT).format(
        config=written_out(file.name),
        url=toml_text.quoted(url.rstrip("/")),
        ca_file=f'ca_file = "{folder.name}/{_CERTIFICATE}"\n'
        if enrolment.certificate
        else "",
        public_key=toml_text.quoted(enrolment.public_pem),
    )
    if state_of(folder / _DROP_IN, text) is State.EDITED:
        reason = f"a person edited {folder / _DROP_IN}; move it away"
        raise UsageError(cannot=f"join {url}", reason=reason)
    first = {} if os.path.lexists(file) else {file: starter(file)}
    return {**first, folder / _DROP_IN: stamped(text)}


def _write(
    file: Path, content: str, undo: ExitStack, say: Callable[[str], None]
) -> None:
    """Write a file; register in `undo` how to put back what was there."""
    before = file.read_text("utf-8") if file.exists() else None
    if before != content:
        undo.callback(_put_back, file, before)
        write(file, content)
        say(f"{'wrote' if before is None else 'replaced':<9} {file}")


def _put_back(file: Path, before: str | None) -> None:
    if before is not None:
        write(file, before)
        echo(f"restored  {file}")
        return
    file.unlink(missing_ok=True)
    echo(f"removed   {file}")
    with suppress(OSError):
        file.parent.rmdir()


def _require_counts(config: "Config", url: str, enrolment: EnrolmentKey) -> None:
    """Check that no drop-in after ours has another hub: that one would be given the key.

    Raises:
        UsageError: One has.
    """
    ca_file = f"{drop_in_folder(config.file).name}/{_CERTIFICATE}"
    other = {
        "cloud.url": config.cloud.url.rstrip("/") != url.rstrip("/"),
        "cloud.ca_file": bool(enrolment.certificate)
        and config.cloud.ca_file != ca_file,
        "license.public_keys": [*config.license.public_keys] != [enrolment.public_pem],
    }
    for key in (key for key, is_other in other.items() if is_other):
        reason = f"a file that is read after {_DROP_IN} in {drop_in_folder(config.file)} sets {key}; take it out there"
        raise UsageError(cannot=f"join {url}", reason=reason)


def _proven(
    config: "Config", enrolment: EnrolmentKey, environment: Mapping[str, str]
) -> str:
    """Return the hub's certificate (PEM), if it is the one in the key. Nothing is sent to the server.

    Raises:
        NotReachable: The server has another one, or none.
    """
    import ssl

    from dispatchd.agent.endpoint.open import transport_settings
    from dispatchd.network.proxies import parsed, port_of
    from dispatchd.network.tls_files import shown_certificate, tunnel_of

    url, cannot = parsed(config.cloud.url), f"join {config.cloud.url}"
    if url.scheme != "https":
        reason = "the key is for a hub with TLS; use its https address"
        raise NotReachable(cannot=cannot, reason=reason)
    try:
        proxy = transport_settings(config, environment).used_proxy()
        through = None if proxy is None else tunnel_of(proxy)
        der = shown_certificate(url.host, port_of(url), through, _HANDSHAKE_S)
    except (OSError, ValueError, IndexError) as error:
        raise NotReachable(cannot=cannot, reason=f"no TLS there: {error}") from error
    if not compare_digest(sha256(der).digest(), enrolment.certificate):
        reason = (
            f"its certificate (SHA-256 {sha256(der).hexdigest()}) is not the one in the key "
            f"({enrolment.certificate.hex()}): another server answers, or the hub has a new certificate; "
            "then get a new key by `dispatchd hub machine rotate`. Nothing was sent"
        )
        raise NotReachable(cannot=cannot, reason=reason)
    return ssl.DER_cert_to_PEM_cert(der)


def _activated(
    config: "Config", environment: Mapping[str, str], secret: str
) -> "Claims":
    import anyio

    from dispatchd.agent.activation import activate_key
    from dispatchd.cli.agent.as_owner import as_owner_of
    from dispatchd.linux.log import silence

    silence()
    with as_owner_of(config.state_folder):
        return anyio.run(activate_key, config, environment, secret)


def _stored(config: "Config") -> "Activation | None":
    """Return the activation that is stored; None for none that can be read."""
    from dispatchd.agent.store.identity import IdentityStore

    with suppress(RecordUnreadable):
        return IdentityStore(config.state_folder).activation()
    return None


def _say_next(config: "Config", file: Path) -> None:
    from dispatchd.cli.agent.license import tell_daemon

    if tell_daemon(config):
        echo("\nNext: restart the daemon that runs; it uses the address of before.")
    else:
        echo(
            f"\nNext:\n  edit {file}   # what this machine is to do\n"
            f"  dispatchd run --config {file}   # or as a service: dispatchd service install --now"
        )
