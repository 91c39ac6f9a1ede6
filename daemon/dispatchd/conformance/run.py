"""A whole trial of an endpoint: the connection, the machine's activation, the scenes."""

from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
from attrs import frozen

from dispatchd import __version__
from dispatchd.conformance.caller import Caller, Identity, TrialEnds
from dispatchd.conformance.hooks import Hooks
from dispatchd.conformance.machine import Machine
from dispatchd.conformance.record import Record
from dispatchd.conformance.trial import Trial
from dispatchd.errors import ContractViolation, NotReachable
from dispatchd.network.http_headers import no_cookies
from dispatchd.network.trust import client_context, context_without_tls
from dispatchd.protocol import json_text

_LARGEST_TOKEN: Final = 16 * 1024
"""Largest license token that is read (characters)."""


@frozen(kw_only=True)
class Settings:
    """Endpoint of a trial, and the terms of the trial. `hooks` makes the hooks, given the connection."""

    url: str
    ca_file: Path | None = None
    hooks: Callable[[httpx.AsyncClient], Hooks]
    identity: Identity | None = None
    """The machine's identity; None: `key` is activated."""
    key: str = ""
    """License key; a secret."""
    call_timeout_s: float = 10.0
    patience_s: float = 5.0

    @property
    def longest_s(self) -> float:
        """Longest time of a whole trial (seconds): 30 calls may take all of their time."""
        return 30 * self.call_timeout_s + 3 * self.patience_s


async def run_trial(settings: Settings) -> Record:
    """Return the record of a trial.

    Raises:
        NotReachable: Nothing answers, or the key is not activated.
    """
    record, name = Record(), f"conformance-{uuid4().hex[:12]}"
    async with _connection(settings) as http:
        caller = Caller(
            http=http, record=record, call_timeout_s=settings.call_timeout_s
        )
        identity = settings.identity or await _activated(caller, settings.key, name)
        hooks = settings.hooks(http)
        machine = Machine(
            caller=caller,
            identity=identity,
            submits=hooks.submits,
            name=name,
            record=record,
        )
        trial = Trial(
            machine=machine,
            hooks=hooks,
            patience_s=settings.patience_s,
            longest_s=settings.longest_s,
        )
        await trial.play()
    if all(answer.fault for answer in record.answers.values()):
        faults = [answer.fault for answer in record.answers.values()]
        reason = faults[0] if faults else record.ended
        raise NotReachable(cannot=f"judge {settings.url}", reason=reason)
    return record


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Connect to the endpoint directly: no proxy and no variable of the environment counts.

    Raises:
        NotReachable: The CA file can't be used.
    """
    is_plain = settings.url.startswith("http:")
    try:
        context = (
            context_without_tls() if is_plain else client_context(settings.ca_file)
        )
    except OSError as error:
        reason = f"{settings.ca_file}: {error.strerror or error}"
        raise NotReachable(cannot="use --ca-file", reason=reason) from error
    async with httpx.AsyncClient(
        base_url=settings.url,
        verify=context,
        trust_env=False,
        timeout=None,  # noqa: S113  # each call has a deadline of its own
        cookies=no_cookies(),
        headers={"User-Agent": f"dispatchd-conformance/{__version__}"},
    ) as http:
        yield http


async def _activated(caller: Caller, key: str, server_id: str) -> Identity:
    """Return the identity that a license key is exchanged for.

    Raises:
        NotReachable: It isn't exchanged.
    """
    body = {
        "key": key,
        "server_id": server_id,
        "machine_name": "conformance",
        "client_version": __version__,
    }
    with suppress(TrialEnds):
        await caller.license("activate", "activate", dict(body))
    answer = caller.record.answers["activate"]
    problem = answer.fault or (
        answer.breach("activate-reply")
        if answer.is_success
        else f"it was answered with {answer.status}; is it new, and of this endpoint?"
    )
    license_id = "" if problem else _license_id(answer.text("token"))
    if not problem and not license_id:
        problem = "the token in the answer names no license (claim jti)"
    if problem:
        raise NotReachable(cannot="activate the key", reason=problem)
    secret = answer.text("heartbeat_secret")
    return Identity(license_id=license_id, server_id=server_id, secret=secret)


def _license_id(token: str) -> str:
    """Return the claim jti of a token; empty if there is none. Its signature is for machines to check."""
    parts = token.split(".")
    if len(token) > _LARGEST_TOKEN or len(parts) != 3:  # noqa: PLR2004  # RFC 7515, 3.1
        return ""
    try:
        payload = urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)).decode()
        claims = json_text.loads(payload)
    except (ValueError, ContractViolation):
        return ""
    license_id = claims.get("jti") if isinstance(claims, dict) else None
    return license_id if isinstance(license_id, str) else ""
