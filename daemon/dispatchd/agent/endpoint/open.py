"""Connection of this machine to its endpoint, as configured; and its identity there."""

import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx

from dispatchd.agent.config.load import Config
from dispatchd.agent.endpoint.caller import Caller, Clock
from dispatchd.agent.endpoint.plain_client import PlainClient
from dispatchd.agent.endpoint.transport import (
    ReloadingTransport,
    TransportSettings,
    check,
    check_url,
)
from dispatchd.agent.engines.local.git_way import GitWay
from dispatchd.errors import ConfigError, Problem
from dispatchd.linux.prerequisites import Needs
from dispatchd.network.content_coding import ACCEPT_IDENTITY
from dispatchd.network.proxies import (
    MAX_PORT,
    is_loopback,
    parsed,
    port_problem,
    url_problem,
)
from dispatchd.network.tls_files import check_files

_API: Final = re.compile("/api/v[0-9]+/?$")
"""End of the address of the API of a Dagu server."""


def transport_settings(
    config: Config, environment: Mapping[str, str]
) -> TransportSettings:
    """Return the settings of the connection to the endpoint, with absolute paths."""
    cloud, folder = config.cloud, config.file.parent

    def path(name: str) -> Path | None:
        return folder / name if name else None

    return TransportSettings(
        url=cloud.url,
        ca_file=path(cloud.ca_file),
        client_cert_file=path(cloud.client_cert_file),
        client_key_file=path(cloud.client_key_file),
        proxy=cloud.proxy,
        proxy_credentials_file=path(cloud.proxy_credentials_file),
        allow_insecure_host=cloud.allow_insecure_host,
        environment=environment,
    )


@asynccontextmanager
async def open_caller(
    config: Config, environment: Mapping[str, str], clock: Clock, limits: httpx.Limits
) -> AsyncIterator[Caller]:
    """Open the connection to the endpoint for the length of a block."""
    settings = transport_settings(config, environment)
    # The transport reads the proxy variables of the environment, and no others.
    async with ReloadingTransport(
        settings, limits=limits, monotonic=clock.monotonic
    ) as transport:
        http = PlainClient(
            transport,
            httpx.URL(config.cloud.url),
            {"User-Agent": config.brand.user_agent, **ACCEPT_IDENTITY},
        )
        yield Caller(http=http, settings=settings, clock=clock)


def check_outward(config: Config, environment: Mapping[str, str]) -> None:
    """Check the connection settings of the endpoint.

    Raises:
        ConfigError: They can't be used; carries every problem.
    """
    _require(
        config,
        (
            *check(transport_settings(config, environment)),
            *dict.fromkeys(_unusable_checkouts(config, environment)),
            *_unusable_reports(config),
            *_unusable_engines(config),
            *_unusable_keys(config),
        ),
    )


def check_addresses(config: Config) -> None:
    """Check the addresses in a configuration, without a look at any file or variable of this machine.

    Raises:
        ConfigError: One can't be used; carries every problem.
    """
    _require(
        config,
        (
            *check_url(transport_settings(config, {})),
            *_unusable_reports(config),
            *_unusable_engines(config),
        ),
    )


def _require(config: Config, unusable: Sequence[tuple[str, str]]) -> None:
    """Raise if there is anything that can't be used.

    Raises:
        ConfigError: There is; carries every problem.
    """
    problems = [
        Problem(file=config.file_of(key), key=key, expected=expected)
        for key, expected in unusable
    ]
    if problems:
        raise ConfigError(problems)


def _unusable_checkouts(
    config: Config, environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    way = GitWay.of(config, environment)
    for name, workflow in config.workflows.items():
        if workflow.checkout is not None:
            for key, expected in way.problems(workflow.checkout.url):
                of_workflow = "." not in key
                yield (f"workflows.{name}.{key}" if of_workflow else key), expected
    if config.checkout.ca_file:
        for _, expected in check_files(way.ca_file, None, None):
            yield "checkout.ca_file", expected


def _unusable_reports(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for what can't be used of the addresses of metrics and traces."""
    _, _, port = config.metrics.listen.rpartition(":")
    if port and int(port) > MAX_PORT:
        yield "metrics.listen", f"must have a port up to {MAX_PORT}"
    if problem := url_problem(config.telemetry.otlp_url):
        yield "telemetry.otlp_url", problem


def _unusable_engines(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and expectation for the addresses of engines that can't be used."""
    for name, entry in config.engines.items():
        if entry.url and (problem := engine_address_problem(entry.url)):
            yield f"engines.{name}.url", problem


def engine_address_problem(address: str) -> str:
    """Return the reason why an engine's server can't be reached at an address, or safely; empty if it can."""
    try:
        url = parsed(address)
    except httpx.InvalidURL as error:
        return f"must be a URL ({error})"
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
        return "must be an http or https URL with a host, and without credentials"
    if _API.search(url.raw_path.decode()) is None:
        return "must end with the path of the API: /api/v2 of Dagu 1, /api/v1 of Dagu 2"
    if url.scheme == "http" and not is_loopback(url.host):
        return f"must be https: {url.host} is another machine"
    return port_problem(url)


def _unusable_keys(config: Config) -> Iterator[tuple[str, str]]:
    if not config.license.public_keys:
        return
    from dispatchd.agent.endpoint.license_tokens import load_keys  # noqa: PLC0415  # 10 MiB

    try:
        load_keys(config.license.public_keys, config.file.parent)
    except ValueError as error:
        yield "license.public_keys", f"must be public Ed25519 keys: {error}"


def needs_of(config: Config, environment: Mapping[str, str]) -> Needs:
    """Return the needs of a configuration for its machine."""
    return Needs(
        state_folder=config.state_folder,
        search_path=environment.get("PATH") or os.defpath,
        home=environment.get("HOME", ""),
        system_certificates=config.cloud.url.startswith("https:")
        and not config.cloud.ca_file,
        checkout=any(
            workflow.checkout is not None for workflow in config.workflows.values()
        ),
    )
