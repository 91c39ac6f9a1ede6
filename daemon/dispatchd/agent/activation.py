"""Activation by hand, and the license on disk, for commands without a daemon."""

import socket
from collections.abc import Mapping

import httpx
from anyio import to_thread
from attrs import evolve

from dispatchd.agent.config.load import Config
from dispatchd.agent.control.license import license_document
from dispatchd.agent.endpoint.open import check_outward, open_caller
from dispatchd.agent.identity import license_finder
from dispatchd.agent.license.client import LicenseEndpoint
from dispatchd.agent.license.finder import hash_of
from dispatchd.errors import LicenseInvalid, NotReachable, RemoteError
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.job import Json
from dispatchd.protocol.license import Activation, Claims
from dispatchd.redaction.known_secrets import KnownSecrets

_CONNECTIONS = httpx.Limits(max_connections=1)


async def activate_key(
    config: Config, environment: Mapping[str, str], key: str
) -> Claims:
    """Activate a license key on this machine, and store the activation.

    Raises:
        NotReachable: The endpoint doesn't activate it, or returns something that this machine doesn't accept.
        ConfigError: The connection settings are invalid.
        StoreUnavailable: The activation can't be stored.
    """
    check_outward(config, environment)
    finder = license_finder(config, KnownSecrets(), environment)
    server_id, _ = finder.identity.server_id()
    try:
        token, secret = await _activated(config, environment, key, server_id)
        claims = finder.verify(token)
    except RemoteError as error:
        raise NotReachable(cannot="activate", reason=error.reason) from error
    except LicenseInvalid as error:
        raise NotReachable(cannot="activate", reason=str(error)) from error
    now = SteadyClock.open(config.state_folder).wall()
    activation = Activation(
        key_hash=hash_of(key),
        server_id=server_id,
        token=token,
        heartbeat_secret=secret,
        fingerprint=finder.fingerprint,
        activated_at=now,
        refreshed_at=now,
    )
    await to_thread.run_sync(finder.identity.keep, activation)
    return claims


def license_on_disk(config: Config, environment: Mapping[str, str]) -> dict[str, Json]:
    """Return the license as it is on disk, without a call to the endpoint, in the form of the control socket."""
    finder = license_finder(config, KnownSecrets(), environment)
    server_id, _ = finder.identity.server_id()
    status = finder.find(server_id).status
    if status.claims is not None:
        now = SteadyClock.open(config.state_folder).wall()
        status = evolve(status, validity=status.claims.validity(now))
    return license_document(status, server_id)


async def _activated(
    config: Config, environment: Mapping[str, str], key: str, server_id: str
) -> tuple[str, str]:
    clock = SteadyClock.open(config.state_folder)
    async with open_caller(config, environment, clock, _CONNECTIONS) as caller:
        endpoint = LicenseEndpoint(caller, config.cloud.call_timeout_s)
        return await endpoint.activate(key, server_id, socket.gethostname())
