"""Answers to the errors of the hub's rules, queue and stores: the one table from error to HTTP status."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import structlog
from attrs import frozen
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from dispatchd.hub.domain.errors import (
    ArtifactsFull,
    DocumentTooLarge,
    HubError,
    IdTaken,
    JobEnded,
    JobTooLarge,
    LastAdminToken,
    LogsFull,
    LogTooLarge,
    NoSuchArtifact,
    NotChangeable,
    NotHolder,
    NotResolvable,
    OlderArtifacts,
    OtherResult,
    PayloadGone,
    QueueFull,
    StorageBusy,
    WrongRun,
)
from dispatchd.hub.http_bodies import Refused

STATUSES: Final[Mapping[type[HubError], HTTPStatus]] = MappingProxyType(
    {
        NotHolder: HTTPStatus.CONFLICT,
        WrongRun: HTTPStatus.CONFLICT,
        JobEnded: HTTPStatus.GONE,
        OtherResult: HTTPStatus.CONFLICT,
        IdTaken: HTTPStatus.CONFLICT,
        NotResolvable: HTTPStatus.CONFLICT,
        NotChangeable: HTTPStatus.UNPROCESSABLE_ENTITY,
        PayloadGone: HTTPStatus.GONE,
        JobTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        DocumentTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        LogTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        LogsFull: HTTPStatus.SERVICE_UNAVAILABLE,
        ArtifactsFull: HTTPStatus.SERVICE_UNAVAILABLE,
        NoSuchArtifact: HTTPStatus.NOT_FOUND,
        OlderArtifacts: HTTPStatus.CONFLICT,
        LastAdminToken: HTTPStatus.CONFLICT,
        QueueFull: HTTPStatus.SERVICE_UNAVAILABLE,
        StorageBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    }
)

_RETRY_S: Final[Mapping[type[HubError], int]] = MappingProxyType(
    {QueueFull: 10, StorageBusy: 1, LogsFull: 30, ArtifactsFull: 30}
)
"""Seconds after which the same request may succeed, of the errors that pass."""


@frozen(kw_only=True)
class Answer:
    """Answer to a request that the hub can't carry out."""

    status: HTTPStatus
    message: str
    retry_s: int
    """Value of Retry-After (seconds); 0 for none."""


def answer_to(error: HubError) -> Answer:
    """Return the answer to an error; log that of a database, whose message isn't public."""
    message = str(error)
    if isinstance(error, StorageBusy):
        structlog.get_logger().warning("database_busy", error=message)
        message = "the hub's database can't be used now; the hub's log says why"
    if isinstance(error, LogsFull):
        structlog.get_logger().warning("logs_not_stored", error=message)
        message = "the hub can't store logs now; its own log says why"
    if isinstance(error, ArtifactsFull):
        structlog.get_logger().warning("artifacts_not_stored", error=message)
        message = "the hub can't store artifacts now; its own log says why"
    return Answer(
        status=STATUSES[type(error)],
        message=message,
        retry_s=_RETRY_S.get(type(error), 0),
    )


async def _answer_hub_error(_request: Request, error: Exception) -> Response:
    """Return the response to an error, as the application's handler of HubError."""
    if not isinstance(error, HubError):
        raise error
    answer = answer_to(error)
    return JSONResponse(
        {"message": answer.message},
        status_code=answer.status,
        headers={"Retry-After": str(answer.retry_s)} if answer.retry_s else None,
    )


async def _answer_refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        raise error
    return JSONResponse({"message": error.message}, status_code=error.status)


async def _answer_unknown(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse(
        {"message": error.detail}, status_code=error.status_code, headers=error.headers
    )


async def _answer_gone(_request: Request, _error: Exception) -> Response:
    """Return the response for a client that has gone."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _answer_failed(_request: Request, _error: Exception) -> Response:
    """Return the response to a bug; the traceback goes to the hub's own log, and only there."""
    return JSONResponse(
        {"message": "the hub has failed; its log says how"},
        status_code=HTTPStatus.INTERNAL_SERVER_ERROR,
    )


HANDLERS: Final[Mapping[Any, ExceptionHandler]] = MappingProxyType(
    {
        Refused: _answer_refused,
        HubError: _answer_hub_error,
        HTTPException: _answer_unknown,
        ClientDisconnect: _answer_gone,
        Exception: _answer_failed,
    }
)
"""Handlers of the application, by the error that they answer."""
