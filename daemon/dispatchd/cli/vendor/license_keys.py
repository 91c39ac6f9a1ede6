"""`dispatchd license keygen`, `issue`, `inspect`: a vendor's side of licenses."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Final

import click

from dispatchd.cli.options import (
    finite,
    in_seconds,
    json_option,
    print_json,
    read_text,
)
from dispatchd.cli.terminal import echo
from dispatchd.errors import (
    FolderUnusable,
    LicenseInvalid,
    StoreUnavailable,
    UsageError,
)
from dispatchd.protocol import toml_text
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import ago, iso, utc

if TYPE_CHECKING:
    from dispatchd.protocol.license import Claims

_OTHERS: Final = 0o077
"""Permissions of everybody but the owner."""

_YEAR_S: Final = 365 * 86_400.0
"""Time for which a license is valid unless another one is said (seconds)."""

_JOIN_KEY: Final = "dhub1."

_IS_THERE: Final = "there is such a file, and a key is never replaced"

_LONGEST_KEY: Final = 8 * 1024
"""Longest license key (characters): a machine reads 16 KiB of the token that an endpoint makes of it."""

_path = click.Path(path_type=Path)
_path_or_stdin = click.Path(path_type=Path, allow_dash=True)


@click.command()
@click.argument("file", type=_path, default="vendor.key")
def keygen(file: Path) -> None:
    """Make the key that signs licenses.

    FILE is the private key (mode 0600), FILE.pub the public one, which machines pin. No file is replaced. Keep the private key off customers' machines; a copy of it belongs into a safe.
    """
    from dispatchd.network.signing_key import fingerprint, new_key, public_key_of

    if not file.name or file.is_dir():
        raise UsageError(cannot=f"make {file}", reason="name a file, not a folder")
    private = new_key()
    public = public_key_of(private)
    public_file = file.with_name(file.name + ".pub")
    if os.path.lexists(file):
        raise UsageError(cannot=f"make {file}", reason=_IS_THERE)
    # First: a private key alone would be of no use, and in the way of the next one.
    _write_new(public_file, public, 0o644)
    try:
        _write_new(file, private, 0o600)
    except BaseException:
        # Also Ctrl-C.
        public_file.unlink(missing_ok=True)
        raise
    echo(f"private key  {file}   (signs; never leaves you)")
    echo(f"public key   {public_file}   (SHA-256 {fingerprint(public)})")
    echo(
        f"\nIn the configuration of machines:\n  [license]\n  public_keys = [{toml_text.quoted(public_file.name)}]"
    )


@click.command()
@click.option(
    "--key-file", type=_path, required=True, help="Private key, of license keygen."
)
@click.option(
    "--id", "license_id", default="", help="Id of the license.  [default: a new UUID]"
)
@click.option("--plan", default="", help="What was bought, for people.")
@click.option("--feature", "features", multiple=True, help="A feature; repeatable.")
@click.option(
    "--valid",
    "valid_s",
    callback=in_seconds,
    help="Time until it expires, such as 30d.  [default: 365d]",
)
@click.option("--forever", is_flag=True, help="It never expires.")
@click.option(
    "--grace-days",
    type=click.FloatRange(0, 3650),
    callback=finite,
    help="Days for which it counts after that.  [default: 14]",
)
@click.option("--warning", default="", help="Text that `dispatchd license` shows.")
@click.option(
    "-o",
    "--output",
    type=_path,
    help="New file for the license key (mode 0600).  [default: stdout]",
)
def issue(
    key_file: Path,
    license_id: str,
    plan: str,
    features: tuple[str, ...],
    valid_s: float | None,
    grace_days: float | None,
    warning: str,
    output: Path | None,
    *,
    forever: bool,
) -> None:
    """Sign a license key for a customer.

    The customer activates it on each machine (`dispatchd activate`); your endpoint exchanges it for the machine's own token.
    As license.jwt in the state folder it proves a license without an endpoint, and gives no credentials.
    """
    if forever and valid_s is not None:
        reason = "say either --forever or --valid"
        raise UsageError(cannot="issue the license", reason=reason)
    valid_s = _YEAR_S if valid_s is None else valid_s
    private = _private_key(key_file)
    from uuid import uuid4

    from dispatchd.network.signing_key import signed
    from dispatchd.protocol.license import VERSION, claims_from

    now = _now()
    claims: dict[str, Json] = {
        "jti": license_id or str(uuid4()),
        "cv": VERSION,
        "plan": plan,
        "features": list(features),
        "iat": int(now.timestamp()),
        "nbf": int(now.timestamp()),
        **({} if forever else {"exp": int(now.timestamp() + valid_s)}),
        **({} if grace_days is None else {"grace_days": grace_days}),
        **({"wc": warning} if warning else {}),
    }
    try:
        # A machine has to take it.
        claims_from(claims)
        token = signed(claims, private)
        json.dumps(claims, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        reason = "a text in it is not UTF-8"
        raise UsageError(cannot="issue the license", reason=reason) from error
    except (LicenseInvalid, ValueError) as error:
        raise UsageError(cannot="issue the license", reason=str(error)) from error
    if len(token) > _LONGEST_KEY:
        reason = f"it would be longer than {_LONGEST_KEY} characters"
        raise UsageError(cannot="issue the license", reason=reason)
    if output is None:
        click.echo(token)
    else:
        _write_new(output, token + "\n", 0o600)
        expires = "never" if forever else utc(now + timedelta(seconds=valid_s))
        echo(f"issued {claims['jti']} into {output}; expires {expires}")


@click.command()
@click.argument("file", type=_path_or_stdin, default="-")
@click.option(
    "--public-key",
    "public_keys",
    type=_path,
    multiple=True,
    help="File with a public key to check the signature with; repeatable.",
)
@json_option
def inspect(file: Path, public_keys: tuple[Path, ...], *, as_json: bool) -> None:
    """Explain a license or license key, without showing it.

    It is read from FILE (default: stdin). Exit code: 0, or 1 if it has expired, is not valid yet, or none of the public keys has signed it.
    """
    if str(file) == "-" and sys.stdin is not None and sys.stdin.isatty():
        echo("Paste the license, then press Ctrl-D.", err=True)
    text = "".join(read_text(file).split())
    if text.startswith(_JOIN_KEY):
        document = _of_join_key(text)
        is_usable = True
    else:
        claims, signature = _read(text, public_keys)
        document, is_usable = _explained(claims, signature)
    if as_json:
        print_json(document)
    else:
        from dispatchd.cli.screen.table import print_pairs

        print_pairs(
            {
                name.replace("_", " "): ", ".join(map(str, value))
                if isinstance(value, list)
                else str(value)
                for name, value in document.items()
                if name != "expires_at"
            }
        )
    sys.exit(0 if is_usable else 1)


def _read(text: str, public_keys: tuple[Path, ...]) -> "tuple[Claims, str]":
    """Return the claims of a token, and what its signature says; empty if it can't be trusted.

    Raises:
        UsageError: It is no token, or a public key can't be used.
    """
    import jwt

    from dispatchd.agent.endpoint.license_tokens import (
        LARGEST_TOKEN,
        load_keys,
        verify,
    )
    from dispatchd.protocol.license import claims_from

    cannot = "inspect the license"
    try:
        keys = load_keys([str(key.absolute()) for key in public_keys], Path())
    except ValueError as error:
        raise UsageError(cannot=cannot, reason=str(error)) from error
    if len(text) > LARGEST_TOKEN:
        reason = f"it is longer than {LARGEST_TOKEN} characters"
        raise UsageError(cannot=cannot, reason=reason)
    try:
        claims = claims_from(jwt.decode(text, options={"verify_signature": False}))
    except LicenseInvalid as error:
        raise UsageError(cannot=cannot, reason=error.reason) from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        reason = "it is no signed token (JWT); a key of an endpoint's own form says nothing to others"
        raise UsageError(cannot=cannot, reason=reason) from error
    if not keys:
        return claims, "not checked: give --public-key"
    try:
        verify(text, keys)
    except LicenseInvalid as error:
        return claims, f"INVALID: {error.reason}"
    return claims, "valid"


def _explained(claims: "Claims", signature: str) -> tuple[dict[str, Json], bool]:
    """Return what claims say, in the order of the screen, and whether the license counts now."""
    from dispatchd.protocol.license import Validity

    now = _now()
    validity = claims.validity(now)
    is_usable = validity in {Validity.VALID, Validity.GRACE}

    def when(at: datetime | None) -> str:
        if at is None:
            return "never"
        return f"{utc(at)} ({ago((now - at).total_seconds())})"

    kind = (
        "token of an activated machine"
        if claims.activation_id
        else "license key; gives credentials once it is activated"
    )
    document: dict[str, Json] = {
        "license": claims.license_id,
        "kind": kind,
        "signature": signature,
        "state": validity.value,
        "plan": claims.plan,
        "features": list(claims.features),
        "issued": when(claims.issued_at),
        "valid_from": when(claims.not_before or claims.issued_at),
        "expires": when(claims.expires_at),
        "expires_at": "" if claims.expires_at is None else iso(claims.expires_at),
        "grace_until": when(claims.grace_until),
        "activation": claims.activation_id,
        "warning": claims.warning,
    }
    return document, is_usable and not signature.startswith("INVALID")


def _of_join_key(text: str) -> Mapping[str, Json]:
    """Return what a hub's key says, without its secret.

    Raises:
        UsageError: It is cut off.
    """
    from dispatchd.network.enrolment_key import EnrolmentKey
    from dispatchd.network.signing_key import fingerprint

    try:
        key = EnrolmentKey.parse(text)
    except ValueError as error:
        raise UsageError(cannot="inspect the key", reason=str(error)) from error
    return {
        "kind": "key with which one machine joins a hub (dispatchd join)",
        "hub_key": f"SHA-256 {fingerprint(key.public_pem)}",
        "certificate": f"SHA-256 {key.certificate.hex()}" if key.certificate else "",
        "expires": "known to the hub alone; 7 days after it was made",
    }


def _private_key(file: Path) -> str:
    """Return a private key, if nobody else may read its file.

    Raises:
        UsageError: It is none, or others may.
    """
    from dispatchd.network.signing_key import public_key_of

    cannot = f"use {file}"
    text = read_text(file)
    if str(file) != "-" and S_IMODE(file.stat().st_mode) & _OTHERS:
        reason = f"others may read this private key; chmod 600 {file}"
        raise UsageError(cannot=cannot, reason=reason)
    try:
        public_key_of(text)
    except ValueError as error:
        raise UsageError(cannot=cannot, reason=str(error)) from error
    return text


def _write_new(file: Path, content: str, mode: int) -> None:
    """Write a file that must not be there yet.

    Raises:
        UsageError: There is one.
        FolderUnusable: It can't be written; nothing is left of it.
    """
    from dispatchd.agent.store.durable import sync_folder

    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(file, flags, mode)
    except FileExistsError as error:
        raise UsageError(cannot=f"make {file}", reason=_IS_THERE) from error
    except OSError as error:
        raise FolderUnusable(folder=file.parent, error=error) from error
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as opened:
            os.fchmod(fd, mode)
            opened.write(content)
            opened.flush()
            os.fsync(fd)
        # A key that signs must not go with the power.
        sync_folder(file.parent)
    except StoreUnavailable as unavailable:
        file.unlink(missing_ok=True)
        raise FolderUnusable(
            folder=file.parent, error=unavailable.error
        ) from unavailable
    except OSError as error:
        file.unlink(missing_ok=True)
        raise FolderUnusable(folder=file.parent, error=error) from error
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251  # a person's command, which knows no other clock
