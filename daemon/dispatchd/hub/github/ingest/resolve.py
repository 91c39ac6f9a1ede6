"""Resolver of received jobs: it reads from GitHub what an event doesn't contain, the actor's permission and the commit.

Without an answer nothing is permitted. Each received job has a task of its own, so that one repository's failures
delay no other. It asks until there is an answer, for a day at most.
"""

import random
from functools import partial
from typing import Final

import anyio
import structlog
from anyio.abc import TaskGroup
from attrs import define, evolve, field

from dispatchd.concurrency.keyed_tasks import KeyedTasks
from dispatchd.errors import ContractViolation
from dispatchd.hub.config.github import GithubSettings, Permission, Rule
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.domain.event_kinds import COMMENT_EVENTS
from dispatchd.hub.domain.model import HubJob
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.api.pacing import Gates
from dispatchd.hub.github.api.responses import GithubError, Invalid, Limited, NotThere
from dispatchd.hub.github.event import read_event
from dispatchd.hub.github.ingest.decide import (
    Decision,
    End,
    Free,
    decide,
    denied,
    may,
    needed_for,
)
from dispatchd.hub.github.ingest.received import Received
from dispatchd.hub.github.ingest.reply import Replies
from dispatchd.protocol.backoff import next_try_s
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_text import loads

_LOOP: Final = "github questions"

_AT_ONCE: Final = 8
"""Most jobs that are resolved at the same time (count)."""

_LOOKED_AT: Final = 200
"""Most new jobs that are started in one round (count)."""

_LOOK_S: Final = 2.0
"""Interval of looks for jobs that another hub process has received (seconds)."""

_LONGEST_S: Final = 24 * 3600.0
"""Time limit of the questions about a job (seconds): after a day nobody expects a command to be executed any more."""

_AFTER_A_BUG_S: Final = 3600.0
"""Longest pause of a job that has met a bug (seconds)."""

_PERMISSION_S: Final = 60.0
"""Time for which a user's permission is cached (seconds)."""


