"""One HTTP call: a deadline for all of it, errors as messages, the clocks compared."""

import json
from collections import Counter
from datetime import datetime
from typing import Final, Protocol
from uuid import uuid4

import anyio
import httpx
from attrs import define, field

from dispatchd.agent.endpoint.clock_skew import Reading, Skew
from dispatchd.agent.endpoint.diagnose import explain
from dispatchd.agent.endpoint.failure_kinds import Kind
from dispatchd.agent.endpoint.plain_client import Http
from dispatchd.agent.endpoint.responses import MAX_BYTES, Proof, Reply, refuse_errors
from dispatchd.agent.endpoint.transport import TransportSettings
from dispatchd.errors import ProtocolError, Unavailable
from dispatchd.network.content_coding import coding_problem
from dispatchd.protocol.extensions import CALL_HEADER, is_marked
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import duration

_HUNG_UP: Final = (Kind.CLOSED, Kind.RESET)


class Clock(Protocol):
    """Source of times."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""
        ...

    def wall(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, from any start."""
        ...


class ClosedWithoutAnswer(Unavailable):
    """The connection was closed before a status line came."""


@define(kw_only=True)
class Caller:
    """Posts JSON to one endpoint."""

    http: Http
    settings: TransportSettings
    clock: Clock
    skew: Skew = field(factory=Skew)
    proof: Proof = field(default=Proof.BODY, init=False)
    """Proof to require, according to the last answer that only the endpoint can give."""
    is_bare: bool = field(default=False, init=False)
    """True if that answer had no header: the endpoint sends none, or something on the way removes it."""
    _tally: Counter[tuple[str, str]] = field(factory=Counter, init=False)

    def counted(self) -> list[tuple[str, str, int]]:
        """Return name of the call, class of its status (`2xx` ... `5xx`; `none` without an answer) and count, sorted."""
        return [(*key, count) for key, count in sorted(self._tally.items())]

    def endpoint_time(self) -> datetime | None:
        """Return the endpoint's time now; None before its first answer with a date."""
        return self.skew.endpoint_time(self.clock.monotonic())

    async def post(
        self,
        call: str,
        path: str,
        body: dict[str, Json],
        *,
        headers: dict[str, str] | None = None,
        deadline_s: float,
        most_bytes: int = MAX_BYTES,
    ) -> Reply:
        """Return the reply to a call, whatever its status. A success has at most `most_bytes`.

        Raises:
            ClosedWithoutAnswer: The connection was closed before an answer began.
            Unavailable: No usable answer came, for another reason.
        """
        end = "none"
        try:
            reply = await self._post(call, path, body, headers, deadline_s, most_bytes)
            end = f"{reply.status // 100}xx"
        finally:
            self._tally[call, end] += 1
        return reply

    async def _post(
        self,
        call: str,
        path: str,
        body: dict[str, Json],
        headers: dict[str, str] | None,
        deadline_s: float,
        most_bytes: int,
    ) -> Reply:
        answering = False
        # ASCII with escapes can carry any id that JSON can.
        content = json.dumps(body).encode()
        own = {"Content-Type": "application/json", CALL_HEADER: uuid4().hex}
        sent = {**own, **(headers or {})}
        called = self._clocks()
        try:
            with anyio.fail_after(deadline_s):
                async with self.http.stream(
                    "POST", path, content=content, headers=sent
                ) as response:
                    answering = True
                    # Before the body is read, so that the connection is closed together with the answer.
                    _require_own_call(call, own[CALL_HEADER], response)
                    reply = Reply(
                        status=response.status_code,
                        headers=response.headers,
                        body=await _read(call, response, most_bytes),
                    )
        except TimeoutError as error:
            reason = f"no complete answer within {duration(deadline_s)}"
            raise Unavailable(call=call, reason=reason) from error
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            if answering:
                reason = "the answer was cut off in the middle"
                raise Unavailable(call=call, reason=reason) from error
            raise await self._hung_up(call, error) from error
        except httpx.HTTPError as error:
            reason = (await explain(error, self.settings)).message
            raise Unavailable(call=call, reason=reason) from error
        self.skew.see(reply.headers, called, self._clocks())
        if is_marked(reply.headers):
            self.note_own(reply)
        return reply

    def _clocks(self) -> Reading:
        return Reading(self.clock.wall(), self.clock.monotonic())

    def note_own(self, reply: Reply) -> None:
        """Store the proof that the endpoint's answers have, from an answer that only the endpoint can give."""
        self.is_bare = not is_marked(reply.headers)
        self.proof = Proof.BODY if self.is_bare else Proof.HEADER

    def refuse_errors(
        self, call: str, reply: Reply, *, about_a_job: bool, proof: Proof | None = None
    ) -> None:
        """Return if the reply is the endpoint's and a success.

        The default proof is
        `self.proof`.

        Raises:
            RemoteError: It is another status: the leaf for it.
            ProtocolError: It lacks the proof.
        """
        refuse_errors(
            call,
            reply,
            about_a_job=about_a_job,
            now=self.clock.wall(),
            skew=self.skew.message,
            proof=proof or self.proof,
        )

    async def _hung_up(self, call: str, error: httpx.HTTPError) -> Unavailable:
        explanation = await explain(error, self.settings)
        if explanation.kind in _HUNG_UP:
            reason = "the connection was closed without an answer"
            return ClosedWithoutAnswer(call=call, reason=reason)
        return Unavailable(call=call, reason=explanation.message)


def _require_own_call(call: str, number: str, response: httpx.Response) -> None:
    """Check that an answer is for this call, if it says so.

    A proxy that answers a call twice, or mixes connections up, would otherwise shift the answers of all later calls.

    Raises:
        ProtocolError: The answer is for another call.
    """
    if response.headers.get(CALL_HEADER, number) != number:
        reason = f"status {response.status_code} with the answer to another call (a proxy's?)"
        raise ProtocolError(call=call, reason=reason)


async def _read(call: str, response: httpx.Response, most_bytes: int) -> bytes:
    if problem := coding_problem(response.headers.get("content-encoding", "")):
        if response.is_success:
            raise ProtocolError(call=call, reason=problem)
        # Without a body an error doesn't prove the endpoint, and the call is repeated (contracts/README.md).
        return b""
    chunks: list[bytes] = []
    size = 0
    most_bytes = most_bytes if response.is_success else MAX_BYTES
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > most_bytes:
            if not response.is_success:
                return b""  # likewise
            reason = f"the answer is larger than {most_bytes >> 20} MiB"
            raise ProtocolError(call=call, reason=reason)
        chunks.append(chunk)
    return b"".join(chunks)
