"""A trial: plays a machine towards an endpoint, step by step, with jobs of its own, and records each answer.

It judges nothing; `rules.py` does. A job that isn't the trial's own gets no call but a release.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
from attrs import define

from dispatchd.conformance.caller import Caller, TrialEnds
from dispatchd.conformance.hooks import Hooks
from dispatchd.conformance.machine import LONG_POLL, Machine
from dispatchd.conformance.record import Handed, Record
from dispatchd.errors import NotReachable
from dispatchd.protocol.extensions import CAPABILITIES, HEARTBEAT, RELEASE
from dispatchd.protocol.job import Json

_HOLD_S: Final = 10
_EMPTY_HOLD_S: Final = 1
"""Holds of a poll that gets a job, and of one that gets none (seconds)."""

_UP_S: Final = 60.0
"""Longest time until a restarted endpoint answers (seconds)."""

_LOOK_S: Final = 0.2

_END_S: Final = 30.0
"""Longest time for the ends of the trial's own jobs (seconds)."""

_WRONG: Final = "made-up-by-conformance"


@define(kw_only=True)
class Trial:
    """One machine before one endpoint.

    `patience_s` is the longest lease whose end is waited for, `longest_s` the time for all scenes (seconds).
    """

    machine: Machine
    hooks: Hooks
    patience_s: float
    longest_s: float

    async def play(self) -> None:
        """Play every scene that is possible here, then end what is left of the trial's jobs."""
        scenes: tuple[Callable[[], Awaitable[None]], ...] = (
            *(self._strangers, self._first_job, self._unaccepted, self._odd_id),
            *(self._claim, self._released, self._held_poll, self._other_workflows),
            *(self._cancelled, self._lease_ends),
            *(self._restarted, self._license, self._revoked),
        )
        try:
            with anyio.fail_after(self.longest_s):
                for scene in scenes:
                    await scene()
        except TimeoutError:
            reason = f"it was not done within {self.longest_s:g} s"
            self.machine.record.ended = reason
        except TrialEnds:
            pass
        except NotReachable as error:
            self.machine.record.ended = str(error)
        finally:
            self.machine.record.left = sorted(self.machine.queued)
            with anyio.CancelScope(shield=True), anyio.move_on_after(_END_S):
                await self.machine.end_all()

    # Scenes of the first protocol.

    async def _strangers(self) -> None:
        """Call without a right, about nothing, or with something that is no call."""
        await self.machine.pull("pull of nothing", "none", named=False)
        body = {**self.machine.identity.names, "heartbeat_secret": _WRONG}
        await self.machine.caller.pull(
            "pull with a wrong secret", {**body, "workflows": []}
        )
        path = "/api/v1/github/dispatch/pull"
        await self.machine.caller.post(
            "pull that is no JSON", "pull", path, b'{"license_id":'
        )
        await self.machine.caller.post("pull that is no object", "pull", path, b"[]")
        unknown = f"{self.machine.name}-unknown"
        await self.machine.call(
            "accept of an unknown job", "accept", Handed(id=unknown, workflow="")
        )

    async def _first_job(self) -> None:
        """Take a job through its life as a client of the first protocol, each call twice."""
        job = await self.machine.given("first job", named=False)
        if job is None:
            return
        forged = {"secret": _WRONG}
        await self.machine.call("accept with a wrong secret", "accept", job, **forged)
        await self.machine.finish("finish with a wrong secret", job, "failed", **forged)
        await self.machine.call("accept", "accept", job)
        await self.machine.call("accept again", "accept", job)
        await self.machine.call(
            "accept with an unknown field", "accept", job, conformance=[1]
        )
        await self.machine.pull("pull after the accept", job.workflow, named=False)
        await self.machine.finish("finish", job)
        await self.machine.finish("finish again", job)
        await self.machine.finish("finish with another result", job, "failed")
        await self.machine.finish("finish after another result", job)
        await self.machine.pull("pull after the finish", job.workflow, named=False)

    async def _unaccepted(self) -> None:
        """Finish a job without an accept, with a cause and a field that nobody knows."""
        job = await self.machine.given("unaccepted job", named=False)
        if job is not None:
            more = {"result_cause": "cause-of-another-version", "conformance": None}
            await self.machine.finish("finish without an accept", job, "failed", **more)

    async def _odd_id(self) -> None:
        """Take a job whose id has a slash and a space in it through its life."""
        step, odd = "job with a slash", f"{self.machine.name}/a b"
        job = await self.machine.given(step, named=False, job_id=odd)
        if job is None:
            return
        if job.id != odd:
            self.machine.record.skipped["accept by a path with %2F"] = (
                "the endpoint gave the job an id of its own"
            )
        else:
            await self.machine.call("accept by a path with %2F", "accept", job)
        report: dict[str, Json] = {
            "result_output": "o" * 16_000,
            "result_step_summary": "s" * 65_535,
            "result_outputs": {f"name_{number}": "v" for number in range(100)},
        }
        await self.machine.finish(
            "finish with a full report", job, "succeeded", **report
        )
        await self.machine.finish("last finish of the job with a slash", job)

    # Scenes of the extensions.

    async def _claim(self) -> None:
        """Try what a claim token fences, and each kind of heartbeat."""
        job = await self.machine.given("claimed job")
        if job is None:
            return
        if job.claim_token:
            for call in ("accept", "heartbeat", "finish"):
                if call != HEARTBEAT or HEARTBEAT in job.extensions:
                    for what, token in (("no", ""), ("a wrong", _WRONG)):
                        step = f"{call} with {what} claim token"
                        await self._with_token(step, call, job, token)
        await self.machine.call("accept of the claim", "accept", job)
        if HEARTBEAT in job.extensions:
            progress: Json = {"completed": 1, "in_progress": 1, "total": 3}
            beats: Mapping[str, dict[str, Json]] = {
                "running": {"progress": progress},
                "needs_attention": {"reason": "a person has to decide"},
                "finishing": {},
            }
            for phase, more in beats.items():
                await self.machine.beat(f"heartbeat of {phase}", job, phase, **more)
        await self.machine.finish("finish of the claim", job)

    async def _with_token(self, step: str, call: str, job: Handed, token: str) -> None:
        if call == "finish":
            await self.machine.finish(step, job, "failed", claim_token=token)
        elif call == "heartbeat":
            await self.machine.beat(step, job, "running", claim_token=token)
        else:
            await self.machine.call(step, call, job, claim_token=token)

    async def _released(self) -> None:
        """Give a job back, and take it again."""
        job = await self.machine.given("job to release")
        if job is None or RELEASE not in job.extensions:
            return
        if job.claim_token:
            await self.machine.release("release with a wrong claim token", job, _WRONG)
        await self.machine.release("release", job)
        await self.machine.release("release again", job)
        answer = await self.machine.pull("pull after the release", job.workflow)
        again = self.machine.record.jobs.get("pull after the release")
        if again is None or answer.fault:
            return
        if job.claim_token:
            token = job.claim_token
            await self.machine.call(
                "accept of the old claim", "accept", again, claim_token=token
            )
        await self.machine.call("accept of the new claim", "accept", again)
        await self.machine.finish("finish of the new claim", again)

    async def _held_poll(self) -> None:
        """Hold a poll that gets nothing, and one that gets a job meanwhile."""
        await self.machine.pull("held pull of nothing", "none", hold_s=_EMPTY_HOLD_S)
        if LONG_POLL not in self.machine.record.shown:
            return
        workflow, step = f"{self.machine.name}-held", "held pull"
        problems: list[TrialEnds | NotReachable] = []
        submitted_at = anyio.current_time()

        async def poll() -> None:
            try:
                await self.machine.pull(step, workflow, hold_s=_HOLD_S)
            except TrialEnds as end:
                problems.append(end)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await anyio.sleep(_EMPTY_HOLD_S)
            try:
                await self.machine.submit(workflow)
            except NotReachable as error:
                problems.append(error)
            submitted_at = anyio.current_time()
        if problems:
            raise problems[0]
        # Time from the submit to the answer, in place of that of the whole poll.
        answer = self.machine.record.answers[step]
        answer.took_s = max(0.0, anyio.current_time() - submitted_at)
        job = self.machine.record.jobs.get(step)
        if job is None:
            await self.machine.pull("pull after the held pull", workflow)
            job = self.machine.record.jobs.get("pull after the held pull")
        if job is not None:
            await self.machine.finish("finish of the held pull", job)

    async def _other_workflows(self) -> None:
        """Declare workflows for which there is no job, and none at all."""
        if CAPABILITIES not in self.machine.record.shown:
            return
        workflow = f"{self.machine.name}-declared"
        await self.machine.submit(workflow)
        for step, names in (
            ("pull for another workflow", [f"{self.machine.name}-other"]),
            ("pull for cancel jobs alone", []),
        ):
            await self.machine.pull(step, workflow, declared=names)
        await self.machine.pull("pull for the declared workflow", workflow)
        for step in (
            "pull for another workflow",
            "pull for cancel jobs alone",
            "pull for the declared workflow",
        ):
            if (job := self.machine.record.jobs.get(step)) is not None:
                await self.machine.finish(f"finish after the {step}", job)

    async def _cancelled(self) -> None:
        """Have a cancel job submitted for a job that the machine has accepted."""
        step = "pull of the cancel job"
        if CAPABILITIES not in self.machine.record.shown:
            return
        job = await self.machine.given("job to cancel")
        if job is None:
            return
        await self.machine.call("accept of the job to cancel", "accept", job)
        try:
            await self.machine.submit_cancel(job)
        except NotReachable as error:
            # A token may be for jobs that end no others.
            self.machine.record.skipped[step] = str(error)
        else:
            await self.machine.pull(step, job.workflow, declared=[])
            if HEARTBEAT in job.extensions:
                await self.machine.beat(
                    "heartbeat after the cancel job", job, "running"
                )
        await self.machine.finish("finish of the job to cancel", job, "aborted")
        cancel = self.machine.record.jobs.get(step)
        if cancel is not None:
            await self.machine.finish("finish of the cancel job", cancel)

    async def _lease_ends(self) -> None:
        """Keep a job by a heartbeat beyond the end of its first lease."""
        job = await self.machine.given("leased job")
        if job is None or not job.lease_s or HEARTBEAT not in job.extensions:
            return
        if job.lease_s > self.patience_s:
            self.machine.record.skipped["pull within an extended lease"] = (
                f"the lease of {job.lease_s:g} s is longer than --patience"
            )
        else:
            await self.machine.call("accept of the lease", "accept", job)
            await anyio.sleep(job.lease_s * 0.6)
            await self.machine.beat("heartbeat of the lease", job, "running")
            await anyio.sleep(job.lease_s * 0.6)
            await self.machine.pull("pull within an extended lease", job.workflow)
        await self.machine.finish("finish of the lease", job)

    # Scenes that need a hook.

    async def _restarted(self) -> None:
        """Restart the endpoint with a job that is accepted, one that has ended, and one that waits."""
        if self.hooks.restart is None:
            self.machine.record.skipped["pull after the restart"] = (
                "there is no --restart-command"
            )
            return
        ended = await self.machine.given("ended job")
        accepted = await self.machine.given("accepted job")
        if ended is None or accepted is None:
            return
        await self.machine.call("accept before the restart", "accept", accepted)
        await self.machine.finish("finish before the restart", ended)
        waiting = f"{self.machine.name}-waiting"
        await self.machine.submit(waiting)
        await self.hooks.restart.act()
        await self._up()
        await self.machine.call("accept after the restart", "accept", accepted)
        await self.machine.finish("finish after the restart", ended)
        await self.machine.pull("pull after the restart", waiting)
        if (job := self.machine.record.jobs.get("pull after the restart")) is not None:
            await self.machine.finish("finish of the waiting job", job)
        await self.machine.pull("pull when all has ended", ended.workflow)
        await self.machine.finish("finish of the accepted job", accepted)

    async def _up(self) -> None:
        """Wait until the endpoint answers again.

        Raises:
            TrialEnds: It doesn't.
        """
        body = {
            **self.machine.identity.names,
            "heartbeat_secret": _WRONG,
            "workflows": [],
        }
        with anyio.move_on_after(_UP_S):
            while True:
                probe = Caller(
                    http=self.machine.caller.http,
                    record=Record(),
                    call_timeout_s=self.machine.caller.call_timeout_s,
                )
                if not (await probe.pull("probe", body)).fault:
                    return
                await anyio.sleep(_LOOK_S)
        self.machine.record.ended = f"no answer within {_UP_S:g} s after the restart"
        raise TrialEnds

    async def _license(self) -> None:
        """Refresh the license of an activated machine, with its secret and with another."""
        if "activate" not in self.machine.record.answers:
            self.machine.record.skipped["license heartbeat"] = (
                "the machine was not activated"
            )
            return
        names = {**self.machine.identity.names, "client_version": "conformance"}
        for step, secret in (
            ("license heartbeat with a wrong secret", _WRONG),
            ("license heartbeat", self.machine.identity.secret),
        ):
            body = {**names, "heartbeat_secret": secret}
            await self.machine.caller.license(step, "heartbeat", body)

    async def _revoked(self) -> None:
        """Have the machine revoked, with a job in its hands; the last scene."""
        if self.hooks.revoke is None:
            self.machine.record.skipped["pull after the revocation"] = (
                "there is no --revoke-command"
            )
            return
        job = await self.machine.given("job of a revoked machine")
        if job is None:
            return
        await self.hooks.revoke.act()
        await self.machine.pull("pull after the revocation", "none")
        await self.machine.call("accept after the revocation", "accept", job)
        # Nobody can end it any more.
        self.machine.forget(job)
