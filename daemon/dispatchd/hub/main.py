"""Process of the hub: routes, a socket, signals. A stop waits for no held poll: they end with 204."""

import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Sized
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import structlog
import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import NotReachable
from dispatchd.hub.api.admin import Admin
from dispatchd.hub.api.artifacts import Artifacts
from dispatchd.hub.api.descriptions import Descriptions
from dispatchd.hub.api.dispatch import Dispatch
from dispatchd.hub.api.errors import HANDLERS
from dispatchd.hub.api.jobs import Jobs
from dispatchd.hub.api.licenses import Licenses
from dispatchd.hub.api.logs import Logs
from dispatchd.hub.api.machines import Machines
from dispatchd.hub.api.probes import Probes
from dispatchd.hub.api.pull import Pull
from dispatchd.hub.api.schedules import ScheduleList
from dispatchd.hub.api.webhooks import Webhooks
from dispatchd.hub.auth.audit import auditing
from dispatchd.hub.config.load import Settings
from dispatchd.hub.connections.accept import Listening
from dispatchd.hub.connections.framing import framed
from dispatchd.hub.connections.limits import within_descriptors
from dispatchd.hub.connections.protocol import WatchedProtocol
from dispatchd.hub.connections.table import Connections
from dispatchd.hub.connections.target import in_origin_form
from dispatchd.hub.connections.tls import CHECKED_EVERY_S, ServerTls
from dispatchd.hub.context import Context
from dispatchd.hub.extension import Extension, Loop
from dispatchd.hub.github.extension import github_extension
from dispatchd.hub.login.people import People
from dispatchd.hub.login.ways import Ways
from dispatchd.hub.login_ways import login_ways
from dispatchd.hub.queue.schedules import Schedules
from dispatchd.hub.queue.submit import Submissions
from dispatchd.hub.storage.sole_server import SoleServer
from dispatchd.hub.web.audit import AuditPage, recording
from dispatchd.hub.web.login import Entry
from dispatchd.hub.web.login_page import LoginPage
from dispatchd.hub.web.pages import Page
from dispatchd.hub.workers.housekeeping import Expiry, Pruning
from dispatchd.linux.systemd import ServiceManager
from dispatchd.protocol.contracts import load_all
from dispatchd.protocol.extensions import CALL_HEADER, HEADER, VERSION

_OF_MACHINES: Final = ("/api/v1/github/dispatch/", "/api/v1/licenses/")
"""Prefixes of the paths of machines' calls (contracts/README.md, calls)."""

NO_WAYS: Final = Ways(by_name={})
"""Ways of a hub where people log in by access tokens alone."""

_BACKLOG: Final = 512
_STOP_S: Final = 10
"""Longest wait of a stop for requests that are still being sent (seconds)."""

_SWEPT_EVERY_S: Final = 1.0
"""Interval of looks for connections that take too long (seconds)."""

_SWITCH_S: Final = 0.001
"""Time for which a thread may keep the interpreter from others (seconds); 5 ms by default."""

_KEEP_ALIVE_S: Final = 75
"""Lifetime of an idle connection (seconds): longer than that of proxies, which is 60 s for nginx's upstreams
(ngx_http_upstream_module, keepalive_timeout). Else a proxy sends a request into a connection that is being closed."""


def application(
    context: Context,
    extension: Extension,
    connections: Sized = (),
    ways: Ways = NO_WAYS,
) -> ASGIApp:
    """Return the hub's application. Blocks.

    Args:
        context: The hub's context.
        extension: The extension, which has routes of its own.
        connections: The open connections, which the metrics count.
        ways: The ways in which people log in, beside access tokens.

    Raises:
        ConfigError: The secret of a webhook can't be used.
    """
    submissions = Submissions(context)
    webhooks = Webhooks.of(context, submissions)
    probes = Probes(context, extension, connections, webhooks.results)
    jobs = Jobs(context, submissions, extension)
    logs, artifacts = Logs(context, jobs), Artifacts(context, jobs)
    entry = Entry(context, People.of(context, ways))
    app = Starlette(
        routes=[
            *Pull(context, extension).routes(),
            *Dispatch(context).routes(),
            *logs.routes(),
            *artifacts.routes(),
            *jobs.routes(),
            *Licenses(context).routes(),
            *Machines(context).routes(),
            *Admin(context, submissions, extension).routes(),
            *ScheduleList(context).routes(),
            *probes.routes(),
            *Descriptions().routes(),
            *Page(context, entry, jobs, logs, artifacts, extension).routes(),
            *LoginPage(entry).routes(),
            *AuditPage(entry).routes(),
            *extension.routes(),
            *webhooks.routes(),
        ],
        exception_handlers=HANDLERS,
    )
    # No call is answered by a redirect: machines don't follow one.
    app.router.redirect_slashes = False
    counted = probes.counting(app)
    return in_origin_form(_marking(framed(auditing(counted, recording(context)))))


