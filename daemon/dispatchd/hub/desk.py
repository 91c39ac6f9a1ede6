"""What every route of the hub shares: storage behind threads, the bell, the machines' credentials."""

import time
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from http import HTTPStatus
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from attrs import define, field
from starlette.requests import Request

from dispatchd.contracts import check
from dispatchd.domain.job import Json
from dispatchd.domain.raw_json import Member, members
from dispatchd.errors import ContractViolation
from dispatchd.hub.rules import Refused
from dispatchd.hub.storage import Storage

T = TypeVar("T")

MAX_BODY = 40 * 1024 * 1024
"""Largest request that is read (bytes)."""

_THREAD_BYTES = 256 * 1024
"""From this size on a body is parsed in a worker thread (bytes)."""


@define
class Desk:
    """The hub's state while it runs."""

    storage: Storage
    license_id: str
    secret: str
    lease_s: float
    license_keys: frozenset[str] = frozenset()
    stopping: bool = False
    _bell: anyio.Event = field(factory=anyio.Event)

    @property
    def bell(self) -> anyio.Event:
        """The event of the next change. Take it first, then read the state, then wait for it."""
        return self._bell

    def ring(self) -> None:
        """Wake everybody who waits for a change."""
        self._bell.set()
        self._bell = anyio.Event()

    def stop(self) -> None:
        """Let every held request end now."""
        self.stopping = True
        self.ring()

    def now(self) -> float:
        """Return the wall-clock time, in seconds since the epoch: it has to survive a restart of the hub."""
        return time.time()  # noqa: TID251  # the hub's one clock

    async def use(self, call: Callable[[], T]) -> T:
        """Return what a blocking call of the storage returns."""
        return await to_thread.run_sync(call)

    def authenticate(self, body: dict[str, Json], secret_name: str) -> str:
        """Return the machine that a request's credentials prove.

        Raises:
            Refused: They prove none.
        """
        license_id, secret = str(body["license_id"]), str(body[secret_name])
        known = compare_digest(license_id.encode(), self.license_id.encode())
        if not (
            compare_digest(secret.encode(errors="replace"), self.secret.encode())
            and known
        ):
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "the license or the machine's secret is not valid here",
            )
        return str(body["server_id"])


def hash_token(token: object) -> str:
    """Return what is kept of a claim token."""
    return sha256(str(token or "").encode(errors="surrogatepass")).hexdigest()


async def read_members(request: Request, contract: str) -> dict[str, Member]:
    """Return the members of a request's JSON body, checked against a contract.

    Raises:
        Refused: The body is too large, not a JSON object, or breaks the contract.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body is larger than {MAX_BODY >> 20} MiB",
            )
    try:
        if len(body) < _THREAD_BYTES:
            return _checked(body, contract)
        return await to_thread.run_sync(_checked, body, contract)
    except ContractViolation as violation:
        broken = violation.contract == "JSON"
        status = HTTPStatus.BAD_REQUEST if broken else HTTPStatus.UNPROCESSABLE_ENTITY
        raise Refused(status, f"{violation.path} {violation.rule}") from violation
    except UnicodeDecodeError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not UTF-8 text") from error


async def read_body(request: Request, contract: str) -> dict[str, Json]:
    """Return a request's JSON body, checked against a contract. Fails with Refused as `read_members` does."""
    return {
        name: member.value
        for name, member in (await read_members(request, contract)).items()
    }


def _checked(body: bytes, contract: str) -> dict[str, Member]:
    found = members(body.decode())
    check(contract, {name: member.value for name, member in found.items()})
    return found


def seconds(value: Any, longest: float) -> float:  # noqa: ANN401  # what a query or header holds
    """Return a number of seconds from a query or header, between 0 and the longest; 0 for what isn't one."""
    try:
        return min(max(float(value), 0.0), longest)
    except (TypeError, ValueError):
        return 0.0
