"""The dispatch endpoint over HTTP. Implements `tracking.ports.Source`; see contracts/README.md."""

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import httpx
import structlog
from anyio import to_thread
from attrs import asdict, define, evolve, field

from dispatchd.agent.domain.delivery import (
    Beat,
    Delivery,
    LogAnswer,
    NoJob,
    Resolution,
    Stored,
)
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.domain.run.events import Progress
from dispatchd.agent.endpoint.caller import Caller, ClosedWithoutAnswer
from dispatchd.agent.endpoint.credentials import Credentials
from dispatchd.agent.endpoint.doubted_refusals import Doubts
from dispatchd.agent.endpoint.responses import (
    CLOSES_A_JOB,
    MAX_JOB_BYTES,
    Proof,
    Reply,
    hold_applied,
    is_proven,
    json_object,
    not_json,
)
from dispatchd.agent.endpoint.wire import read_delivery, report_to_wire, stored_of
from dispatchd.errors import ContractViolation, ProtocolError, TooLarge
from dispatchd.protocol.contracts import check
from dispatchd.protocol.extensions import MARKED, OF_MACHINES, RESOLVE, is_marked
from dispatchd.protocol.job import Job, Json
from dispatchd.protocol.json_text import whole_characters
from dispatchd.protocol.report import LogChunk, Report
from dispatchd.protocol.uploads.artifacts import ArtifactChunk, ArtifactList

_PATH: Final = "/api/v1/github/dispatch"

_HOLD_SLACK_S: Final = 10.0
"""Time beyond the requested hold until the connection of a poll counts as dead (seconds)."""

_QUICK_S: Final = 1.0
"""Shortest time of a held poll (seconds): one that ends sooner was not held, whatever its headers say."""

_TIRED: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.GATEWAY_TIMEOUT,
        524,  # Cloudflare: the origin took too long
    }
)
"""Statuses by which something on the way gives up an exchange that takes long, or whose other end has gone."""

_TIRES_S: Final = 10.0
"""Shortest time after which such a status is taken for that (seconds): a gateway in front of nothing is quicker."""

_EARLY_S: Final = 1.0
"""Smallest difference by which an answer is early for its hold (seconds)."""

_MOST_DECLARED: Final = 1000
"""Most workflows that a pull may declare (count; contracts/schemas/pull-request.schema.json)."""

_LONGEST_DECLARED: Final = 48 * 1024
"""Largest list of them (bytes): an endpoint reads 64 KiB of a pull (contracts/README.md, limits)."""

_THREAD_BYTES: Final = 256 * 1024
"""Size from which a body is parsed in a worker thread, so that the loops run meanwhile (bytes)."""


