"""Pull: a machine asks for a job, and is kept waiting for one if it prefers (contracts/README.md, pull)."""

import json
import re
from functools import partial
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Final

import anyio
from attrs import define, evolve, field, frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatchd.hub.auth.hashing import hashed
from dispatchd.hub.context import Context
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.binding import Binding
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.errors import Locked, StorageBusy
from dispatchd.hub.domain.model import Claimed, HubJob, Machine
from dispatchd.hub.extension import Extension
from dispatchd.hub.http_bodies import Limits, Refused, read_proven, seconds
from dispatchd.hub.waiters import Poll
from dispatchd.protocol.extensions import (
    ARTIFACTS,
    CAPABILITIES,
    CLAIM,
    HEARTBEAT,
    LEASE,
    LOG,
    MARKED,
    RELEASE,
    RESOLVE,
)
from dispatchd.protocol.job import Json

_PATH: Final = "/api/v1/github/dispatch/pull"
_LONGEST_HOLD_S: Final = 300.0
_OF_PULL: Final = Limits(proof="heartbeat_secret")
_THREAD_BYTES: Final = 256 * 1024
"""Size from which a job is serialized in a worker thread (bytes)."""
_PREFER_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+)", re.IGNORECASE)
_LOCKED_S: Final = 0.1
"""Wait of a held poll before its next look, if jobs are locked by other transactions (seconds)."""
_BUSY_S: Final = 1.0
"""Wait of a held poll before its next look, if the database couldn't be used (seconds)."""
_OF_CLAIM: Final = frozenset(("claim_token", "lease_seconds", "extensions"))
"""Fields of a claim that a machine gets from the hub alone; those of a submitted document are left out."""
_NOTED_EVERY_S: Final = 10.0
"""Interval at which the pulls of a machine are stored (seconds)."""


@frozen(kw_only=True)
class _Asking:
    """Pull of a machine.

    `token` is that of its new claim; empty for a machine that knows no tokens. `workflows` are those that it declares,
    None for any. `binding` is set by the hub's owner. `extensions` are those that it names; None for the first protocol.
    """

    machine: Machine
    token: str
    workflows: tuple[str, ...] | None
    extensions: frozenset[str] | None
    binding: Binding

    @property
    def claim(self) -> Claim:
        return Claim(machine=self.machine.server_id, token_hash=hashed(self.token))

    def knows(self, extension: str) -> bool:
        return self.extensions is not None and extension in self.extensions


