"""Context that all routes of the hub share: the stores, waiting requests, authentication and authorization."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Self, TypeVar

import anyio
from anyio import to_thread
from attrs import Factory, define, field, frozen
from starlette.requests import Request

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.hub.auth.audit import note_owner
from dispatchd.hub.auth.audit_list import AuditList
from dispatchd.hub.auth.hashing import hashed, matches
from dispatchd.hub.auth.refusals import Refusals
from dispatchd.hub.auth.sessions import Sessions
from dispatchd.hub.config.load import Settings
from dispatchd.hub.domain.model import Machine, Token
from dispatchd.hub.domain.scopes import ADMIN, allows
from dispatchd.hub.http_bodies import Refused
from dispatchd.hub.storage.artifacts.store import ArtifactStore
from dispatchd.hub.storage.cursors import MarkStore
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.deliveries import DeliveryStore
from dispatchd.hub.storage.dispatch_rules import BindingStore, PauseStore
from dispatchd.hub.storage.engines.turns import awaited
from dispatchd.hub.storage.jobs.checks import CheckStore
from dispatchd.hub.storage.jobs.reader import JobReader
from dispatchd.hub.storage.jobs.schedules import ScheduleStore
from dispatchd.hub.storage.jobs.store import JobStore
from dispatchd.hub.storage.logs.store import LogStore
from dispatchd.hub.storage.machines import MachineStore
from dispatchd.hub.storage.shared_clock import Clock
from dispatchd.hub.storage.tokens import TokenStore
from dispatchd.hub.waiters import Waiting
from dispatchd.protocol.job import Json
from dispatchd.redaction.known_secrets import KnownSecrets

T = TypeVar("T")

COOKIE: Final = "dispatchd_hub"
"""Cookie with a browser's session."""


def _of(store: Callable[[Database], T]) -> T:
    """Return the default of a field: a store of the same object's database."""
    made: T = Factory(lambda stores: store(stores.database), takes_self=True)
    return made


@frozen
class Stores:
    """Stores of a database.

    Calls block, and may come from any thread. Each fails with StorageBusy if the database can't be used now.
    """

    database: Database
    jobs: JobStore = field(init=False, default=_of(JobStore))
    reader: JobReader = field(init=False, default=_of(JobReader))
    machines: MachineStore = field(init=False, default=_of(MachineStore))
    tokens: TokenStore = field(init=False, default=_of(TokenStore))
    deliveries: DeliveryStore = field(init=False, default=_of(DeliveryStore))
    checks: CheckStore = field(init=False, default=_of(CheckStore))
    pauses: PauseStore = field(init=False, default=_of(PauseStore))
    bindings: BindingStore = field(init=False, default=_of(BindingStore))
    schedules: ScheduleStore = field(init=False, default=_of(ScheduleStore))
    audit: AuditList = field(init=False, default=_of(AuditList))


