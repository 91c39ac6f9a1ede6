"""Check of a machine: everything that has to work for it to take jobs, each with what to do about it."""

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio
import httpx
from anyio import to_thread

from dispatchd.agent.config.load import Config
from dispatchd.agent.control.calls import SOCKET
from dispatchd.agent.control.client import ask
from dispatchd.agent.domain import runnable_workflows
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.runnable_workflows import Machine
from dispatchd.agent.endpoint.client import DispatchEndpoint
from dispatchd.agent.endpoint.open import (
    check_outward,
    needs_of,
    open_caller,
    transport_settings,
)
from dispatchd.agent.engines.checked import checked
from dispatchd.agent.engines.local.cgroup import Cgroups
from dispatchd.agent.engines.local.checkout import try_way
from dispatchd.agent.engines.local.engine import LocalEngine, inherited
from dispatchd.agent.engines.local.git_way import GitWay
from dispatchd.agent.engines.local.walls import Walls
from dispatchd.agent.identity import identity
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import (
    ConfigError,
    IdentityError,
    JobClosed,
    NotReachable,
    RemoteError,
    UsageError,
)
from dispatchd.linux.clock import SteadyClock
from dispatchd.linux.prerequisites import prerequisites
from dispatchd.linux.untrusted_files import is_file
from dispatchd.protocol.finding import Finding, Level
from dispatchd.protocol.job import Job
from dispatchd.protocol.times import duration
from dispatchd.redaction.known_secrets import KnownSecrets

_FEW_INODES: Final = 10_000
"""Free inodes below which a warning is due (count): a run needs about ten."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_ANSWER_S: Final = 3.0
"""Time limit of the daemon's answer (seconds)."""

_CONNECTIONS: Final = httpx.Limits(max_connections=2)

PROBE: Final = "dispatchd-doctor"
"""Id of a job that no endpoint has."""


async def check_up(
    config: Config, environment: Mapping[str, str]
) -> AsyncIterator[Finding]:
    """Yield the findings, in the order in which things have to work."""
    yield Finding("config", Level.OK, f"{config.file} is good")
    needs = needs_of(config, environment)
    for finding in (*_on_disk(config, environment), *prerequisites(needs)):
        yield finding
    for finding in await to_thread.run_sync(_of_the_machine, config, environment):
        yield finding
    try:
        check_outward(config, environment)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("config", Level.FAILED, str(problem))
        return
    async for finding in _outward(config, environment):
        yield finding
    async for finding in _checkouts(config, environment):
        yield finding
    async for finding in _engines(config, environment):
        yield finding


async def _engines(
    config: Config, environment: Mapping[str, str]
) -> AsyncIterator[Finding]:
    """Yield whether each engine answers."""
    for name, entry in config.engines.items():
        answers, message = await checked(name, entry, config, environment)
        level = Level.OK if answers else Level.FAILED
        yield Finding("engine", level, message)


def _of_the_machine(config: Config, environment: Mapping[str, str]) -> list[Finding]:
    """Return what the running daemon finds, and what is found from here alone. Blocks."""
    machine = Machine(
        controllers=_controllers(), blocked_reason=_blocked_reason_of(environment)
    )
    daemons = _daemon(config)
    known = {finding.message for finding in daemons}
    warnings = runnable_workflows.warnings(config.workflows, machine)
    others = [warning for warning in warnings if warning not in known]
    return [*daemons, *(Finding("limits", Level.WARNING, each) for each in others)]


def _daemon(config: Config) -> list[Finding]:
    """Return what a running daemon says of itself: its unit may forbid what is possible from here. Blocks."""
    folder = config.control_folder
    with suppress(PermissionError):
        if not os.path.lexists(folder / SOCKET):
            return [Finding("daemon", Level.OK, "it isn't running")]
    try:
        status: Any = ask(
            folder,
            "GET",
            "/v1/status",
            cannot="ask the daemon",
            timeout_s=_ANSWER_S,
            state=config.state_folder,
        )
    except (NotReachable, UsageError) as error:
        return [Finding("daemon", Level.WARNING, str(error))]
    running = f"version {status['version']} is running, pid {status['pid']}"
    said = [*status["problems"], *status["warnings"]]
    return [
        Finding("daemon", Level.OK, running),
        *(Finding("daemon", Level.WARNING, each) for each in said),
    ]


def _blocked_reason_of(environment: Mapping[str, str]) -> Callable[[Isolation], str]:
    return LocalEngine.here(environment, KnownSecrets()).blocked_reason


def _controllers() -> tuple[str, ...]:
    """Return the limits that can be set from here; those of the service's own unit are in `dispatchd status`."""
    cgroups = Cgroups.find(enable=False)
    return () if cgroups is None else cgroups.controllers