def _marking(app: ASGIApp) -> ASGIApp:
    """Return an application whose answers to machines have headers with the contract's version and the call."""
    header = (HEADER.lower().encode(), VERSION.encode())
    call = CALL_HEADER.lower().encode()

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                calls = [pair for pair in scope["headers"] if pair[0] == call]
                shown = [header, *calls[:1]]
                message = {**message, "headers": [*message["headers"], *shown]}
            await send(message)

        is_of_machines = scope.get("path", "").startswith(_OF_MACHINES)
        await app(scope, receive, mark if is_of_machines else send)

    return marked


async def serve(
    context: Context,
    announce: Callable[[int], None],
    manager: ServiceManager,
    signals: AsyncIterator[signal.Signals],
    lock: SoleServer | None = None,
) -> None:
    """Serve until a signal comes.

    Args:
        context: The hub's context.
        announce: Called with the port once connections are accepted.
        manager: Gets the status of the hub.
        signals: Each stops the hub.
        lock: Lock of the database; None for one that several processes may serve.

    Raises:
        NotReachable: The hub can't listen on the address.
        ConfigError: The credentials for GitHub, or the secret of a webhook, can't be used.
    """
    load_all()
    async with AsyncExitStack() as stack:
        # Before the first answer: with an unreadable key the hub must not start.
        extension = await stack.enter_async_context(github_extension(context))
        ways = await stack.enter_async_context(login_ways(context))
        loops: list[Loop] = [Expiry(context).run, Pruning(context, extension).run]
        loops.append(Schedules(context, Submissions(context)).run)
        loops += extension.loops()
        if lock is not None:
            loops.append(partial(lock.keep, context.bugs))
        if manager.watchdog_s:
            loops.append(partial(_feed_watchdog, manager, context.bugs))
        if context.stores.database.is_shared:
            # It imports the driver of PostgreSQL, which SQLite doesn't need.
            from dispatchd.hub.workers.notify import Listener  # noqa: PLC0415

            loops.append(Listener(context=context).run)
        if not context.logs.is_shared:
            structlog.get_logger().warning(
                "logs_not_shared",
                folder=str(context.settings.log_folder),
                hint="hub processes of one database need one folder: share it (logs.folder); until then machines send no logs here",
            )
        if not context.artifacts.is_shared:
            structlog.get_logger().warning(
                "artifacts_not_shared",
                folder=str(context.settings.artifact_folder),
                hint="hub processes of one database need one folder: share it (artifacts.folder); until then machines send no artifacts here",
            )
        if context.settings.is_in_clear:
            structlog.get_logger().warning(
                "plain_http",
                listen=context.settings.listen,
                hint="secrets and tokens go over the network in clear: set tls_cert_file, or listen on 127.0.0.1 behind a proxy",
            )
        served = partial(application, context, extension, ways=ways)
        await _serve(context, served, announce, manager, signals, loops)


async def _serve(
    context: Context,
    served: Callable[[Sized], ASGIApp],
    announce: Callable[[int], None],
    manager: ServiceManager,
    signals: AsyncIterator[signal.Signals],
    loops: Sequence[Loop],
) -> None:
    tls = _tls(context.settings)
    listener = _listen(*context.settings.address)
    limits = context.settings.connections
    connections = Connections(
        within_descriptors(limits.most), limits.silent_per_address, anyio.current_time
    )
    listener.guard(connections, partial(_not_taken, context))
    config = uvicorn.Config(
        served(connections),
        http=partial(  # type: ignore[arg-type]  # it is called like a class
            WatchedProtocol, connections=connections, taken=listener.taken
        ),
        # uvicorn would log a warning for everything that strangers send and that is no HTTP.
        log_level="error",
        access_log=False,
        backlog=_BACKLOG,
        lifespan="off",
        timeout_graceful_shutdown=_STOP_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )

    config.load()
    config.ssl = None if tls is None else tls.context

    def ready() -> None:
        announce(listener.getsockname()[1])
        manager.ready("answering")

    server = _Server(config, connections, ready)
    with listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, context, server, manager, signals)
            tasks.start_soon(_sweep, connections, context.bugs)
            if tls is not None:
                tasks.start_soon(_refresh, tls, context.bugs)
            for loop in loops:
                tasks.start_soon(loop)
            await server.serve(sockets=[listener])
            tasks.cancel_scope.cancel()


