"""License: find it, activate it, verify it, refresh it, and report its status at any time.

Nothing here ends a run or the daemon. The endpoint's answer about this machine is stored on disk, so that a
restart doesn't forget it. A license that becomes valid, by whatever way, is noticed without a restart.
"""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskStatus
from attrs import define, evolve, field

from dispatchd.agent.license.finder import LicenseFinder, LicenseSearch, hash_of
from dispatchd.agent.tracking.ports import Licensing, WallClock
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.own_threads import OwnThreads
from dispatchd.concurrency.retry import Retry
from dispatchd.errors import (
    LicenseInvalid,
    RemoteError,
    Revoked,
    StoreUnavailable,
    Unauthorized,
)
from dispatchd.protocol.license import Activation, LicenseStatus, Refusal, Validity

HEARTBEAT_S: Final = 24 * 3600.0
"""Time between two heartbeats (seconds); up to a tenth of it is jitter."""

_RETRY_CAP_S: Final = 50.0
"""Longest wait after a failed call (seconds): pulling resumes within a minute after the reason is gone."""

_LOOK_S: Final = 5.0
"""Time between two looks at the sources on disk (seconds), so that a new key or activation is noticed."""

_FIND_S: Final = 10.0
"""Longest time of a look at them (seconds): a key may be on a file system that hangs."""

_NOT_READ: Final = LicenseStatus(problem="the license has not been read yet")
"""Status before the first look: nobody is to activate a license for that."""