@define(kw_only=True)
class DispatchEndpoint:
    """Calls of one machine to one endpoint; every call has a deadline."""

    caller: Caller
    credentials: Credentials
    call_timeout_s: float
    declared: Callable[[], Sequence[str] | None] = lambda: None
    """Returns the workflows to declare with each pull; None to take any job."""
    about: Callable[[], Mapping[str, Json]] = dict
    """Returns what to say about this machine with each pull; empty for nothing."""
    _doubts: Doubts = field(factory=Doubts, init=False)

    @property
    def clock_skew(self) -> str:
        """Difference between this machine's clock and the endpoint's, in words; empty if there is none."""
        return self.caller.skew.message

    async def pull(
        self, hold_s: float, *, cancels_only: bool = False
    ) -> Delivery | NoJob:
        """Ask for one job, or for a cancel job. The endpoint may hold the request for `hold_s` seconds.

        Raises:
            ClosedWithoutAnswer: An Unavailable: the connection was closed at once.
        """
        hold = int(hold_s)
        began = self.caller.clock.monotonic()
        body: dict[str, Json] = {
            "license_id": self.credentials.license_id,
            "server_id": self.credentials.server_id,
            "heartbeat_secret": await self.credentials.secret("pull"),
            "extensions": [*OF_MACHINES],
        }
        if said := self.about():
            body["machine"] = {**said}
        names = self.declared()
        if cancels_only:
            body["workflows"] = []
        elif names is not None and _can_be_declared(names):
            body["workflows"] = [*names]
        headers = {"Prefer": f"wait={hold}"} if hold else {}
        deadline_s = max(self.call_timeout_s, hold + _HOLD_SLACK_S)
        try:
            reply = await self.caller.post(
                "pull",
                f"{_PATH}/pull",
                body,
                headers=headers,
                deadline_s=deadline_s,
                most_bytes=MAX_JOB_BYTES,
            )
        except ClosedWithoutAnswer:
            held_s = self.caller.clock.monotonic() - began
            if hold == 0 or held_s < _QUICK_S:
                raise
            return NoJob(held=False, cut_after_s=held_s)
        held_s = self.caller.clock.monotonic() - began
        if hold and held_s >= _TIRES_S and _is_cut(reply):
            return NoJob(held=False, cut_after_s=held_s)
        self.caller.refuse_errors("pull", reply, about_a_job=False)
        if reply.status != httpx.codes.NO_CONTENT:
            delivery = await _delivery(reply)
            self.caller.note_own(reply)
            return delivery
        says_held = hold_applied(reply.headers)
        return NoJob(
            held=held_s >= _QUICK_S and (says_held or held_s >= hold / 2),
            ended_early=says_held and held_s < hold - _EARLY_S,
        )

    async def accept(self, record: TrackedJob) -> Beat:
        """Report that this machine has the job; fail if the endpoint disagrees. Return whether a cancel was requested."""
        reply = await self._about("accept", record, {"dag_run_id": record.run_id})
        return _beat("accept", reply)

    async def finish(self, record: TrackedJob, report: Report) -> None:
        """Report the end of the job, with the report of its newest attempt.

        If that is too large for the endpoint, only the verdict is sent: some proxies read no more than 1 MiB.

        Raises:
            ValueError: The record has no verdict.
            TooLarge: Even the verdict is too large.
        """
        if record.verdict is None:
            message = f"job {record.job.id} has no verdict to report"
            raise ValueError(message)
        verdict = record.verdict
        body: dict[str, Json] = {
            "result_status": verdict.outcome.value,
            "result_summary": self._scrubbed(verdict.summary),
            "result_cause": verdict.cause.value if verdict.cause else "",
        }
        more = report_to_wire(report, self._scrubbed)
        try:
            await self._about("finish", record, _filled({**body, **more}))
        except TooLarge as error:
            if not any(more.values()):
                raise
            structlog.get_logger().warning(
                "finish_too_large",
                job_id=record.job.id,
                error=str(error),
                left_out=list(_filled(more)),
            )
            await self._about("finish", record, _filled(body))

    async def token(self, record: TrackedJob, permissions: Mapping[str, str]) -> str:
        """Ask for a token for the job's repository with these permissions and no others."""
        reply = await self._about("token", record, {"permissions": {**permissions}})
        document = json_object("token", reply)
        _check("token", "token-grant-reply", document)
        return str(document["token"])

    async def heartbeat(self, record: TrackedJob, progress: Progress | None) -> Beat:
        """Extend the job's lease, report its state, and return whether a cancel was requested."""
        body: dict[str, Json] = {"phase": record.phase.value}
        if progress is not None:
            body["progress"] = asdict(progress)
        if record.phase is Phase.NEEDS_ATTENTION and record.blocked:
            body["reason"] = self._scrubbed(record.blocked)
        if record.parking and RESOLVE in record.job.extensions:
            body["parked"] = record.parking
        return _beat("heartbeat", await self._about("heartbeat", record, body))

    async def log(self, record: TrackedJob, chunk: LogChunk) -> LogAnswer:
        """Send a chunk of the log of one of the job's attempts, without secrets."""
        fields = await to_thread.run_sync(chunk.to_wire)
        document = json_object("log", await self._about("log", record, fields))
        _check("log", "log-reply", document)
        return LogAnswer(
            offset=int(str(document["offset"])),
            watching=document.get("watching") is True,
        )

    async def artifacts(
        self, record: TrackedJob, listed: ArtifactList
    ) -> Sequence[Stored]:
        """Announce all artifacts of an attempt; return of each what the endpoint has.

        Raises:
            ProtocolError: The answer is about other files.
        """
        reply = await self._about("artifacts", record, listed.to_wire())
        document = json_object("artifacts", reply)
        _check("artifacts", "artifacts-reply", document)
        answers = document["files"]
        if not isinstance(answers, list) or len(answers) != len(listed.files):
            reason = "the reply has another number of files than the call"
            raise ProtocolError(call="artifacts", reason=reason)
        return [stored_of(answer) for answer in answers if isinstance(answer, dict)]

    async def artifact(self, record: TrackedJob, chunk: ArtifactChunk) -> Stored:
        """Send a part of an artifact that was announced."""
        fields = await to_thread.run_sync(chunk.to_wire)
        document = json_object(
            "artifact", await self._about("artifact", record, fields)
        )
        _check("artifact", "artifact-reply", document)
        return stored_of(document)

    async def release(self, record: TrackedJob, reason: str) -> None:
        """Hand an unstarted job back."""
        await self._about("release", record, {"reason": self._scrubbed(reason)})

    def _scrubbed(self, text: str) -> str:
        """Return a text without secrets: the last step for every text that leaves, whoever wrote it."""
        # A command's JSON can hold half of a surrogate pair, for which an endpoint may refuse the call forever.
        return self.credentials.known.scrub(whole_characters(text))

    async def _about(
        self, call: str, record: TrackedJob, body: dict[str, Json]
    ) -> Reply:
        job = record.job
        identity: dict[str, Json] = {
            "license_id": self.credentials.license_id,
            "server_id": self.credentials.server_id,
            "secret": await self.credentials.secret(call),
        }
        claim: dict[str, Json] = (
            {"claim_token": job.claim_token} if job.claim_token else {}
        )
        reply = await self.caller.post(
            call,
            f"{_PATH}/{_in_path(job.id)}/{call}",
            {**identity, **claim, **body},
            deadline_s=self.call_timeout_s,
        )
        proof = self._proof(job, reply)
        self.caller.refuse_errors(call, reply, about_a_job=True, proof=proof)
        if reply.body:
            # A proxy's page with status 200 must not pass for the endpoint's answer.
            json_object(call, reply)
        return reply

    def _proof(self, job: Job, reply: Reply) -> Proof:
        """Return the proof that an answer about a job needs to count as the endpoint's own."""
        if MARKED in job.extensions and not self.caller.is_bare:
            return Proof.HEADER
        has_extensions = job.extensions or job.claim_token or job.lease_s is not None
        if (
            has_extensions
            or reply.status not in CLOSES_A_JOB
            or is_proven(reply, Proof.BODY)
        ):
            self._doubts.forget(job.id)
            return Proof.BODY
        if not self._doubts.believes(job.id, self.caller.clock.monotonic()):
            return Proof.BODY
        self._doubts.forget(job.id)
        return Proof.NONE


