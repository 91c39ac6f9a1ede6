"""Commands of people to a running daemon about its jobs, as routes of the control socket."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import anyio
from attrs import frozen

from dispatchd.agent.control.calls import Act, Call, Lines, Refused, Reply
from dispatchd.agent.domain.intake import Mode
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.loops.intake import IntakeLoop
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.errors import ConfigError, NotPossible
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import at, text
from dispatchd.protocol.outcome import CHOICES, marked
from dispatchd.protocol.times import iso_or_none

_LONGEST_DRAIN_S: Final = 365 * 24 * 3600.0
"""Longest deadline of a drain (seconds); a longer one is invalid."""

_ENDED: Final = (Phase.FINISHING, Phase.HISTORY)


@frozen
class JobCommands:
    """Parks, resolves and cancels jobs; drains, pauses and resumes the machine; reloads the configuration."""

    _tracker: Tracker
    _intake: IntakeLoop
    _reload: Callable[[], Awaitable[None]]

    def routes(self) -> Mapping[tuple[str, str], Act]:
        """Return the routes, for the control server."""
        return {
            ("POST", "/v1/jobs/{job}/block"): self.block,
            ("POST", "/v1/jobs/{job}/resolve"): self.resolve,
            ("POST", "/v1/jobs/{job}/cancel"): self.cancel,
            ("POST", "/v1/drain"): self.drain,
            ("GET", "/v1/drain"): self.follow_drain,
            ("POST", "/v1/pause"): self.pause,
            ("POST", "/v1/resume"): self.resume,
            ("POST", "/v1/reload"): self.reload,
        }

    async def block(self, call: Call) -> Reply:
        """Park a job: body `{"reason": …}`.

        Raises:
            Refused: The reason is blank, or the job can't be parked.
        """
        reason = text(call.body, "reason").strip()
        if not reason:
            raise Refused(
                status=HTTPStatus.BAD_REQUEST, reason="a reason is needed, and is blank"
            )
        try:
            return _reply(await self._tracker.park(call.parameters["job"], reason))
        except NotPossible as error:
            raise Refused(status=HTTPStatus.CONFLICT, reason=error.reason) from error

    async def resolve(self, call: Call) -> Reply:
        """Decide about a parked job: body `{"as": "retry" | "fail" | "succeed", "note": …}`.

        Raises:
            Refused: The decision is none of these, or the job isn't parked.
        """
        decision, note = text(call.body, "as"), text(call.body, "note").strip()
        if decision not in CHOICES:
            reason = f"`as` must be one of: {', '.join(CHOICES)}"
            raise Refused(status=HTTPStatus.BAD_REQUEST, reason=reason)
        verdict = marked(decision, "an operator", note)
        try:
            return _reply(await self._tracker.resolve(call.parameters["job"], verdict))
        except NotPossible as error:
            raise Refused(status=HTTPStatus.CONFLICT, reason=error.reason) from error

    async def cancel(self, call: Call) -> Reply:
        """End a job: body `{"reason": …}`, which may be left out.

        Raises:
            Refused: There is no such job, or it has ended.
        """
        job_id = call.parameters["job"]
        record = self._tracker.get(job_id)
        if record is None or record.phase in _ENDED:
            how = "has ended, or was never here" if record is None else "has ended"
            raise Refused(status=HTTPStatus.CONFLICT, reason=f"it {how}")
        note = text(call.body, "reason").strip()
        reason = "Cancelled by an operator." + (f" {note}" if note else "")
        return _reply(await self._tracker.cancel(job_id, reason))

    async def drain(self, call: Call) -> Reply:
        """Empty the machine: body `{"reason": …, "deadline_s": …}`, both of which may be left out.

        Raises:
            Refused: The deadline is no number of seconds.
        """
        deadline_s = at(call.body, "deadline_s")
        if deadline_s is None:
            return await self._change(call, Mode.DRAINING)
        if (
            isinstance(deadline_s, bool)
            or not isinstance(deadline_s, int | float)
            or not 0 <= deadline_s <= _LONGEST_DRAIN_S
        ):
            reason = "`deadline_s` must be a number of seconds, up to a year"
            raise Refused(status=HTTPStatus.BAD_REQUEST, reason=reason)
        return await self._change(call, Mode.DRAINING, deadline_s)

    async def follow_drain(self, _: Call) -> Lines:
        """Return the jobs that a drain still waits for, as they change, until there are none or the drain is over."""

        async def items() -> AsyncGenerator[Json, None]:
            last: Json = None
            while True:
                bell, activity = (
                    self._tracker.changed.next,
                    self._intake.context.activity.changed.next,
                )
                mode, left = self._intake.intake.mode, self._intake.left
                item: Json = {"mode": mode.value, "left": left}
                if item != last:
                    yield item
                    last = item
                if mode is not Mode.DRAINING or not left:
                    return
                await _either(bell, activity)

        return Lines(items=items())

    async def pause(self, call: Call) -> Reply:
        """Take no new jobs: body `{"reason": …}`, which may be left out."""
        return await self._change(call, Mode.PAUSED)

    async def resume(self, call: Call) -> Reply:
        """Take jobs again."""
        return await self._change(call, Mode.PULLING)

    async def reload(self, _: Call) -> Reply:
        """Reload the configuration.

        Raises:
            Refused: It can't be used; the previous one stays in force.
        """
        try:
            await self._reload()
        except ConfigError as error:
            raise Refused(status=HTTPStatus.CONFLICT, reason=str(error)) from error
        return Reply(body={})

    async def _change(
        self, call: Call, mode: Mode, deadline_s: float | None = None
    ) -> Reply:
        reason = text(call.body, "reason").strip()
        intake = await self._intake.change(mode, reason, deadline_s=deadline_s)
        until = iso_or_none(intake.until)
        return Reply(body={"mode": intake.mode.value, "until": until})


async def _either(*events: anyio.Event) -> None:
    """Wait until one of some events is set."""
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)


def _reply(record: TrackedJob) -> Reply:
    body: dict[str, Json] = {"job": record.job.id, "phase": record.phase.value}
    return Reply(body=body)
