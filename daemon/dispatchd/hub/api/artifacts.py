"""Artifacts of jobs: lists and bytes from machines (contracts/README.md, artifacts), and downloads for people."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Final, TypeVar
from urllib.parse import quote

import anyio
from attrs import field, frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dispatchd.errors import ContractViolation
from dispatchd.hub.api.jobs import Jobs
from dispatchd.hub.context import Context
from dispatchd.hub.domain.errors import ArtifactsFull
from dispatchd.hub.domain.json_shortener import Shortener
from dispatchd.hub.domain.model import HubJob
from dispatchd.hub.domain.scopes import READ
from dispatchd.hub.http_bodies import (
    KIB,
    MIB,
    Limits,
    Refused,
    read_proven,
    whole_number,
)
from dispatchd.hub.storage.artifacts.store import Row, Sender, Standing
from dispatchd.protocol.job import Json
from dispatchd.protocol.uploads.artifacts import (
    MOST_FILES,
    Artifact,
    ArtifactChunk,
    ArtifactList,
)

T = TypeVar("T")

_PATH: Final = "/api/v1/github/dispatch/{job_id:job}"
_READ: Final = "/api/v1/jobs/{job_id:job}"

_OF_LIST: Final = Limits(
    most=256 * KIB,
    # A path of 1,024 characters has 12 KiB at most, however it is escaped. A longer one is refused, though it is cut.
    shortener=partial(
        Shortener,
        longest=8 * KIB,
        longest_inside=13 * KIB,
        most_items=MOST_FILES,
    ),
    texts=16 * MIB,
)
_OF_CHUNK: Final = Limits(
    # As for a chunk of a log.
    shortener=partial(Shortener, longest=2 * MIB, longest_inside=0, most_items=0),
    texts=2 * MIB,
)

_CALLS_AT_ONCE: Final = 4
"""Most calls of machines at the same time (count): the hash of a large file takes seconds, and others need threads."""

_PIECE: Final = MIB
"""Part of a download that is read at a time (bytes)."""


@frozen
class Artifacts:
    """Routes on which machines send artifacts, and people and programs get them."""

    context: Context
    jobs: Jobs
    _turns: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_CALLS_AT_ONCE), init=False
    )

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        return [
            Route(f"{_PATH}/artifacts", self.take_list, methods=["POST"]),
            Route(f"{_PATH}/artifact", self.take_chunk, methods=["POST"]),
            Route(f"{_READ}/artifacts", self.show, methods=["GET"]),
            Route(f"{_READ}/artifact", self.read, methods=["GET"]),
        ]

    async def take_list(self, request: Request) -> Response:
        """Store the list of the artifacts of an attempt.

        Raises:
            Refused: The machine has never had the job, or a path occurs twice.
        """
        body = await read_proven(request, "artifacts-request", _OF_LIST, self._prove)
        listed = _listed(body)
        now = self.context.now()
        standings = await self._store(
            request,
            body,
            lambda sender: self.context.artifacts.put_list(sender, listed, now=now),
        )
        return JSONResponse({"files": [_reply(standing) for standing in standings]})

    async def take_chunk(self, request: Request) -> Response:
        """Store a part of an artifact.

        Raises:
            Refused: The machine has never had the job, or the part isn't what its hash says.
        """
        body = await read_proven(request, "artifact-request", _OF_CHUNK, self._prove)
        now = self.context.now()
        standing = await self._store(
            request,
            body,
            lambda sender: self.context.artifacts.append(
                sender, ArtifactChunk.from_wire(body), now=now
            ),
        )
        return JSONResponse(_reply(standing))

    async def show(self, request: Request) -> Response:
        """Return the artifacts of a job."""
        if not request.scope["raw_path"].endswith(b"/artifacts"):
            return await self._job(request, "artifacts")
        await self.context.require(request, READ)
        job_id = request.path_params["job_id"]
        documents = await self.context.use_for_list(
            lambda: [
                artifact_document(row, job, has_bytes=has_bytes)
                for row, job, has_bytes in self.rows_now(job_id)
            ]
        )
        return JSONResponse({"artifacts": documents})

    async def read(self, request: Request) -> Response:
        """Return the bytes of an artifact, by its path: all of them, or at most `limit` from `offset`."""
        if not request.scope["raw_path"].endswith(b"/artifact"):
            return await self._job(request, "artifact")
        await self.context.require(request, READ)
        return await self.download(request.path_params["job_id"], request)

    async def download(self, job_id: str, request: Request) -> Response:
        """Return the answer with the bytes of an artifact that a query names. Whoever asks may read the job.

        Raises:
            Refused: There is no such job, no such artifact, or the hub doesn't have its bytes.
        """
        query = request.query_params
        path, offset = query.get("path", ""), whole_number(query.get("offset"), 0)
        rows = await self.context.use(lambda: self.rows_now(job_id))
        row = next((row for row, *_ in rows if row.path == path), None)
        if row is None:
            message = "the job has no such artifact"
            raise Refused(HTTPStatus.NOT_FOUND, message)
        if not await self.context.use(lambda: self.context.artifacts.has(row)):
            message = row.refused or "the hub doesn't have its bytes"
            raise Refused(HTTPStatus.NOT_FOUND, message)
        start = min(offset, row.size)
        end = min(row.size, start + whole_number(query.get("limit"), row.size))
        return StreamingResponse(
            self._pieces(row, start, end),
            media_type="application/octet-stream",
            headers={
                "Content-Length": str(end - start),
                "Content-Disposition": _disposition(row.path),
                "Artifact-Size": str(row.size),
                "Artifact-Sha256": row.sha256,
                # Whatever a browser makes of it, it gets at nothing of the hub's.
                "Content-Security-Policy": "sandbox; default-src 'none'",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            },
        )

    def rows_now(self, job_id: str) -> list[tuple[Row, HubJob, bool]]:
        """Return the artifacts of a job with the job, and whether the bytes of each are here. Blocks.

        Raises:
            Refused: There is no such job.
        """
        job = self.context.stores.reader.get(job_id)
        if job is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
        store = self.context.artifacts
        return [(row, job, store.has(row)) for row in store.of_job(job_id)]

    async def _store(
        self, request: Request, body: dict[str, Json], store: Callable[[Sender], T]
    ) -> T:
        """Store what a machine sends, if it has, or has had, the job.

        Raises:
            Refused: It has never had it, or its bytes aren't what their hash says.
            ArtifactsFull: This process of the hub can't store any.
        """
        job_id = request.path_params["job_id"]
        if not self.context.artifacts.is_shared:
            # Another process of the hub can store it.
            message = "this process has another folder (artifacts.folder)"
            raise ArtifactsFull(message)

        def call() -> T:
            machine = self.context.holder(body).server_id
            claims = [
                claim.number
                for claim in self.context.stores.reader.attempts(job_id)
                if claim.machine == machine
            ]
            if not claims:
                message = "this machine has never had such a job"
                raise Refused(HTTPStatus.NOT_FOUND, message)
            return store(Sender(job_id=job_id, machine=machine, claim=max(claims)))

        try:
            async with self._turns:
                stored = await self.context.use(call)
        except ContractViolation as violation:
            message = f"{violation.path} {violation.rule}"
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message) from violation
        self.context.waiting.changed.notify()
        return stored

    async def _pieces(self, row: Row, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            most = min(_PIECE, end - start)
            piece = await self.context.use(
                partial(self.context.artifacts.read, row, start, most)
            )
            if not piece:
                # It was removed meanwhile: the answer ends before its length, so that nobody takes it for whole.
                return
            yield piece
            start += len(piece)

    async def _job(self, request: Request, name: str) -> Response:
        """Answer for a job whose id ends like a route, with its slash encoded."""
        request.path_params["job_id"] += f"/{name}"
        return await self.jobs.show(request)

    async def _prove(self, credentials: dict[str, Json]) -> None:
        await self.context.use(lambda: self.context.holder(credentials))


def artifact_document(row: Row, job: HubJob, *, has_bytes: bool) -> dict[str, Json]:
    """Return an artifact for the API (contracts/schemas/hub-artifact.schema.json)."""
    return {
        "path": row.path,
        "size": row.size,
        "sha256": row.sha256,
        "state": state_of(row, has_bytes=has_bytes),
        "reason": row.refused,
        "machine": row.machine,
        "attempt": row.attempt,
        "from_fork": job.document.from_fork,
        "listed_at": row.listed_at,
    }


def state_of(row: Row, *, has_bytes: bool) -> str:
    """Return whether an artifact can be downloaded, in a word (contracts/README.md, artifacts)."""
    if row.refused:
        return "refused"
    if has_bytes:
        return "stored"
    return "missing" if row.stored_at else "waiting"


def _listed(body: dict[str, Json]) -> ArtifactList:
    """Return the list in a body that keeps the schema.

    Raises:
        Refused: A path occurs twice.
    """
    fields = body["files"]
    files = [
        Artifact.from_wire(each)
        for each in (fields if isinstance(fields, list) else [])
        if isinstance(each, dict)
    ]
    if len({file.path for file in files}) < len(files):
        message = "$.files must have each path once"
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message)
    return ArtifactList(attempt=int(str(body["attempt"])), files=files)


def _reply(standing: Standing) -> dict[str, Json]:
    reply: dict[str, Json] = {"offset": standing.offset, "whole": standing.is_whole}
    return {**reply, "refused": standing.refused} if standing.refused else reply


def _disposition(path: str) -> str:
    """Return the header by which a browser stores a file under its name, and never shows it (RFC 6266)."""
    name = quote(PurePosixPath(path).name, safe="")
    return f"attachment; filename*=UTF-8''{name}"