@define(kw_only=True)
class Resolver:
    """Resolves received jobs: asks GitHub about them, and queues or ends them."""

    context: Context
    settings: GithubSettings
    client: Client
    gates: Gates
    """Gates of installations, shared with the publisher: GitHub's limits are for both."""
    random: random.Random
    _work: KeyedTasks[str] = field(init=False)
    _turns: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_AT_ONCE), init=False
    )
    _permissions: dict[tuple[str, str], tuple[float, str]] = field(
        factory=dict, init=False
    )
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_work.default
    def _new_work(self) -> KeyedTasks[str]:
        return KeyedTasks(_LOOP, self.context.bugs, _AFTER_A_BUG_S)

    async def run(self) -> None:
        """Resolve until cancelled."""
        received = Received(self.context.stores.database)
        async with anyio.create_task_group() as tasks:
            await self.context.bugs.rounds(_LOOP, partial(self._round, tasks, received))

    async def _round(self, tasks: TaskGroup, received: Received) -> None:
        bell = self.context.waiting.changed.next
        try:
            # Jobs that are being resolved already don't count.
            most = _LOOKED_AT + len(self._work)
            for job in await self.context.use(lambda: received.oldest(most)):
                self._work.start(tasks, job.id, partial(self._until_decided, job))
        except StorageBusy as error:
            self._log.warning("database_busy", error=str(error))
        self.context.bugs.worked(_LOOP)
        shared = self.context.stores.database.is_shared
        with anyio.move_on_after(_LOOK_S if shared else None):
            await bell.wait()

    async def _until_decided(self, job: HubJob) -> None:
        failures, asked_since = 0, self.context.now()
        while True:
            try:
                await self._until_open(job)
                async with self._turns:
                    decision = await self._decision(job, asked_since)
                    await self._carry_out(job, decision)
            except (GithubError, StorageBusy) as error:
                failures += 1
                await self._back_off(job, error, failures)
            else:
                return

    async def _until_open(self, job: HubJob) -> None:
        """Wait until a call for a job's installation is permitted: by GitHub's limits, and by the pace of the publisher's writes."""
        installation, _ = _place(job)
        await anyio.sleep_until(self.gates.opens_at(installation))

    async def _back_off(
        self, job: HubJob, error: GithubError | StorageBusy, failures: int
    ) -> None:
        asked_s = (
            error.retry_at - self.context.now() if isinstance(error, Limited) else None
        )
        if asked_s is not None:
            self.gates.limit(_place(job)[0], asked_s)
        delay_s = next_try_s(failures, asked_s, self.random.random())
        self._log.warning(
            "resolve_failed", job_id=job.id, error=str(error), retry_in_s=delay_s
        )
        await anyio.sleep(delay_s)

    async def _decision(self, job: HubJob, asked_since: float) -> Decision | None:
        """Return the decision about a job; None for a cancel job that may be executed."""
        # Time in which the hub was down doesn't count.
        if self.context.now() - max(job.created_at, asked_since) > _LONGEST_S:
            return _quiet("GitHub could not be asked about it for a day")
        rule = self.settings.rule(job.document.rule)
        is_decision = job.document.resolution is not None
        is_decision = is_decision and (rule is not None or not job.document.rule)
        if rule is None and not job.urgent and not is_decision:
            return _quiet("its rule is not configured any more")
        try:
            if is_decision:
                return await self._of_resolution(job, rule)
            if rule is None or job.document.event in COMMENT_EVENTS:
                return await self._of_command(job, rule)
            return await self._of_ref(job)
        except (NotThere, Invalid) as error:
            return _quiet(f"GitHub doesn't know what it is about ({error.reason})")

    async def _of_ref(self, job: HubJob) -> Decision:
        installation, repository = _place(job)
        sha = await self.client.sha_of(installation, repository, job.document.ref)
        return Free(document=job.document.changed(sha=sha))

    async def _of_resolution(self, job: HubJob, rule: Rule | None) -> Decision | None:
        """Return the decision about a decision on a parked job; None if its author may make it."""
        installation, repository = _place(job)
        payload = await self._payload(job)
        event = evolve(
            read_event(job.document.event, payload), actor=job.document.actor
        )
        permission = await self._permission(installation, repository, event.actor)
        # As much as its rule asks of a command, and at least what a cancellation needs.
        least = needed_for(rule, from_fork=True)
        return None if may(permission, least) else denied(event, permission, least)

    async def _of_command(self, job: HubJob, rule: Rule | None) -> Decision | None:
        installation, repository = _place(job)
        name, number = job.document.event, job.document.pull_request
        payload = await self._payload(job)
        event = evolve(read_event(name, payload), actor=job.document.actor)
        permission = await self._permission(installation, repository, event.actor)
        least = needed_for(rule, from_fork=False)
        if not may(permission, least):
            return denied(event, permission, least)
        if rule is None:
            return None
        pull: Json = None
        if number:
            pull = await self.client.pull_request(installation, repository, number)
        return decide(
            rule, name, payload, job.document, pull=pull, permission=permission
        )

    async def _payload(self, job: HubJob) -> dict[str, Json]:
        texts = await self.context.use(lambda: self.context.stores.reader.texts(job.id))
        try:
            payload = loads(texts[0]) if texts is not None else None
        except ContractViolation:
            payload = None
        return payload if isinstance(payload, dict) else {}

    async def _permission(self, installation: int, repository: str, login: str) -> str:
        """Return a user's permission in a repository, as GitHub's role name."""
        now = self.context.now()
        at, cached = self._permissions.get((repository, login), (0.0, ""))
        if 0 <= now - at < _PERMISSION_S:
            return cached
        try:
            document = await self.client.permission(installation, repository, login)
        except NotThere:
            # There is no such user, or they have no access to the repository.
            return ""
        role = str(document.get("role_name") or "")
        # An organisation's custom role is based on one of GitHub's.
        known = (
            role if role in set(Permission) else str(document.get("permission") or "")
        )
        self._permissions[repository, login] = (now, known)
        self._forget_old(now)
        return known

    def _forget_old(self, now: float) -> None:
        for key, (at, _) in list(self._permissions.items()):
            if now - at >= _PERMISSION_S:
                del self._permissions[key]

    async def _carry_out(self, job: HubJob, decision: Decision | None) -> None:
        received, now = Received(self.context.stores.database), self.context.now()

        def act() -> tuple[list[HubJob], str]:
            match decision:
                case None if job.document.resolution is not None:
                    return received.resolve(job.id, now=now)
                case None:
                    return received.cancel(job.id, now=now), ""
                case Free(document=document):
                    return received.free(job.id, document), ""
                case End(reason=reason):
                    return received.end(job.id, reason, now=now), ""

        changed, problem = await self.context.use(act)
        for after in changed:
            self.context.waiting.notify(after)
        if changed:
            self._log.info(
                "received_job_decided", job_id=job.id, state=changed[-1].state
            )
            said = End(reason=problem) if problem else decision
            await Replies(self.client, self.settings).answer(job, said)


def _quiet(reason: str) -> End:
    """Return the end of a job whose author's permission isn't known: the reply has no words."""
    return End(reason=reason, is_denied=True)


def _place(job: HubJob) -> tuple[int, str]:
    """Return the installation and the repository of a job."""
    return job.document.installation_id, job.repository
