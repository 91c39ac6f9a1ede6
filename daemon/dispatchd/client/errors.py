"""Errors of the client: a closed tree, in which each leaf says whether the call was carried out.

ClientError
├─ InvalidSetup         the address, token, certificate or proxy can't be used; nothing was sent
├─ Unreachable          no hub answers; the call was not carried out
├─ AnswerLost           the call may have been carried out: its answer was lost, or the hub has failed
├─ NotAHub              something else answers, such as a proxy or a login page
├─ Refused              the hub refuses; `status` is the code of its contract, `reason` its own words
│  ├─ InvalidCall       400, 405, 413, 422, and any other refusal
│  ├─ Unauthorized      401: the token isn't valid
│  ├─ Forbidden         403: the token lacks the scope
│  ├─ NotFound          404
│  ├─ Conflict          409: at odds with what is there
│  ├─ Gone              410: over, or not kept any more
│  └─ Unavailable       503, 429: nothing has changed; may be repeated after `retry_after_s` (seconds)
├─ BytesDiffer          an artifact has other bytes than its hash says
├─ PathTaken            something else is at the place of a download
├─ NotStored            a download can't be written
└─ WaitTimeout          the job has not ended in time; it continues (also a TimeoutError)
"""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from typing_extensions import override

from dispatchd.errors import DispatchdError


class ClientError(DispatchdError):
    """A call of the client has failed.

    `call` says what it was to do, `reason` why it failed. `status` is the HTTP status of the answer, None without one.
    `retry_after_s` is the wait that was asked for (seconds), None for none.
    """

    def __init__(
        self,
        call: str,
        reason: str,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        # All by place, so that it can be pickled.
        super().__init__(call, reason, status, retry_after_s)
        self.call, self.reason = call, reason
        self.status, self.retry_after_s = status, retry_after_s

    @override
    def __str__(self) -> str:
        return f"cannot {self.call}: {self.reason}"


class InvalidSetup(ClientError):
    """The address, token, certificate or proxy can't be used. Nothing was sent."""


class Unreachable(ClientError):
    """No hub answers. The call was not carried out."""


class AnswerLost(ClientError):
    """The call may have been carried out, and nobody knows: its answer was lost, or is an error of the hub."""


class NotAHub(ClientError):
    """Something answers that isn't a hub, such as a proxy or a login page; or a hub that breaks the contract."""


class Refused(ClientError):
    """The hub refuses the call. `status` is the code of the contract, `reason` is the hub's own message."""


class InvalidCall(Refused):
    """The call breaks the contract, or is too large (400, 405, 413, 422)."""


class Unauthorized(Refused):
    """The token isn't valid (401)."""


class Forbidden(Refused):
    """The token lacks the scope (403)."""


class NotFound(Refused):
    """The hub has no such thing (404)."""


class Conflict(Refused):
    """The call is at odds with what is there, such as a taken id (409)."""


class Gone(Refused):
    """The thing is over, or isn't kept any more (410)."""


class Unavailable(Refused):
    """The hub can't do it now, and nothing has changed (503, 429)."""


class BytesDiffer(ClientError):
    """The hub has sent other bytes of an artifact than its hash says."""


class PathTaken(ClientError):
    """Something else is at the place of a download, and was not replaced."""


class NotStored(ClientError):
    """A download can't be written into its folder."""


class WaitTimeout(ClientError, TimeoutError):
    """The job has not ended in the time given. It continues."""


OF_STATUS: Final[Mapping[int, type[Refused]]] = MappingProxyType(
    {
        HTTPStatus.UNAUTHORIZED: Unauthorized,
        HTTPStatus.FORBIDDEN: Forbidden,
        HTTPStatus.NOT_FOUND: NotFound,
        HTTPStatus.CONFLICT: Conflict,
        HTTPStatus.GONE: Gone,
        HTTPStatus.TOO_MANY_REQUESTS: Unavailable,
        HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
    }
)
"""Refusals by status; any other one below 500 is an InvalidCall."""
