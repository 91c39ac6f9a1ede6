"""The machine that a trial plays: its calls about jobs of the trial's own, each noted under the name of a step.

A job of others gets no call but a release.
"""

from attrs import define, field

from dispatchd.conformance.caller import Caller, Identity, TrialEnds
from dispatchd.conformance.hooks import Submits
from dispatchd.conformance.record import Answer, Handed, Record
from dispatchd.protocol.extensions import CLAIM, HEARTBEAT, LEASE, RELEASE
from dispatchd.protocol.job import CANCEL, Json

NAMED = (CLAIM, LEASE, HEARTBEAT, RELEASE)
"""Extensions that the trial names in its pulls."""

LONG_POLL = "long-poll"

_END_S = 5.0
"""Longest time of a call that ends what a trial has left (seconds)."""


@define(kw_only=True)
class Machine:
    """One machine. `name` is the unique beginning of the names of its jobs and workflows."""

    caller: Caller
    identity: Identity
    submits: Submits
    name: str
    record: Record
    queued: set[str] = field(factory=set, init=False)
    """Workflows of the jobs that were submitted, until they come."""
    _held: dict[str, Handed] = field(factory=dict, init=False)
    """Jobs whose finish has not succeeded, by id."""

    async def given(
        self, step: str, *, named: bool = True, job_id: str = ""
    ) -> Handed | None:
        """Submit a job and pull it; None if it did not come."""
        workflow = f"{self.name}-{len(self.record.answers)}"
        await self.submit(workflow, job_id)
        await self.pull(step, workflow, named=named)
        return self.record.jobs.get(step)

    async def submit(self, workflow: str, job_id: str = "") -> None:
        """Queue a job for a workflow that has the machine's name in it."""
        await self.submits.submit(
            {
                "id": job_id or workflow,
                "dag_name": workflow,
                "payload": {"conformance": self.name},
            }
        )
        self.queued.add(workflow)

    async def submit_cancel(self, job: Handed) -> None:
        """Queue a cancel job for the run of an accepted job."""
        await self.submits.submit(
            {
                "id": f"{job.workflow}-cancel",
                "dag_name": job.workflow,
                "command": CANCEL,
                "dag_run_id": job.id,
            }
        )

    async def pull(
        self,
        step: str,
        workflow: str,
        *,
        named: bool = True,
        declared: list[str] | None = None,
        hold_s: int = 0,
    ) -> Answer:
        """Pull once; note the job, and what the endpoint shows.

        Raises:
            TrialEnds: A job of others came.
        """
        body: dict[str, Json] = {
            **self.identity.names,
            "heartbeat_secret": self.identity.secret,
            # An endpoint without the extension ignores it, and may hand out any job.
            "workflows": [workflow] if declared is None else [*declared],
        }
        if named:
            body["extensions"] = [*NAMED]
        answer = await self.caller.pull(step, body, hold_s=hold_s)
        if answer.headers.get("preference-applied", "").startswith("wait="):
            self.record.shown.add(LONG_POLL)
        if answer.status != 200 or not answer.text("id"):  # noqa: PLR2004  # the success of a pull with a job
            return answer
        job = Handed.of(answer.document or {})
        if not job.workflow.startswith(self.name):
            await self._give_back(job)
        self.record.jobs[step] = self._held[job.id] = job
        self.queued.discard(job.workflow)
        self._note_shown(job)
        return answer

    def _note_shown(self, job: Handed) -> None:
        self.record.shown |= job.extensions
        if job.claim_token:
            self.record.shown.add(CLAIM)
        if job.lease_s:
            self.record.shown.add(LEASE)

    async def _give_back(self, job: Handed) -> None:
        """Release a job of others, if that is possible, and end the trial.

        Raises:
            TrialEnds: Always.
        """
        fate = "no call was made about it"
        if RELEASE in job.extensions:
            await self.release("release of a job of others", job)
            fate = "it was released"
        self.record.ended = (
            "a pull brought a job that is not the trial's: use a machine, or an endpoint, "
            f"that gets no other jobs; {fate}"
        )
        raise TrialEnds

    async def call(self, step: str, call: str, job: Handed, **more: Json) -> Answer:
        """Make a call about a job. An empty claim token is left out."""
        body: dict[str, Json] = {
            **self.identity.names,
            "secret": self.identity.secret,
            "claim_token": job.claim_token,
            **({"dag_run_id": job.id} if call == "accept" else {}),
            **more,
        }
        if not body["claim_token"]:
            del body["claim_token"]
        return await self.caller.about(step, call, job.id, body)

    async def beat(self, step: str, job: Handed, phase: str, **more: Json) -> None:
        """Send a heartbeat of a phase."""
        await self.call(step, "heartbeat", job, phase=phase, **more)

    async def release(self, step: str, job: Handed, token: str = "") -> None:
        """Give a job back."""
        more: dict[str, Json] = {
            "claim_token": token or job.claim_token,
            "reason": "a trial",
        }
        await self.call(step, "release", job, **more)

    async def finish(
        self, step: str, job: Handed, status: str = "succeeded", **more: Json
    ) -> None:
        """Report a result; a job whose finish succeeds is no longer held."""
        fields: dict[str, Json] = {
            "result_status": status,
            "result_summary": "A trial.",
            **more,
        }
        answer = await self.call(step, "finish", job, **fields)
        if answer.is_success:
            self._held.pop(job.id, None)

    def forget(self, job: Handed) -> None:
        """Leave a job to the endpoint: nobody can end it from here any more."""
        self._held.pop(job.id, None)

    async def end_all(self) -> None:
        """End what the machine still holds, whatever is answered."""
        for job in list(self._held.values()):
            caller = Caller(
                http=self.caller.http, record=Record(), call_timeout_s=_END_S
            )
            closing = Machine(
                caller=caller,
                identity=self.identity,
                submits=self.submits,
                name=self.name,
                record=caller.record,
            )
            await closing.finish("end", job, "aborted")