class _Server(uvicorn.Server):
    """Server of uvicorn without its signal handling: the hub's own also ends held polls."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._connections, self._ready = connections, ready

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.begin_closing()
        await super().shutdown(sockets)


async def _feed_watchdog(manager: ServiceManager, bugs: BugFence) -> None:
    """Feed the watchdog for as long as this event loop, which answers all requests, runs."""
    every_s = manager.watchdog_s / 3

    async def feed() -> None:
        manager.is_well()
        await anyio.sleep(every_s)

    await bugs.rounds("watchdog", feed, longest_s=every_s)


def favour_the_loop() -> None:
    """Shorten the time for which computing threads and the garbage collector block the event loop."""
    sys.setswitchinterval(_SWITCH_S)
    # Objects that exist now will stay: scanning them for garbage would take tens of milliseconds each time.
    gc.collect()
    gc.freeze()


def _tls(settings: Settings) -> ServerTls | None:
    """Return the hub's TLS, or None for plain HTTP.

    Raises:
        ConfigError: Its files can't be used.
    """
    if not settings.tls_cert_file:
        return None
    key_file = settings.tls_key_file or settings.tls_cert_file
    return ServerTls.of(Path(settings.tls_cert_file), Path(key_file), settings.file)


async def _refresh(tls: ServerTls, bugs: BugFence) -> None:
    """Reload the certificate when it changes."""

    async def refresh() -> None:
        await anyio.sleep(CHECKED_EVERY_S)
        await to_thread.run_sync(tls.refresh)

    await bugs.rounds("tls", refresh, longest_s=CHECKED_EVERY_S)


async def _sweep(connections: Connections, bugs: BugFence) -> None:
    """Close connections that take too long."""
    last = anyio.current_time()

    async def sweep() -> None:
        nonlocal last
        await anyio.sleep(_SWEPT_EVERY_S)
        if anyio.current_time() - last > 2 * _SWEPT_EVERY_S:
            # The process was stopped or the machine asleep: read first what has arrived meanwhile.
            await anyio.sleep(_SWEPT_EVERY_S / 10)
        connections.sweep()
        last = anyio.current_time()

    await bugs.rounds("connections", sweep, longest_s=_SWEPT_EVERY_S)


def _not_taken(context: Context, reason: str, address: str) -> None:
    context.refusals.note_from(address, "connection_refused", reason=reason)


async def _stop_on_signal(
    context: Context,
    server: _Server,
    manager: ServiceManager,
    signals: AsyncIterator[signal.Signals],
) -> None:
    async for number in signals:
        if number is signal.SIGHUP:
            # A habit with other servers, of people and of tools that rotate logs.
            hint = "hub.toml is read at a start; certificates are followed anyway"
            structlog.get_logger().info("hangup_ignored", hint=hint)
            continue
        manager.stopping("stopping")
        server.should_exit = True
        with context.bugs.contained("stop"):
            context.waiting.stop()


def _listen(host: str, port: int) -> Listening:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        # The protocol is given so that accepted connections have it too: only then asyncio sets TCP_NODELAY
        # on them. Without it a reply waits 40 ms for the client's delayed ACK.
        with ExitStack() as opened:
            listener = opened.enter_context(Listening(family, kind, socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            opened.pop_all()
            return listener
    except (OSError, UnicodeError) as error:
        # UnicodeError: no name can have such a host.
        reason = getattr(error, "strerror", None) or str(error)
        reason = f"{reason}; change `listen` in hub.toml"
        raise NotReachable(
            cannot=f"listen on {host} port {port}", reason=reason
        ) from error
