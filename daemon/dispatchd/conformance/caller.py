"""The trial's client: one call at a time over HTTP, bounded in time and size whatever the endpoint does."""

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import anyio
import httpx
from attrs import define, field, frozen

from dispatchd.conformance.record import Answer, Record
from dispatchd.errors import DispatchdError
from dispatchd.network.content_coding import ACCEPT_IDENTITY
from dispatchd.protocol.extensions import CALL_HEADER, MARKED
from dispatchd.protocol.job import Json

_DISPATCH: Final = "/api/v1/github/dispatch"
_LICENSES: Final = "/api/v1/licenses"

_MOST_BYTES: Final = 256 << 10
"""Largest answer that is read (bytes): a record holds all of them, and the trial's jobs are small."""

_MOST_WORDS: Final = 200
"""Longest part of an error that is repeated (characters)."""

_MOST_FAULTS: Final = 3
"""Calls without an answer after which a trial ends (count)."""


class TrialEnds(DispatchdError):
    """Nothing further can be tried; the record says why."""


@frozen(kw_only=True)
class Identity:
    """The machine that a trial plays. `secret` is a secret."""

    license_id: str
    server_id: str
    secret: str = field(repr=False)

    @property
    def names(self) -> dict[str, Json]:
        """The two ids, as they travel in each call."""
        return {"license_id": self.license_id, "server_id": self.server_id}


@define(kw_only=True)
class Caller:
    """Makes calls and notes their answers."""

    http: httpx.AsyncClient
    record: Record
    call_timeout_s: float
    _faults: int = field(default=0, init=False)

    async def pull(
        self, step: str, body: Mapping[str, Json], *, hold_s: int = 0
    ) -> Answer:
        """Pull once, and have it held for a time (seconds)."""
        headers = {"Prefer": f"wait={hold_s}"} if hold_s else {}
        path = f"{_DISPATCH}/pull"
        return await self.post(step, "pull", path, body, headers, hold_s)

    async def about(
        self, step: str, call: str, job_id: str, body: Mapping[str, Json]
    ) -> Answer:
        """Make one of the calls about a job."""
        path = f"{_DISPATCH}/{_in_path(job_id)}/{call}"
        return await self.post(step, call, path, body)

    async def license(self, step: str, call: str, body: Mapping[str, Json]) -> Answer:
        """Make one of the calls about a license."""
        return await self.post(step, f"license {call}", f"{_LICENSES}/{call}", body)

    async def post(
        self,
        step: str,
        call: str,
        path: str,
        body: Mapping[str, Json] | bytes,
        headers: Mapping[str, str] | None = None,
        hold_s: float = 0.0,
    ) -> Answer:
        """Send a body, and note the answer under the name of a step.

        Raises:
            TrialEnds: Several calls have had no answer.
        """
        call_id = f"conformance-{len(self.record.answers)}"
        answer = Answer(
            call=call, call_id=call_id, shows_header=MARKED in self.record.shown
        )
        # ASCII: what the endpoint has sent may hold half of a surrogate pair.
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {
            "Content-Type": "application/json",
            **ACCEPT_IDENTITY,
            CALL_HEADER: call_id,
            **(headers or {}),
        }
        began = anyio.current_time()
        deadline_s = self.call_timeout_s + hold_s
        try:
            with anyio.fail_after(deadline_s):
                request = self.http.build_request(
                    "POST", path, headers=sent, content=content
                )
                await self._read(request, answer)
        except TimeoutError:
            answer.fault = f"no whole answer within {deadline_s:g} s"
        except httpx.ConnectError as error:
            # The words of the system or of TLS, such as a certificate that is not trusted.
            answer.fault = f"no connection: {str(error)[:_MOST_WORDS]}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            answer.fault = f"no answer: {type(error).__name__}"
        answer.took_s = anyio.current_time() - began
        self.record.answers[step] = answer
        if answer.fault:
            self._note_fault(answer)
        return answer

    async def _read(self, request: httpx.Request, answer: Answer) -> None:
        response = await self.http.send(request, stream=True)
        try:
            body = bytearray()
            # Raw: nothing is unpacked.
            async for part in response.aiter_raw():
                body += part
                if len(body) > _MOST_BYTES:
                    answer.fault = f"the answer has more than {_MOST_BYTES >> 10} KiB"
                    return
            answer.status, answer.body = response.status_code, bytes(body)
            answer.headers = {
                name.lower(): value for name, value in response.headers.items()
            }
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await response.aclose()

    def _note_fault(self, answer: Answer) -> None:
        self._faults += 1
        if self._faults >= _MOST_FAULTS:
            self.record.ended = (
                f"{self._faults} calls had no answer, the last one a {answer.call}"
            )
            raise TrialEnds


def _in_path(job_id: str) -> str:
    encoded = quote(job_id, safe="", errors="surrogatepass")
    # Dots alone would mean another folder (RFC 3986, 5.2.4).
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")
