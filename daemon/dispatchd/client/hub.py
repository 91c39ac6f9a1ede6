"""The synchronous client of a hub."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from dispatchd.client import artifacts, jobs, logs
from dispatchd.client.connection import Access, Body, in_words, url_and_token
from dispatchd.client.errors import ClientError
from dispatchd.client.folder import DownloadFolder, require_path
from dispatchd.client.jobs import Decision
from dispatchd.client.pace import Pace
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


class Hub:
    """Client of a hub. It keeps connections open until `close`; threads may share it.

    A call that fails raises a `ClientError`. One that can be repeated without harm is repeated, after growing waits or
    the one that the hub asks for (Retry-After).

    Args:
        url: The hub's address, such as `https://hub.example.com`.
        token: A token of the hub, with the scopes that the calls need.
        ca_file: PEM bundle that is trusted instead of the system's CAs.
        certificate_file: PEM of the hub's own certificate: the only one trusted, for whichever name. It excludes `ca_file`.
        timeout_s: Longest wait for an answer, beside the time for which the hub was asked to hold it (seconds).
        retries: Most repetitions of a call (count).
        pace: Time and randomness, for tests.

    Raises:
        InvalidSetup: One of these can't be used.
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
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace or Pace()
        self._retries = Retries(most=retries, draw=self._pace.draw)
        self._access = Access(
            url=url,
            token=token.strip(),
            ca_file=Path(ca_file) if ca_file else None,
            certificate_file=Path(certificate_file) if certificate_file else None,
            timeout_s=timeout_s,
        )
        self._http = httpx.Client(**self._access.options())

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Hub":
        """Return the client of the hub that `DISPATCHD_HUB_URL` and `DISPATCHD_HUB_TOKEN` name, as for the command line.

        Raises:
            InvalidSetup: One of them is missing or can't be used.
        """
        return cls(*url_and_token(environment))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
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
        """Queue a job, and return its id. However often its answer is lost, it is queued once. Needs the scope `submit`.

        Args:
            workflow: The workflow.
            fields: Inputs of the run, which finds them as `.inputs` in $GITHUB_EVENT_PATH.
            repository: Full name of the repository, as OWNER/NAME.
            ref: Full git ref, such as refs/heads/main.
            sha: The commit, in lower-case hex.
            priority: Jobs of a higher one go out first (-1000 to 1000).
            key: Idempotency key: all submits with one key are one job, also those of another program or a later day.

        Raises:
            Conflict: The key was used for another job.
            AnswerLost: The job may have been queued; the reason names its id.
            ClientError: The hub refuses, or isn't to be reached.
        """
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
        return self._run(
            jobs.submit(
                self._retries, request, name=f"run {workflow}", is_key=bool(key)
            )
        )

    def submit_document(self, document: Mapping[str, Any]) -> str:
        """Queue a job with any fields (contracts/schemas/submit-request.schema.json), and return its id.

        Raises:
            Conflict: Its `id` is taken.
            AnswerLost: The job may have been queued; the reason names its id.
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._run(
            jobs.submit(self._retries, document, name="submit the job", is_key=False)
        )

    def get(self, job: Job | str) -> Job:
        """Return a job as it is now. Needs the scope `read`.

        Raises:
            NotFound: There is none.
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._run(jobs.get(self._retries, jobs.id_of(job)))

    def jobs(
        self,
        *,
        state: JobState | str = "",
        repository: str = "",
        workflow: str = "",
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Yield jobs, the newest first. Pages are fetched as they are needed.

        Args:
            state: Only those in this state.
            repository: Only those of this repository, as OWNER/NAME.
            workflow: Only those of this workflow.
            limit: Largest number of jobs (count); None for all.

        Raises:
            ClientError: The hub refuses, or isn't to be reached.
        """
        filters = {"state": state, "repository": repository, "workflow": workflow}
        return self._iterate(jobs.listed(self._retries, filters, limit))

    def wait(self, job: Job | str, timeout_s: float | None = None) -> Job:
        """Return a job once it has ended. The hub may be away for a minute meanwhile.

        Args:
            job: The job.
            timeout_s: Longest wait (seconds); None for any.

        Raises:
            WaitTimeout: It has not ended in time.
            ClientError: The hub refuses, or stays away.
        """
        job_id, now = jobs.id_of(job), self._pace.now
        return self._run(jobs.wait(self._retries, job_id, timeout_s, now))

    def watch(self, job: Job | str) -> Iterator[Job]:
        """Yield a job as it is now, and again after each change of it, to its end. Changes in quick succession may come as one.

        Raises:
            ClientError: The hub refuses, or stays away.
        """
        return self._iterate(jobs.watch(self._retries, jobs.id_of(job)))

    def log(self, job: Job | str, *, attempt: int | None = None) -> str:
        """Return the log of a job as far as the hub has it; what is no UTF-8 is replaced.

        Args:
            job: The job.
            attempt: Only the log of this attempt, by its place among those of the job (from 1); None for all.

        Raises:
            ClientError: The hub refuses, or isn't to be reached.
        """
        pieces = self.log_pieces(job, attempt=attempt)
        return b"".join(piece.data for piece in pieces).decode(errors="replace")

    def log_pieces(
        self, job: Job | str, *, attempt: int | None = None, follow: bool = False
    ) -> Iterator[LogPiece]:
        """Yield the log of a job piece by piece; with `follow` also while it grows, to the job's end.

        Args:
            job: The job.
            attempt: Only the log of this attempt, by its place among those of the job (from 1); None for all.
            follow: True to wait for more. The hub may be away for a minute meanwhile.

        Raises:
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._iterate(
            logs.pieces(self._retries, jobs.id_of(job), attempt=attempt, follow=follow)
        )

    def cancel(self, job: Job | str) -> Job:
        """End a job: at once where no machine has it, else through its machine. Needs the scope `admin`.

        Raises:
            Gone: It has ended already.
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._run(jobs.cancel(self._retries, jobs.id_of(job)))

    def requeue(self, job: Job | str) -> str:
        """Run a job again after its end, and return the id of the new one. Needs the scope `admin`.

        Raises:
            Conflict: It has not ended.
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._run(jobs.requeue(self._retries, jobs.id_of(job)))

    def resolve(
        self,
        job: Job | str,
        decision: Decision,
        note: str = "",
    ) -> Job:
        """Decide about a parked job; its machine carries the decision out. Needs the scope `admin`.

        Args:
            job: The job. With a `Job` the decision counts for the stay in `needs_attention` that it shows, and for no later one.
            decision: Another attempt, or how it has ended.
            note: The reason, which becomes part of the job's summary.

        Raises:
            Conflict: It isn't parked, or its machine takes no decisions from the hub.
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._run(jobs.resolve(self._retries, job, decision, note))

    def artifacts(self, job: Job | str) -> list[Artifact]:
        """Return the files that a job has left.

        Raises:
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._run(artifacts.listed(self._retries, jobs.id_of(job)))

    def artifact_pieces(self, job: Job | str, artifact: Artifact) -> Iterator[bytes]:
        """Yield the bytes of an artifact; the last of them only if all together have its hash.

        Raises:
            BytesDiffer: They have another one.
            ClientError: The hub refuses, or isn't to be reached.
        """
        return self._iterate(artifacts.pieces(self._retries, jobs.id_of(job), artifact))

    def download(
        self,
        job: Job | str,
        artifact: Artifact,
        folder: Path | str,
        *,
        replace: bool = False,
    ) -> Path:
        """Download an artifact to its path below a folder, and return that path. The file appears once it is whole and has its hash.

        Args:
            job: The job.
            artifact: The artifact.
            folder: The folder, which is made if it is missing. Nothing is written outside of it.
            replace: True to replace another file in its place. One with the same bytes is left as it is.

        Raises:
            BytesDiffer: The bytes have another hash.
            PathTaken: Another file is there.
            NotStored: It can't be written.
            ClientError: The hub refuses, or isn't to be reached.
        """
        require_path(artifact)
        with DownloadFolder(Path(folder)) as top:
            if not top.has(artifact):
                with top.new_file(artifact, replace=replace) as write:
                    for piece in self.artifact_pieces(job, artifact):
                        write(piece)
            return top.path / artifact.path

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        contract: str = "",
        has: str = "",
    ) -> dict[str, Any]:
        """Make any other call of the API (contracts/hub.openapi.json), and return the JSON object in its answer.

        A GET is repeated like other calls; any other call only if it surely had no effect.

        Args:
            method: The method of HTTP.
            path: Path and query, encoded.
            body: The body, as a JSON value; None for no body.
            contract: Contract that the answer has to keep, such as `hub-machine`.
            has: Member that the answer has to have. If both are empty, there is no answer beside its status, 204.

        Raises:
            ClientError: The hub refuses, isn't to be reached, or answers in another way.
        """
        call = Call(
            name=f"{method} {path}",
            method=method,
            path=path,
            body=body,
            contract=contract,
            has=has,
        )
        tries = self._retries.of_safe if method == "GET" else self._retries.of_any
        return self._run(asked_document(call, tries))

    def _run(self, operation: Operation[T]) -> T:
        """Carry out an operation, and return its result."""
        step = begun(operation)
        while not isinstance(step, Ended):
            step = resumed(operation, self._outcome(step))
        return step.value

    def _iterate(self, stream: Stream[T]) -> Iterator[T]:
        """Carry out a stream, and yield its values."""
        try:
            step = begun(stream)
            while not isinstance(step, Ended):
                if isinstance(step, Item):
                    yield step.value
                step = resumed(stream, self._outcome(step))
        finally:
            stream.close()

    def _outcome(self, step: Call | Pause | Item[T]) -> Answer | ClientError:
        """Carry out a step, and return what the operation is to be resumed with."""
        if isinstance(step, Pause):
            self._pace.sleep(step.seconds)
        if not isinstance(step, Call):
            return NOTHING
        try:
            return self._send(step)
        except ClientError as error:
            return error

    def _send(self, call: Call) -> Answer:
        """Send a request, and return whatever is answered.

        Raises:
            ClientError: There is no answer, or none that can be read.
        """
        access, now = self._access, self._pace.now
        request = access.request(call)
        with in_words(call, access.url), self._http.stream(**request) as reply:
            body = Body(call, access.url, reply, now())
            body.require_plain()
            for piece in reply.iter_raw():
                body.add(piece, now(), access.timeout_s)
            return body.answer