def _is_cut(reply: Reply) -> bool:
    """Return whether something on the way has given up a held poll, rather than the endpoint refused it."""
    is_own = is_marked(reply.headers) or is_proven(reply, Proof.BODY)
    return reply.status in _TIRED and not is_own


def _can_be_declared(workflows: Sequence[str]) -> bool:
    return (
        len(workflows) <= _MOST_DECLARED
        and len(json.dumps(workflows)) <= _LONGEST_DECLARED
    )


def _filled(fields: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in fields.items() if value}


def _in_path(job_id: str) -> str:
    encoded = quote(job_id, safe="", errors="surrogatepass")
    # Dots alone would mean another folder (RFC 3986, 5.2.4).
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")


async def _delivery(reply: Reply) -> Delivery:
    try:
        text = reply.body.decode()
        if len(text) < _THREAD_BYTES:
            delivery = read_delivery(text)
        else:
            delivery = await to_thread.run_sync(read_delivery, text)
    except UnicodeDecodeError as error:
        raise ProtocolError(call="pull", reason=not_json(reply)) from error
    except ContractViolation as violation:
        broken = violation.contract == "JSON"
        reason = not_json(reply) if broken else f"the job can't be used: {violation}"
        raise ProtocolError(call="pull", reason=reason) from violation
    return evolve(
        delivery,
        job=_as_it_came(delivery.job, reply),
        holds=hold_applied(reply.headers),
    )


def _as_it_came(job: Job, reply: Reply) -> Job:
    """Return the job; its endpoint counts as one with the header only if this reply has arrived with it."""
    if is_marked(reply.headers):
        return job
    shown = [extension for extension in job.extensions if extension != MARKED]
    return evolve(job, extensions=tuple(shown))


def _beat(call: str, reply: Reply) -> Beat:
    if not reply.body:
        return Beat()
    document = json_object(call, reply)
    _check(call, "heartbeat-reply", document)
    return Beat(
        cancel_requested=document.get("cancel_requested") is True,
        watching=document.get("watching") is True,
        resolution=_resolution(document.get("resolve")),
    )


def _resolution(resolve: Json) -> Resolution | None:
    """Return the decision in an answer that keeps its contract; None for none."""
    if not isinstance(resolve, dict):
        return None
    return Resolution(
        parking=str(resolve["parked"]),
        decision=str(resolve["as"]),
        note=whole_characters(str(resolve.get("note") or "")),
        by=whole_characters(str(resolve.get("by") or "")),
    )


def _check(call: str, contract: str, document: object) -> None:
    try:
        check(contract, document)
    except ContractViolation as violation:
        raise ProtocolError(
            call=call, reason=f"the reply breaks the contract: {violation}"
        ) from violation
