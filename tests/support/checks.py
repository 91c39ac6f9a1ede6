"""A hub that tells a GitHub of its jobs, and the seam by which tests give it jobs with checks.

In a hub the intake makes a check's row in the transaction of its job; here a test does, by the same stores.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from anyio import to_thread
from attrs import define, field
from sqlalchemy import make_url

from dispatchd.hub.domain.model import Check, Submission
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.checks import CheckStore, JobCheck
from support.github import APP_ID, INSTALLATION, REPOSITORY
from support.github_api import SHA, GithubApi
from support.hub import Hub, HubHere, hub
from support.hub_process import HubProcess
from support.hub_process import hub as hub_process
from support.machine import Held, Machine
from support.until import in_time

CREATED_AT = 1_795_600_000.0


class Github(Protocol):
    """Where a GitHub is, and the App's private key."""

    key: str

    @property
    def url(self) -> str: ...


H = TypeVar("H", bound=Hub)


@define(kw_only=True)
class ChecksHub(Generic[H]):
    """The hub, its database, and a machine."""

    server: H
    database: Database
    github: Github
    store: CheckStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = CheckStore(self.database)

    @property
    def machine(self) -> Machine:
        return Machine(http=self.server.http)

    def add(self, job_id: str, *, received: bool = False, **options: Any) -> None:
        """Keep a new job and its check, under a name of its own, in one transaction."""
        document = {
            "id": job_id,
            "dag_name": "ci",
            "repository_name": REPOSITORY,
            "sha": SHA,
        }
        made = {
            "installation": INSTALLATION,
            "repository": REPOSITORY,
            "sha": SHA,
            "name": f"ci {job_id}",
            **options,
        }
        submission = Submission(
            id=job_id,
            document={**document},
            payload="null",
            headers="null",
            received=received,
            check=Check(**made),
        )
        with self.database.transaction() as db:
            job = Admission(self.database).admit(
                db, submission, now=CREATED_AT, most=100_000
            )
            assert job is not None

    async def ring(self) -> None:
        """Let the hub look: a job of its own changes, which nobody is told of."""
        reply = await self.server.http.post("/api/v1/jobs", json={"dag_name": "other"})
        job_id = reply.json()["id"]
        await self.server.http.post(f"/api/v1/jobs/{job_id}/cancel")

    async def pull(self) -> Held:
        return await self.machine.pull()

    async def finish(
        self, held: Held, status: str, cause: str = "", **more: Any
    ) -> None:
        fields = {"result_status": status, "result_summary": f"It is {status}.", **more}
        if cause:
            fields["result_cause"] = cause
        reply = await held.machine.call(
            "finish", held.id, claim_token=held.token, **fields
        )
        assert reply.status_code == 204, reply.text

    async def paid(self, within_s: float = 90) -> None:
        """Wait until GitHub has been told everything; waits of the hub pass at once."""

        async def all_told() -> bool:
            return await to_thread.run_sync(self.store.pending_count) == (0, 0)

        try:
            await self.in_time(all_told, within_s)
        except AssertionError as error:
            log = self.server.log_file.read_text()
            raise AssertionError(log[-8000:]) from error

    async def in_time(self, look: Callable[[], object], within_s: float = 60) -> None:
        """Return once a look returns something true; the time of a hub in this process moves on meanwhile."""
        await in_time(look, is_idle=self._is_idle, within_s=within_s)

    def _is_idle(self) -> bool:
        """Return whether time may move on: no call to GitHub that will be answered is in progress."""
        return (
            isinstance(self.server, HubHere)
            and isinstance(self.github, GithubApi)
            and not self.github.in_progress
        )

    def check(self, job_id: str) -> Check:
        job_check: JobCheck | None = self.store.get(job_id)
        assert job_check is not None
        return job_check.check


def github_table(folder: Path, github: Github, *more: str, token: str = "") -> str:
    """Return the table `[github]` of a hub's configuration, and write the files that it names."""
    secret = folder / "webhook-secret"
    secret.write_text("s3cret")
    lines = [
        "[github]",
        f'api_url = "{github.url}"',
        f'webhook_secret_files = ["{secret}"]',
        'public_url = "https://hub.example/base/"',
        "writes_per_minute = 1000000"
        if not any("writes" in line for line in more)
        else "",
    ]
    if token:
        file = folder / "token"
        file.write_text(f"{token}\n")
        lines.append(f'token_file = "{file}"')
    else:
        key = folder / "app.pem"
        key.write_text(github.key)
        lines += [f"app_id = {APP_ID}", f'private_key_file = "{key}"']
    return "\n".join([*lines, *more])


@asynccontextmanager
async def checks_hub(
    folder: Path, github: Github, *more: str, token: str = "", **options: Any
) -> AsyncIterator[ChecksHub[HubHere]]:
    """Run a hub that tells a GitHub of its jobs, for the length of a block."""
    table = github_table(folder, github, *more, token=token)
    # So that no lease ends while the hub waits for GitHub.
    options = {"lease_s": 86_400.0, **options}
    async with hub(folder / "hub", more=table, **options) as server:
        with _with_checks(server, github) as checks:
            yield checks


@asynccontextmanager
async def checks_hub_process(
    folder: Path, github: Github, *more: str, token: str = "", **options: Any
) -> AsyncIterator[ChecksHub[HubProcess]]:
    """Run such a hub in a process of its own."""
    table = github_table(folder, github, *more, token=token)
    async with hub_process(folder / "hub", more=table, **options) as server:
        with _with_checks(server, github) as checks:
            yield checks


@contextmanager
def _with_checks(server: H, github: Github) -> Iterator[ChecksHub[H]]:
    database = Database.open(database_of(server))
    try:
        yield ChecksHub(server=server, database=database, github=github)
    finally:
        database.close()


def database_of(server: Hub) -> str:
    url = make_url(server.database_url)
    if url.drivername == "sqlite":
        return f"sqlite:///{server.folder / str(url.database)}"
    return server.database_url
