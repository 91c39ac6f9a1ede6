"""What every route of the hub shares: the stores behind threads, who waits, and who may do what."""

import time
from collections.abc import Callable, Mapping, Sized
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, TypeVar

import anyio
from anyio import to_thread
from attrs import define, field
from starlette.requests import Request

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.domain.job import Json
from dispatchd.hub.auth.audit import note_owner
from dispatchd.hub.auth.refusals import Refusals
from dispatchd.hub.auth.scopes import ADMIN, allows
from dispatchd.hub.credentials import hashed, matches
from dispatchd.hub.database import Database
from dispatchd.hub.delivery_store import DeliveryStore
from dispatchd.hub.domain.links import link_of, web_url
from dispatchd.hub.domain.news import News
from dispatchd.hub.github.check_store import CheckStore
from dispatchd.hub.job_reader import JobReader
from dispatchd.hub.job_store import JobStore
from dispatchd.hub.machine_store import MachineStore
from dispatchd.hub.mark_store import MarkStore
from dispatchd.hub.model import HubJob, Machine, Token
from dispatchd.hub.queue.bindings import BindingStore
from dispatchd.hub.queue.pause import PauseStore
from dispatchd.hub.rules import Refused
from dispatchd.hub.sessions import Sessions
from dispatchd.hub.settings import Settings
from dispatchd.hub.storage.shared_clock import SharedClock, since_boot
from dispatchd.hub.token_store import TokenStore
from dispatchd.hub.waiting import Bell, Polls, Watchers
from dispatchd.redaction.known_secrets import KnownSecrets

T = TypeVar("T")

COOKIE: Final = "dispatchd_hub"
"""The cookie in which a browser keeps its session."""


def _need_no_measure() -> None:
    """Do nothing: the clock of this machine is true by itself."""


@define(kw_only=True)
class Desk:
    """The hub's state while it runs."""

    settings: Settings
    database: Database
    jobs: JobStore
    reader: JobReader
    machines: MachineStore
    tokens: TokenStore
    deliveries: DeliveryStore
    checks: CheckStore
    pauses: PauseStore
    bindings: BindingStore
    sessions: Sessions
    now: Callable[[], float]
    """Returns the time (seconds since the epoch): the wall clock's, or that of a database that hubs share."""
    measure: Callable[[], None] = _need_no_measure
    """Keeps `now` true. Blocks; fails with StorageBusy if the database can't be used now."""
    since_boot: Callable[[], float] = since_boot
    """Returns the seconds since boot, suspension included."""
    environment: Mapping[str, str] = field(factory=dict, repr=False)
    """That of the process; says which proxy leads out."""
    known: KnownSecrets = field(factory=KnownSecrets)
    """What is kept out of the log and of what is told to others."""
    bugs: BugFence = field(factory=BugFence)
    """Around each loop of this process."""
    refusals: Refusals = field(init=False)
    connections: Sized = ()
    """Those that the hub has now."""
    stopping: bool = False
    polls: Polls = field(factory=Polls)
    """Polls that wait for a job."""
    watchers: Watchers = field(factory=Watchers)
    """Those who wait for one job each."""
    changed: Bell = field(factory=Bell)
    """Rings when a job has changed its state."""
    _threads: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_THREADS), init=False
    )

    def __attrs_post_init__(self) -> None:
        self.refusals = Refusals(self.now)

    @classmethod
    def at(
        cls,
        settings: Settings,
        database: Database,
        known: KnownSecrets | None = None,
        wall: Callable[[], float] | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        bugs: BugFence | None = None,
    ) -> "Desk":
        """Return the desk of an open database. Fails with StorageBusy if that can't be used. Blocks.

        Args:
            settings: The configuration.
            database: The database; one that hubs share also has their clock.
            known: What is kept out of the log.
            wall: Another clock than the hub's own.
            environment: That of the process.
            bugs: The fence around each loop.
        """
        shared = SharedClock(database)
        now, measure = wall or time.time, _need_no_measure  # noqa: TID251  # the hub's one clock
        if database.is_shared and wall is None:
            shared.measure()
            now, measure = shared.now, shared.measure
        return cls(
            environment=environment,
            known=known or KnownSecrets(),
            bugs=bugs or BugFence(),
            now=now,
            measure=measure,
            settings=settings,
            database=database,
            jobs=JobStore(database),
            reader=JobReader(database),
            machines=MachineStore(database),
            tokens=TokenStore(database),
            deliveries=DeliveryStore(database),
            checks=CheckStore(database),
            pauses=PauseStore(database),
            bindings=BindingStore(database),
            sessions=Sessions.open(TokenStore(database), MarkStore(database)),
        )

    def stop(self) -> None:
        """Let every held request end now."""
        self.stopping = True
        self.wake_all()

    @property
    def calls(self) -> int:
        """How many calls of the database are under way (count)."""
        return self._threads.borrowed_tokens

    async def use(self, call: Callable[[], T]) -> T:
        """Return what a blocking call of a store returns."""
        return await to_thread.run_sync(call, limiter=self._threads)

    def tell(self, job: HubJob) -> None:
        """Wake who waits here for what a job has become."""
        self.hear(News.of(job))

    def hear(self, news: News) -> None:
        """Wake who waits here for such news, whichever process they are of."""
        if news.is_queued:
            self.polls.tell(news)
        elif news.machine:
            self.polls.end(news.machine)
        self.watchers.ring(news.job_id)
        self.changed.ring()

    def link_of(self, job: HubJob) -> str:
        """Return where people find at GitHub what a job is about; nothing for one that GitHub hasn't asked for."""
        github = self.settings.github
        if github is None or not job.by_event:
            return ""
        return link_of(job.document, web_url(github.api_url))

    def wake_all(self) -> None:
        """Wake everybody who waits here, such as after news may have been missed."""
        self.polls.wake_all()
        self.watchers.wake_all()
        self.changed.ring()

    def authenticate(self, body: dict[str, Json], secret_name: str) -> Machine:
        """Return the machine that a request's credentials prove. Blocks.

        Raises:
            Refused: They prove none.
        """
        machine = self.machines.by_server_id(str(body["server_id"]))
        kept = "" if machine is None else machine.secret_hash
        proven = matches(body[secret_name], kept)
        if machine is None or not proven or machine.license_id != body["license_id"]:
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "the license or the machine's secret is not valid here",
            )
        return machine

    async def require(self, request: Request, scope: str) -> Token:
        """Return the token of a request that may do something.

        Raises:
            Refused: It may not.
        """
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and given:
            found = await self.use(lambda: self.tokens.find(hashed(given.strip())))
        elif kind.lower() != "bearer" and self._may_use_session(request):
            found = await self.session(request)
        else:
            raise Refused(
                HTTPStatus.UNAUTHORIZED, "a token is needed (Authorization: Bearer ...)"
            )
        if found is None:
            status = HTTPStatus.UNAUTHORIZED
            self._note_refused(request, status)
            raise Refused(status, "the token is not valid here")
        self.allow(request, found, scope)
        return found

    def allow(
        self, request: Request, token: Token, scope: str, *, what: str = ""
    ) -> None:
        """Return if a token is for something; a change for which it has to be one of an owner is noted in the log.

        Args:
            request: What is to be allowed.
            token: Its token.
            scope: What the token has to be for.
            what: What needs that, in words.

        Raises:
            Refused: It isn't.
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
        # Browsers send a cookie with requests that other sites make up, so it changes nothing.
        return request.method == "GET" and bool(request.cookies.get(COOKIE))


_THREADS: Final = 16
"""How many calls of the database are under way at a time (count)."""