@define(kw_only=True)
class Context:
    """Context of a running hub."""

    settings: Settings
    stores: Stores
    sessions: Sessions
    clock: Clock
    environment: Mapping[str, str] = field(factory=dict, repr=False)
    """Environment of the process; it names the proxy."""
    known: KnownSecrets = field(factory=KnownSecrets)
    """Secrets that are redacted in the log and in everything sent to others."""
    bugs: BugFence = field(factory=BugFence)
    """Fence around each loop of this process."""
    refusals: Refusals = field(init=False)
    waiting: Waiting = field(factory=Waiting, init=False)
    """Requests of this process that wait."""
    logs: LogStore = field(init=False)
    """Logs of jobs."""
    artifacts: ArtifactStore = field(init=False)
    """Artifacts of jobs."""
    _threads: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_THREADS), init=False
    )
    _lists: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_LISTS), init=False
    )

    def __attrs_post_init__(self) -> None:
        self.refusals = Refusals(self.now)
        self.logs = LogStore.open(
            self.settings.log_folder,
            self.settings.logs.most_bytes,
            self.stores.database,
        )
        self.artifacts = ArtifactStore.open(
            self.settings.artifact_folder,
            self.settings.artifacts,
            self.stores.database,
        )

    @classmethod
    def at(
        cls,
        settings: Settings,
        database: Database,
        known: KnownSecrets | None = None,
        clock: Clock | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        bugs: BugFence | None = None,
    ) -> Self:
        """Return the context of an open database. Blocks.

        Args:
            settings: The configuration.
            database: The database; a shared one also has the clock.
            known: Secrets to redact.
            clock: Clock in place of the hub's own.
            environment: The environment of the process.
            bugs: The fence around each loop.

        Raises:
            StorageBusy: The database can't be used now.
        """
        stores = Stores(database)
        database.connect()
        return cls(
            settings=settings,
            stores=stores,
            sessions=Sessions.open(stores.tokens, MarkStore(database)),
            clock=clock or Clock.of(database),
            environment=environment,
            known=known or KnownSecrets(),
            bugs=bugs or BugFence(),
        )

    def now(self) -> float:
        """Return the time by the hub's clock (seconds since the epoch)."""
        return self.clock.now()

    @property
    def calls(self) -> int:
        """Running calls of the database (count)."""
        return self._threads.borrowed_tokens

    async def use(self, call: Callable[[], T]) -> T:
        """Run a blocking call of a store in a thread, and return its result."""
        return await to_thread.run_sync(call, limiter=self._threads)

    async def use_for_list(self, call: Callable[[], T]) -> T:
        """Run a blocking call that may read many rows; others find a thread and a connection, however many of these come."""
        async with self._lists:
            return await self.use(call)

    async def write(self, call: Callable[[], T]) -> T:
        """Run a blocking call of a store that changes something; return its result once that is durable."""
        writer = self.stores.database.writer
        return await (self.use(call) if writer is None else awaited(writer.add(call)))

    def authenticate(self, body: dict[str, Json], secret_name: str) -> Machine:
        """Return the machine that a request's credentials authenticate. Blocks.

        Raises:
            Refused: They are not valid.
        """
        machine = self.stores.machines.by_server_id(str(body["server_id"]))
        secret_hash = "" if machine is None else machine.secret_hash
        proven = matches(body[secret_name], secret_hash)
        if machine is None or not proven or machine.license_id != body["license_id"]:
            raise Refused(HTTPStatus.UNAUTHORIZED, _NOT_PROVEN)
        return machine

    def holder(self, body: dict[str, Json]) -> Machine:
        """Return the machine that makes a call about a job. Blocks.

        Raises:
            Refused: The credentials are not valid, or the machine has been revoked.
        """
        machine = self.authenticate(body, "secret")
        if machine.revoked_at:
            raise Refused(HTTPStatus.UNAUTHORIZED, "this machine has been revoked")
        return machine

    def authenticate_again(self, machine: Machine) -> Machine:
        """Return an authenticated machine as it is stored now. Blocks.

        Raises:
            Refused: Its credentials have been replaced since.
        """
        now = self.stores.machines.by_server_id(machine.server_id)
        proof = machine.license_id, machine.secret_hash
        if now is None or (now.license_id, now.secret_hash) != proof:
            raise Refused(HTTPStatus.UNAUTHORIZED, _NOT_PROVEN)
        return now

    async def require(self, request: Request, scope: str) -> Token:
        """Return the token of a request, if it has a scope.

        Raises:
            Refused: There is no valid token, or it lacks the scope.
        """
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and given:
            token = await self.use(
                lambda: self.stores.tokens.find(hashed(given.strip()))
            )
        elif kind.lower() != "bearer" and self._may_use_session(request):
            token = await self.session(request)
        else:
            raise Refused(
                HTTPStatus.UNAUTHORIZED, "a token is needed (Authorization: Bearer ...)"
            )
        if token is None:
            status = HTTPStatus.UNAUTHORIZED
            self._note_refused(request, status)
            raise Refused(status, "the token is not valid here")
        self.allow(request, token, scope)
        return token

    def allow(
        self, request: Request, token: Token, scope: str, *, what: str = ""
    ) -> None:
        """Check that a token has a scope; log a change that needs the scope `admin`.

        Args:
            request: The request.
            token: Its token.
            scope: The scope that the token needs.
            what: The action that needs the scope, in words.

        Raises:
            Refused: The token lacks the scope.
        """
        if not allows(token, scope):
            needs = f"{what} needs a token for {scope}"
            message = needs if what else f"the token is not for {scope}"
            self._note_refused(request, HTTPStatus.FORBIDDEN, by=token.name)
            raise Refused(HTTPStatus.FORBIDDEN, message)
        if scope == ADMIN and request.method != "GET":
            note_owner(request, token.name)

    def _note_refused(
        self, request: Request, status: HTTPStatus, **about: object
    ) -> None:
        method, path = request.method, request.url.path
        self.refusals.note(
            "token_refused",
            request,
            status=int(status),
            method=method,
            path=path,
            **about,
        )

    async def session(self, request: Request) -> Token | None:
        """Return the token with which the request's browser has logged in, or None."""
        value = request.cookies.get(COOKIE, "")
        return await self.use(lambda: self.sessions.token(value, now=self.now()))

    def _may_use_session(self, request: Request) -> bool:
        # Browsers also send the cookie with requests that other sites forge, so it permits no changes.
        return request.method == "GET" and bool(request.cookies.get(COOKIE))


_NOT_PROVEN: Final = "the license or the machine's secret is not valid here"

_THREADS: Final = 16
"""Most calls of the database at the same time (count)."""

_LISTS: Final = 4
"""Most of them that read lists (count): fewer than there are connections for reads."""
