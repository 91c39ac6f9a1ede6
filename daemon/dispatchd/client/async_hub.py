"""The asynchronous client of a hub, for asyncio and trio."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from anyio.to_thread import run_sync

from dispatchd.client import artifacts, jobs, logs
from dispatchd.client.connection import Access, Body, in_words, url_and_token
from dispatchd.client.errors import ClientError
from dispatchd.client.folder import DownloadFolder, require_path
from dispatchd.client.jobs import Decision
from dispatchd.client.pace import AsyncPace
from dispatchd.client.records import Artifact, Job, JobState, LogPiece
from dispatchd.client.retries import Retries, asked_document
from dispatchd.client.steps import (
    NOTHING,
    Answer,
    Call,
    Ended,
    Item,
    Operation,
    Pause,
    Stream,
    begun,
    resumed,
)

T = TypeVar("T")


class AsyncHub:
    """Client of a hub, as `Hub`: each call has its arguments and errors, and is awaited. Streams are asynchronous iterators.

    Raises:
        InvalidSetup: An argument can't be used.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        ca_file: Path | str | None = None,
        certificate_file: Path | str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        pace: AsyncPace | None = None,
    ) -> None:
        self._pace = pace or AsyncPace()
        self._retries = Retries(most=retries, draw=self._pace.draw)
        self._access = Access(
            url=url,
            token=token.strip(),
            ca_file=Path(ca_file) if ca_file else None,
            certificate_file=Path(certificate_file) if certificate_file else None,
            timeout_s=timeout_s,
        )
        self._http = httpx.AsyncClient(**self._access.options())

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None
    ) -> "AsyncHub":
        """Return the client of the hub that `DISPATCHD_HUB_URL` and `DISPATCHD_HUB_TOKEN` name, as for the command line.

        Raises:
            InvalidSetup: One of them is missing or can't be used.
        """
        return cls(*url_and_token(environment))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(
        self,
        workflow: str,
        fields: Mapping[str, str] | None = None,
        *,
        repository: str = "",
        ref: str = "",
        sha: str = "",
        priority: int = 0,
        key: str = "",
    ) -> str:
        """Queue a job, and return its id. Details: `Hub.submit`."""
        request = jobs.request_of(
            workflow,
            fields,
            repository_name=repository,
            ref=ref,
            sha=sha,
            priority=priority,
        )
        if key:
            request["id"] = jobs.id_of_key(key)
        return await self._run(
            jobs.submit(
                self._retries, request, name=f"run {workflow}", is_key=bool(key)
            )
        )

    async def submit_document(self, document: Mapping[str, Any]) -> str:
        """Queue a job with any fields (contracts/schemas/submit-request.schema.json), and return its id. Details: `Hub.submit_document`."""
        return await self._run(
            jobs.submit(self._retries, document, name="submit the job", is_key=False)
        )

    async def get(self, job: Job | str) -> Job:
        """Return a job as it is now. Details: `Hub.get`."""
        return await self._run(jobs.get(self._retries, jobs.id_of(job)))

    def jobs(
        self,
        *,
        state: JobState | str = "",
        repository: str = "",
        workflow: str = "",
        limit: int | None = None,
    ) -> AsyncIterator[Job]:
        """Yield jobs, the newest first. Details: `Hub.jobs`."""
        filters = {"state": state, "repository": repository, "workflow": workflow}
        return self._iterate(jobs.listed(self._retries, filters, limit))

    async def wait(self, job: Job | str, timeout_s: float | None = None) -> Job:
        """Return a job once it has ended. Details: `Hub.wait`."""
        job_id, now = jobs.id_of(job), self._pace.now
        return await self._run(jobs.wait(self._retries, job_id, timeout_s, now))

    def watch(self, job: Job | str) -> AsyncIterator[Job]:
        """Yield a job as it is now, and again after each change of it, to its end. Details: `Hub.watch`."""
        return self._iterate(jobs.watch(self._retries, jobs.id_of(job)))

    async def log(self, job: Job | str, *, attempt: int | None = None) -> str:
        """Return the log of a job as far as the hub has it; what is no UTF-8 is replaced. Details: `Hub.log`."""
        pieces = self.log_pieces(job, attempt=attempt)
        data = [piece.data async for piece in pieces]
        return b"".join(data).decode(errors="replace")

    def log_pieces(
        self, job: Job | str, *, attempt: int | None = None, follow: bool = False
    ) -> AsyncIterator[LogPiece]:
        """Yield the log of a job piece by piece; with `follow` also while it grows, to the job's end. Details: `Hub.log_pieces`."""
        return self._iterate(
            logs.pieces(self._retries, jobs.id_of(job), attempt=attempt, follow=follow)
        )

    async def cancel(self, job: Job | str) -> Job:
        """End a job: at once where no machine has it, else through its machine. Details: `Hub.cancel`."""
        return await self._run(jobs.cancel(self._retries, jobs.id_of(job)))

    async def requeue(self, job: Job | str) -> str:
        """Run a job again after its end, and return the id of the new one. Details: `Hub.requeue`."""
        return await self._run(jobs.requeue(self._retries, jobs.id_of(job)))

    async def resolve(
        self,
        job: Job | str,
        decision: Decision,
        note: str = "",
    ) -> Job:
        """Decide about a parked job; its machine carries the decision out. Details: `Hub.resolve`."""
        return await self._run(jobs.resolve(self._retries, job, decision, note))

    async def artifacts(self, job: Job | str) -> list[Artifact]:
        """Return the files that a job has left. Details: `Hub.artifacts`."""
        return await self._run(artifacts.listed(self._retries, jobs.id_of(job)))

    def artifact_pieces(
        self, job: Job | str, artifact: Artifact
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of an artifact; the last of them only if all together have its hash. Details: `Hub.artifact_pieces`."""
        return self._iterate(artifacts.pieces(self._retries, jobs.id_of(job), artifact))

    async def download(
        self,
        job: Job | str,
        artifact: Artifact,
        folder: Path | str,
        *,
        replace: bool = False,
    ) -> Path:
        """Download an artifact to its path below a folder, and return that path. Details: `Hub.download`."""
        require_path(artifact)
        top = await run_sync(DownloadFolder, Path(folder))
        try:
            if not await run_sync(top.has, artifact):
                with top.new_file(artifact, replace=replace) as write:
                    async for piece in self.artifact_pieces(job, artifact):
                        await run_sync(write, piece)
        finally:
            top.close()
        return top.path / artifact.path

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        contract: str = "",
        has: str = "",
    ) -> dict[str, Any]:
        """Make any other call of the API (contracts/hub.openapi.json), and return the JSON object in its answer. Details: `Hub.request`."""
        call = Call(
            name=f"{method} {path}",
            method=method,
            path=path,
            body=body,
            contract=contract,
            has=has,
        )
        tries = self._retries.of_safe if method == "GET" else self._retries.of_any
        return await self._run(asked_document(call, tries))

    async def _run(self, operation: Operation[T]) -> T:
        """Carry out an operation, and return its result."""
        step = begun(operation)
        while not isinstance(step, Ended):
            step = resumed(operation, await self._outcome(step))
        return step.value

    async def _iterate(self, stream: Stream[T]) -> AsyncIterator[T]:
        """Carry out a stream, and yield its values."""
        try:
            step = begun(stream)
            while not isinstance(step, Ended):
                if isinstance(step, Item):
                    yield step.value
                step = resumed(stream, await self._outcome(step))
        finally:
            stream.close()

    async def _outcome(self, step: Call | Pause | Item[T]) -> Answer | ClientError:
        """Carry out a step, and return what the operation is to be resumed with."""
        if isinstance(step, Pause):
            await self._pace.sleep(step.seconds)
        if not isinstance(step, Call):
            return NOTHING
        try:
            return await self._send(step)
        except ClientError as error:
            return error

    async def _send(self, call: Call) -> Answer:
        """Send a request, and return whatever is answered.

        Raises:
            ClientError: There is no answer, or none that can be read.
        """
        access, now = self._access, self._pace.now
        request = access.request(call)
        with in_words(call, access.url):
            async with self._http.stream(**request) as reply:
                body = Body(call, access.url, reply, now())
                body.require_plain()
                async for piece in reply.aiter_raw():
                    body.add(piece, now(), access.timeout_s)
                return body.answer