@define
class Pull:
    """Route on which machines get jobs."""

    context: Context
    extension: Extension
    _noted: dict[str, tuple[float, tuple[str, str, int] | None]] = field(
        factory=dict, init=False
    )
    """Machine -> time of its last stored pull (seconds since the epoch); and its workflows, release and slots then."""

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [Route(_PATH, self.pull, methods=["POST"])]

    async def pull(self, request: Request) -> Response:
        """Dispatch the next job; wait for one as long as the machine prefers."""
        body = await read_proven(request, "pull-request", _OF_PULL, self._prove_puller)
        asking = await self.context.use(lambda: self._asking(body))
        wait = _PREFER_WAIT.search(request.headers.get("prefer", ""))
        hold_s = seconds(wait.group(1), _LONGEST_HOLD_S) if wait else 0.0
        headers = {"Preference-Applied": f"wait={hold_s:g}"} if wait else {}
        claimed = await self._claim_within(hold_s, asking, request)
        if claimed is None:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        return Response(
            await self._handed_out(claimed, asking),
            media_type="application/json",
            headers=headers,
        )

    async def _prove_puller(self, credentials: dict[str, Json]) -> None:
        await self.context.use(lambda: self._puller(credentials))

    def _puller(self, body: dict[str, Json]) -> Machine:
        """Return the machine that pulls. Blocks.

        Raises:
            Refused: The credentials are not valid, or the machine has been revoked.
        """
        return _not_revoked(self.context.authenticate(body, "heartbeat_secret"))

    def _asking(self, body: dict[str, Json]) -> _Asking:
        machine = self._puller(body)
        declared = body.get("workflows")
        workflows = (
            tuple(str(workflow) for workflow in declared)
            if isinstance(declared, list)
            else None
        )
        said = _as_said(machine, body.get("machine"))
        if workflows != ():
            # A pull for cancel jobs alone says nothing about the machine's workflows.
            named = "" if workflows is None else json.dumps(workflows)
            said = evolve(said, workflows=named)
        self._note(said)
        known = body.get("extensions")
        asking = _Asking(
            machine=machine,
            token="",
            workflows=workflows,
            extensions=frozenset(map(str, known)) if isinstance(known, list) else None,
            binding=self.context.stores.bindings.get(machine.name),
        )
        if not asking.knows(CLAIM):
            return asking
        return evolve(asking, token=token_urlsafe(24))

    def _note(self, machine: Machine) -> None:
        now = self.context.now()
        # Free space is another one with each pull: that alone is no reason to store it sooner.
        said = (machine.workflows, machine.version, machine.slots)
        at, noted = self._noted.get(machine.name, (0.0, None))
        is_recent = bool(machine.seen_at) and 0 <= now - at < _NOTED_EVERY_S
        if not is_recent or noted != said:
            self.context.stores.machines.note_pull(evolve(machine, seen_at=now))
            self._noted[machine.name] = (now, said)

    async def _claim_within(
        self, hold_s: float, asking: _Asking, request: Request
    ) -> Claimed | None:
        polls = self.context.waiting.polls
        poll = Poll(
            machine=asking.machine.server_id,
            workflows=asking.workflows,
            binding=asking.binding,
        )
        deadline = anyio.current_time() + hold_s
        is_first = True
        with polls.hold(poll):
            while not (
                self.context.waiting.stopping or await request.is_disconnected()
            ):
                claimed, again_s = await self._look_for(poll, asking, is_first=is_first)
                if claimed is not None:
                    return await self._unless_gone(claimed, asking, poll, request)
                is_first = False
                left_s = deadline - anyio.current_time()
                if left_s <= 0 or poll.is_over:
                    return None
                with anyio.move_on_after(min(left_s, again_s)):
                    await poll.woken.wait()
        return None

    async def _look_for(
        self, poll: Poll, asking: _Asking, *, is_first: bool
    ) -> tuple[Claimed | None, float]:
        """Return the claim of a poll, if there is one, and the wait before its next look without a wake-up (seconds).

        The poll keeps the news that it hasn't used.
        """
        polls = self.context.waiting.polls
        news, binding = polls.renew(poll), poll.binding
        if not polls.counts(poll):
            return None, _LONGEST_HOLD_S
        try:
            claimed = await self.context.write(
                partial(self._look, asking, poll, is_first=is_first)
            )
        except BaseException as error:
            polls.keep(poll, news)
            if isinstance(error, Locked):
                return None, _LOCKED_S
            if isinstance(error, StorageBusy) and not is_first:
                return None, _BUSY_S
            raise
        if poll.binding != binding:
            # It may have used up news of jobs that its new binding excludes.
            polls.wake_all()
        if claimed is not None:
            polls.keep(
                poll, (notice for notice in news if notice.job_id != claimed.job.id)
            )
        return claimed, _LONGEST_HOLD_S

    def _look(self, asking: _Asking, poll: Poll, *, is_first: bool) -> Claimed | None:
        claim = asking.claim
        if not is_first:
            # It has waited: a machine that was revoked meanwhile, or has another secret now, must get no job.
            machine = _not_revoked(self.context.authenticate_again(asking.machine))
            poll.bind(self.context.stores.bindings.get(machine.name))
        leases = self.context.settings.leases
        # A machine that knows no leases gets more time.
        more_s = 0.0 if asking.knows(LEASE) else leases.patience_s
        return self.context.stores.jobs.claim(
            claim.machine,
            claim.token_hash,
            asking.workflows,
            now=self.context.now(),
            lease_s=leases.seconds + more_s,
            binding=poll.binding,
        )

    async def _unless_gone(
        self, claimed: Claimed, asking: _Asking, poll: Poll, request: Request
    ) -> Claimed | None:
        """Return the claim, or take it back if its machine has hung up or polls again."""
        if (
            self.context.waiting.polls.counts(poll)
            and not await request.is_disconnected()
        ):
            self.context.waiting.notify(claimed.job)
            return claimed
        now = self.context.now()
        changed = await self.context.write(
            lambda: self.context.stores.jobs.change(
                claimed.job.id,
                lambda job: claim_rules.take_back(
                    job, asking.claim, before=claimed.before, now=now
                ),
            )
        )
        if changed is not None:
            self.context.waiting.notify(changed[1])
        return None

    async def _handed_out(self, claimed: Claimed, asking: _Asking) -> bytes:
        size = len(claimed.payload) + len(claimed.headers)
        if size < _THREAD_BYTES:
            return self._written(claimed, asking)
        return await self.context.use(lambda: self._written(claimed, asking))

    def _written(self, claimed: Claimed, asking: _Asking) -> bytes:
        job = claimed.job
        added: dict[str, Json] = {
            "id": job.id,
            "status": job.state,
            "claimed_by": job.machine,
            "license_id": asking.machine.license_id,
        }
        if asking.token:
            added["claim_token"] = asking.token
        if asking.knows(LEASE):
            added["lease_seconds"] = self.context.settings.leases.seconds
        if asking.extensions is not None:
            added["extensions"] = [*self._extensions(job, asking)]
        submitted = {
            name: value for name, value in job.document.items() if name not in _OF_CLAIM
        }
        head = json.dumps({**submitted, **added})
        # The exact texts that were submitted, not parsed and written again.
        texts = f'"payload": {claimed.payload}, "headers": {claimed.headers}'
        return f"{head[:-1]}, {texts}}}".encode()

    def _extensions(self, job: HubJob, asking: _Asking) -> list[str]:
        """Return the extensions that the hub offers for a job to a machine."""
        logs = [LOG] if self.context.logs.is_shared else []
        artifacts = [ARTIFACTS] if self.context.artifacts.is_open else []
        calls = [
            HEARTBEAT,
            RELEASE,
            RESOLVE,
            *logs,
            *artifacts,
            *self.extension.job_extensions(job),
        ]
        known = [extension for extension in calls if asking.knows(extension)]
        return [*known, CAPABILITIES, MARKED]


def _not_revoked(machine: Machine) -> Machine:
    """Return a machine that may pull.

    Raises:
        Refused: It has been revoked.
    """
    if machine.revoked_at:
        raise Refused(HTTPStatus.GONE, "this machine has been revoked")
    return machine


def _as_said(machine: Machine, said: Json) -> Machine:
    """Return a machine with what it says about itself in a pull; nothing, in one of an earlier release."""
    fields = said if isinstance(said, dict) else {}
    return evolve(
        machine,
        version=str(fields.get("version") or ""),
        slots=int(str(fields.get("slots") or 0)),
        free_bytes=int(str(fields.get("free_bytes") or 0)),
    )