@define(kw_only=True)
class LicenseLoop:
    """Updates `status`. Implements `tracking.ports.Permission`."""

    licensing: Licensing
    finder: LicenseFinder
    machine_name: str
    bugs: BugFence
    clock: WallClock
    random: random.Random
    on_change: Callable[[], None]
    status: LicenseStatus = field(default=_NOT_READ, init=False)
    server_id: str = field(default="", init=False)
    looked: anyio.Event = field(factory=anyio.Event, init=False)
    """Set when `status` has been determined for the first time."""
    _threads: OwnThreads = field(factory=OwnThreads, init=False)
    _retry: Retry = field(init=False)
    _due_s: float | None = field(default=None, init=False)
    """Time of the next call (seconds since boot); None for at once."""
    _wake: anyio.Event = field(factory=anyio.Event, init=False)
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    @_retry.default
    def _new_retry(self) -> Retry:
        return Retry(self.random, base_s=5.0, cap_s=_RETRY_CAP_S)

    @property
    def blocked_reason(self) -> str:
        """Reason why no job may be pulled at the moment; empty if jobs may be pulled."""
        return self.status.blocked_reason

    def look(self) -> None:
        """Look at the sources now: one of them was changed."""
        self._wake.set()

    def doubt(self) -> None:
        """Ask the endpoint about the license now: the answer to another call was that it has been revoked."""
        if self.status.has_credentials and not self.status.blocked_reason:
            self._schedule(0.0)
            self.look()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Find the license, then refresh it, until cancelled."""
        task_status.started()
        await self.bugs.rounds("license", self._round, longest_s=_RETRY_CAP_S)

    async def _round(self) -> None:
        # Before the look: what is changed while it lasts is looked at once more.
        self._wake = anyio.Event()
        if self.server_id or await self._identified():
            await self._look()
        self.bugs.worked("license")
        with anyio.move_on_after(_LOOK_S):
            await self._wake.wait()

    async def _identified(self) -> bool:
        """Read or make this machine's id. Return False while the disk refuses it."""
        try:
            self.server_id, problem = await to_thread.run_sync(
                self.finder.identity.server_id
            )
        except StoreUnavailable as error:
            self._log.warning("server_id_not_stored", error=str(error))
            self._become(LicenseStatus(problem=str(error)))
            return False
        if problem:
            self._log.warning("server_id_replaced", reason=problem)
        return True

    async def _look(self) -> None:
        try:
            search = await self._threads.run(
                "find", partial(self.finder.find, self.server_id), within_s=_FIND_S
            )
        except TimeoutError as error:
            self._log.warning("license_sources_hang", error=str(error))
            return
        status = search.status
        if search.key:
            status = await self._activated(search)
        claims = status.claims
        if _is_another(self.status.activation, status.activation):
            self._retry.worked()
            self._schedule(0.0)
        self._become(
            evolve(
                status,
                validity=None if claims is None else claims.validity(self.clock.wall()),
                last_heartbeat_at=self.status.last_heartbeat_at,
                next_heartbeat_at=self._next_at(),
                heartbeat_error=self.status.heartbeat_error,
            )
        )
        if self.status.has_credentials and self._is_due():
            await self._beat()

    async def _activated(self, search: LicenseSearch) -> LicenseStatus:
        """Return the status after the activation of a key, if it is time to try."""
        source = search.status.source
        if source is None or not self._is_due():
            return self.status
        try:
            token, secret = await self.licensing.activate(
                search.key, self.server_id, self.machine_name
            )
            activation = self._activation(search.key, token, secret)
            await to_thread.run_sync(self.finder.identity.keep, activation)
        except (RemoteError, LicenseInvalid, StoreUnavailable) as error:
            self._put_off(str(error))
            problem = f"the license key could not be activated: {error}"
            return LicenseStatus(source=source, problem=problem)
        self._retry.worked()
        self._schedule(HEARTBEAT_S)
        self._log.info("license_activated", source=source.value)
        return self.finder.of_activation(activation, source, self.server_id)

    def _activation(self, key: str, token: str, secret: str) -> Activation:
        self.finder.known.know("license", [token, secret])
        # A token that this machine would refuse must not replace one that it accepts.
        self.finder.verify(token)
        now = self.clock.wall()
        return Activation(
            key_hash=hash_of(key),
            server_id=self.server_id,
            token=token,
            heartbeat_secret=secret,
            fingerprint=self.finder.fingerprint,
            activated_at=now,
            refreshed_at=now,
        )

    async def _beat(self) -> None:
        activation, claims = self.status.activation, self.status.claims
        if activation is None or claims is None:
            return
        try:
            token = await self.licensing.heartbeat(
                claims.license_id,
                activation.server_id,
                activation.heartbeat_secret,
                marked=claims.marked,
            )
            self.finder.known.know("license", [token])
            self.finder.verify(token)
        except (RemoteError, LicenseInvalid) as error:
            await self._take_refusal(activation, error)
        else:
            await self._refreshed(activation, token)

    async def _take_refusal(
        self, activation: Activation, error: RemoteError | LicenseInvalid
    ) -> None:
        match error:
            case Revoked():
                await self._refused(activation, Refusal.REVOKED)
            case Unauthorized():
                await self._refused(activation, Refusal.DEACTIVATED)
            case _:
                # Also 400, which says that the license has expired: the grace period decides.
                pass
        self._put_off(str(error))

    async def _refreshed(self, activation: Activation, token: str) -> None:
        now = self.clock.wall()
        fresh = evolve(activation, token=token, refreshed_at=now, refused=None)
        try:
            is_stored = await to_thread.run_sync(
                self.finder.identity.replace, activation, fresh
            )
        except StoreUnavailable as error:
            self._put_off(str(error))
            return
        if not is_stored:
            self._look_again()
            return
        self._retry.worked()
        self._schedule(HEARTBEAT_S * (1 - 0.1 * self.random.random()))
        claims = self.finder.verify(token)
        self._become(
            evolve(
                self.status,
                activation=fresh,
                claims=claims,
                validity=claims.validity(now),
                last_heartbeat_at=now,
                heartbeat_error="",
            )
        )

    async def _refused(self, activation: Activation, refusal: Refusal) -> None:
        marked = evolve(activation, refused=refusal)
        try:
            is_stored = await to_thread.run_sync(
                self.finder.identity.replace, activation, marked
            )
        except StoreUnavailable as error:
            self._log.error("license_not_stored", error=str(error))
            is_stored = True
        if not is_stored:
            self._look_again()
            return
        self._become(evolve(self.status, activation=marked))

    def _look_again(self) -> None:
        """Find the license again: somebody has activated or deactivated this machine while the endpoint was asked."""
        self._log.info("activation_changed_meanwhile")
        self._schedule(0.0)
        self.look()

    def _put_off(self, reason: str) -> None:
        delay_s = self._retry.failed()
        self._schedule(delay_s)
        self._log.warning(
            "license_call_failed", error=reason, retry_in_s=round(delay_s, 1)
        )
        self.status = evolve(self.status, heartbeat_error=reason)

    def _schedule(self, delay_s: float) -> None:
        self._due_s = self.clock.since_boot() + delay_s
        self.status = evolve(self.status, next_heartbeat_at=self._next_at())

    def _is_due(self) -> bool:
        return self._due_s is None or self._due_s <= self.clock.since_boot()

    def _next_at(self) -> datetime | None:
        """Return the time of the next call, by the wall clock as it is now."""
        if self._due_s is None:
            return None
        left_s = self._due_s - self.clock.since_boot()
        return self.clock.wall() + timedelta(seconds=left_s)

    def _become(self, status: LicenseStatus) -> None:
        before, self.status = self.status, status
        if before.blocked_reason != status.blocked_reason or not self.looked.is_set():
            if status.blocked_reason:
                self._log.warning("license_blocked", reason=status.blocked_reason)
            else:
                self._log.info("license_valid", source=str(status.source or ""))
            self.on_change()
        self.looked.set()
        if status.validity is Validity.GRACE and before.validity is not Validity.GRACE:
            until = status.claims.grace_until if status.claims is not None else None
            self._log.warning("license_in_grace", until=str(until))


def _is_another(before: Activation | None, after: Activation | None) -> bool:
    """Return whether somebody else has activated this machine again."""
    return (
        before is not None
        and after is not None
        and before.activated_at != after.activated_at
    )