def _on_disk(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    folder = config.state_folder
    yield _folder(folder)
    if folder.is_dir():
        yield from _space(config)
    secret = config.secret_file
    if secret is not None:
        yield (
            Finding(
                "secret",
                Level.WARNING,
                f"{secret} is open to other users: chmod 600 {secret}",
            )
            if config.secret_is_exposed
            else Finding("secret", Level.OK, f"{secret} is this user's alone")
        )
    yield from _isolation(config, environment)
    missing = [
        f"workflows.{name}: there is no {workflow.program}"
        for name, workflow in config.workflows.items()
        if not is_file(workflow.program)
    ]
    for message in missing:
        yield Finding("workflows", Level.WARNING, f"{message}; its jobs would fail")
    if not config.workflows:
        message = "none is configured, so every job would be rejected"
        yield Finding("workflows", Level.WARNING, message)
    elif not missing:
        yield Finding("workflows", Level.OK, ", ".join(sorted(config.workflows)))


def _isolation(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    walls = Walls.here(environment, (config.state_folder, config.control_folder))
    weakness = walls.weakness
    if weakness:
        message = f"{walls.description}, but {weakness}; jobs from forks are refused (docs/security.md)"
        yield Finding("isolation", Level.WARNING, message)
    else:
        yield Finding("isolation", Level.OK, walls.description)
    for name, workflow in sorted(config.workflows.items()):
        if workflow.isolation is Isolation.NONE:
            message = f"workflows.{name}: its runs may do what the daemon's user may (isolation)"
            yield Finding("isolation", Level.WARNING, message)


def _folder(folder: Path) -> Finding:
    if not folder.is_dir():
        parent = next(ancestor for ancestor in folder.parents if ancestor.exists())
        if os.access(parent, os.W_OK):
            message = f"{folder} will be created at the first start"
            return Finding("state folder", Level.OK, message)
        message = f"{folder} can't be created: give this user write access to {parent}"
        return Finding("state folder", Level.FAILED, message)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        message = (
            f"{folder} can't be written: give it to the user of the daemon (chown)"
        )
        return Finding("state folder", Level.FAILED, message)
    if folder.stat().st_mode & _OTHERS:
        message = f"{folder} is open to other users, and job files are private: chmod 700 {folder}"
        return Finding("state folder", Level.WARNING, message)
    return Finding("state folder", Level.OK, f"{folder} is this user's alone")


def _space(config: Config) -> Iterator[Finding]:
    disk = os.statvfs(config.state_folder)
    free = disk.f_bavail * disk.f_frsize
    message = f"{free >> 20} MiB free"
    if free < config.min_free_bytes:
        message += f", and nothing is pulled below {config.min_free_bytes >> 20} MiB (store.min_free_mib): make room"
        yield Finding("disk space", Level.FAILED, message)
    else:
        yield Finding("disk space", Level.OK, message)
    # Some file systems have no fixed number of inodes, and report 0.
    if disk.f_files and disk.f_favail < _FEW_INODES:
        message = f"only {disk.f_favail} inodes are free: remove small files"
        yield Finding("inodes", Level.WARNING, message)


async def _outward(
    config: Config, environment: Mapping[str, str]
) -> AsyncIterator[Finding]:
    proxy = transport_settings(config, environment).used_proxy()
    yield Finding(
        "proxy",
        Level.OK,
        "none" if proxy is None else f"{proxy.at} (from {proxy.source})",
    )
    known, clock = KnownSecrets(), SteadyClock.open(config.state_folder)
    async with open_caller(config, environment, clock, _CONNECTIONS) as caller:
        who = identity(
            config, caller, known, clock, environment, BugFence(), lambda: None
        )
        if who.license is not None:
            async with anyio.create_task_group() as tasks:
                await tasks.start(who.license.run)
                with anyio.move_on_after(config.cloud.call_timeout_s):
                    await who.license.looked.wait()
                tasks.cancel_scope.cancel()
            yield _license(who.license.blocked_reason)
        endpoint = DispatchEndpoint(
            caller=caller,
            credentials=who.credentials,
            call_timeout_s=config.cloud.call_timeout_s,
        )
        yield await _endpoint(endpoint, config.cloud.url, clock)
        yield _clock(endpoint.clock_skew, caller.skew.seconds)


async def _checkouts(
    config: Config, environment: Mapping[str, str]
) -> AsyncIterator[Finding]:
    """Check git's connection to every server that workflows check out from."""
    way = GitWay.of(config, environment)
    urls = {
        workflow.checkout.url
        for workflow in config.workflows.values()
        if workflow.checkout
    }
    for url in sorted(urls):
        proxy = way.used_proxy(url)
        how = "" if proxy is None else f" by {proxy.at} (from {proxy.source})"
        with TemporaryDirectory(prefix="dispatchd-doctor-") as scratch:
            problem = await try_way(
                url,
                way,
                env=inherited(environment),
                scratch=Path(scratch),
                within_s=config.cloud.call_timeout_s,
            )
        if problem:
            message = f"git doesn't reach {url}{how}: {problem}"
            yield Finding("checkout", Level.FAILED, message)
        else:
            yield Finding("checkout", Level.OK, f"git reaches {url}{how}")


def _license(blocked_reason: str) -> Finding:
    if blocked_reason:
        return Finding("license", Level.FAILED, blocked_reason)
    return Finding("license", Level.OK, "good")


async def _endpoint(
    endpoint: DispatchEndpoint, url: str, clock: SteadyClock
) -> Finding:
    """Ask about a job that doesn't exist: the call reaches the endpoint, and unlike a pull takes no work."""
    probe = TrackedJob.received(Job(id=PROBE), now=clock.now())
    try:
        await endpoint.accept(probe)
    except JobClosed:
        return Finding("endpoint", Level.OK, f"{url} answers, and knows this machine")
    except IdentityError as error:
        message = f"{url} rejected this machine's credentials: {error.reason}"
        return Finding("endpoint", Level.FAILED, message)
    except RemoteError as error:
        return Finding("endpoint", Level.FAILED, f"{url}: {error.reason}")
    return Finding("endpoint", Level.OK, f"{url} answers")


def _clock(skew: str, seconds: float | None) -> Finding:
    if skew:
        return Finding("clock", Level.WARNING, f"{skew}: set it (NTP)")
    if seconds is None:
        message = "not compared: the endpoint has not said what time it is"
        return Finding("clock", Level.WARNING, message)
    return Finding("clock", Level.OK, f"{duration(abs(seconds))} from the endpoint's")
