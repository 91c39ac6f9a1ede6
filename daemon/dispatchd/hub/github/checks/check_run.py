"""Publication of one check: the calls and their order, so that it is published exactly once.

GitHub has no idempotency key to recognise a repeated POST, and the newest check run of a name counts. So it is stored
that a check run may exist before it is made (`Check.asked`). After a kill or an unusable answer the check run is first
looked for by its `external_id`. A run that was just made may not be listed yet, so only the second look, some seconds
after the first, proves that there is none. For a job that isn't the newest of its commit and name no check run is made
any more: its own is concluded, if it has one.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from anyio import to_thread
from attrs import define, evolve, field

from dispatchd.errors import DispatchdError
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.domain.model import ENDED, Check, HubJob, State
from dispatchd.hub.github.api.client import CheckRun, Client
from dispatchd.hub.github.api.pacing import Gates
from dispatchd.hub.github.api.responses import (
    GithubError,
    Invalid,
    NoCredential,
    NoPermission,
    NotPermitted,
    NotThere,
    Unclear,
)
from dispatchd.hub.github.app.needs import CHECKS
from dispatchd.hub.github.checks.conclusions import is_conclusion, standing
from dispatchd.hub.github.checks.report import (
    ANNOTATIONS_AT_ONCE,
    Report,
    external_id,
    report,
)
from dispatchd.hub.storage.jobs.checks import JobCheck
from dispatchd.protocol.job import Json
from dispatchd.redaction.redactor import Redactor

SECOND_LOOK_S: Final = 3.0
"""Wait between the first and the second look for a check run (seconds)."""

_THREAD_LENGTH: Final = 16 * 1024
"""Size from which texts are redacted in a worker thread, so that the event loop isn't blocked (characters)."""

CHECK: Final = "check"
STATUS: Final = "status"

STATUSES: Final = "statuses"
"""GitHub's name of the permission for commit statuses."""

Keep = Callable[[Check], Awaitable[None]]


class LookAgain(DispatchdError):
    """A check run wasn't found, but may still appear; look again in `wait_s` (seconds)."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        super().__init__(wait_s)


@define
class Looks:
    """Times of the first look for each check run that wasn't found; `clock` is monotonic (seconds)."""

    clock: Callable[[], float]
    _first: dict[str, float] = field(factory=dict, init=False)

    def note(self, external_id: str) -> None:
        """Count a look that has found nothing.

        Raises:
            LookAgain: It was the first, or too soon after that.
        """
        now = self.clock()
        due_at = self._first.setdefault(external_id, now) + SECOND_LOOK_S
        if now < due_at:
            raise LookAgain(due_at - now)

    def forget(self, external_id: str) -> None:
        """Forget the first look for a check run."""
        self._first.pop(external_id, None)


@define(kw_only=True)
class Publication:
    """Publishes one check for the current state of its job."""

    client: Client
    settings: GithubSettings
    redactor: Redactor
    gates: Gates
    looks: Looks
    keep: Keep
    """Stores a check durably."""
    pending: JobCheck
    """Check and job as they were read."""
    check: Check = field(init=False)
    """The check as it is now; the caller stores it in the end, however the publication ends."""

    def __attrs_post_init__(self) -> None:
        self.check = self.pending.check

    @property
    def job(self) -> HubJob:
        """The job that the check shows."""
        return self.pending.job

    async def report(self) -> Report:
        """Return the report to publish, in the check's round."""
        job, check, settings = self.job, self.check, self.settings
        if len(job.result_details) + len(job.result_output) < _THREAD_LENGTH:
            return report(job, check, settings, self.redactor)
        return await to_thread.run_sync(report, job, check, settings, self.redactor)

    async def run(self) -> None:
        """Publish the check.

        Raises:
            NotPermitted: It is forbidden.
            LookAgain: A check run wasn't found, but may still appear.
            GithubError: GitHub doesn't accept it now.
        """
        if is_conclusion(self.check.told) and self.check.kind == CHECK:
            self._begin_round()
        check_report = await self.report()
        try:
            if await self._by_status():
                await self._publish_status(check_report)
            else:
                await self._publish_check(check_report)
        except NotPermitted:
            self.client.credentials.doubt(self.check.installation)
            raise
        self.check = evolve(self.check, told=check_report.standing.told)

    async def _by_status(self) -> bool:
        """Return whether to set a commit status, because the hub's token can't write checks.

        Raises:
            NoPermission: The token may do neither.
        """
        check = self.check
        if not self.settings.is_app or check.kind == STATUS:
            return True
        may_write = self.client.credentials.may_write
        if await may_write(check.installation, CHECKS) is not False:
            return False
        is_new = check.kind != CHECK
        if is_new and await may_write(check.installation, STATUSES) is not False:
            return True
        reason = "the App's installation doesn't permit checks"
        if is_new:
            reason += ", nor commit statuses in their place"
        raise NoPermission(call="publish a check", reason=reason)

    def _begin_round(self) -> None:
        # Reopening a concluded check run is unreliable; the docs ask for a new one of the same name.
        number = self.check.round + 1
        self.check = evolve(
            self.check, round=number, check_run_id=0, asked=False, told=""
        )

    async def _publish_check(self, check_report: Report) -> None:
        try:
            run = await self._known_or_found(check_report)
            if run is not None and run.conclusion not in (
                "",
                check_report.standing.check_state,
            ):
                self._begin_round()
                check_report, run = await self.report(), None
            if run is None:
                await self._create_if_wanted(check_report)
                return
        except NoCredential:
            raise
        except NotPermitted as refusal:
            await self._fall_back(check_report, refusal)
            return
        await self._update(check_report, run)

    async def _fall_back(self, check_report: Report, refusal: NotPermitted) -> None:
        """Set a commit status for a forbidden check, where the token's permissions are unknown.

        Raises:
            NotPermitted: The permissions are known, or the commit status is forbidden as well.
        """
        installation = self.check.installation
        said = await self.client.credentials.may_write(installation, CHECKS)
        if self.check.kind == CHECK or said is not None:
            raise refusal
        self.gates.spend(installation)
        try:
            await self._publish_status(check_report)
        except NotPermitted:
            raise refusal from None

    async def _publish_status(self, check_report: Report) -> None:
        if not self.pending.is_newest:
            return
        check = self.check
        body = check_report.status()
        await self.client.create_status(
            check.installation, check.repository, check.sha, body
        )
        self.check = evolve(check, kind=STATUS, asked=False)

    async def _known_or_found(self, check_report: Report) -> CheckRun | None:
        """Return this round's check run, or None if it is certain that there is none."""
        check = self.check
        if check.check_run_id:
            if check_report.annotations or check.asked:
                return await self._read(check_report)
            return CheckRun(id=check.check_run_id)
        if not check.asked:
            return None
        run = await self._look(check_report)
        if run is None:
            self.looks.note(check_report.external_id)
        return run

    async def _read(self, check_report: Report) -> CheckRun | None:
        """Return the known check run as GitHub has it, with the number of its annotations."""
        check = self.check
        try:
            return await self.client.check_run(
                check.installation, check.repository, check.check_run_id
            )
        except NotThere:
            return await self._lost(check_report)

    async def _look(self, check_report: Report) -> CheckRun | None:
        check = self.check
        runs = await self.client.check_runs(
            check.installation,
            check.repository,
            check.sha,
            check.name,
            self.settings.app_id,
        )
        # Newest first: of two the newest counts.
        of_ours = (run for run in runs if run.external_id == check_report.external_id)
        run = next(of_ours, None)
        if run is not None:
            self._is(run)
        return run

    async def _lost(self, check_report: Report) -> CheckRun | None:
        """Forget a check run that no longer exists; return the one that has taken its place, or None."""
        self.check = evolve(self.check, check_run_id=0, asked=True)
        await self.keep(self.check)
        return await self._look(check_report)

    async def _create_if_wanted(self, check_report: Report) -> None:
        if self.job.state is State.IGNORED or not self.pending.is_newest:
            self.check = evolve(self.check, asked=False)
        else:
            await self._create(check_report)

    async def _create(self, check_report: Report) -> None:
        check = evolve(self.check, asked=True)
        await self.keep(check)
        self.check = check
        self.looks.forget(check_report.external_id)
        try:
            run, whole = await self._whole_or_smallest(
                check_report.creation(),
                check_report.smallest(create=True),
                lambda body: self.client.create_check_run(
                    check.installation, check.repository, body
                ),
            )
        except Unclear:
            raise
        except GithubError:
            # Rejected, so it wasn't made.
            self.check = evolve(check, asked=False)
            raise
        self._is(run)
        if whole:
            await self._annotate(check_report, run.id, ANNOTATIONS_AT_ONCE)

    async def _update(self, check_report: Report, run: CheckRun) -> None:
        if check_report.standing.is_conclusion and self.job.state not in ENDED:
            # The job may continue before it is known that GitHub has accepted this.
            self.check = evolve(self.check, asked=True)
            await self.keep(self.check)
        try:
            _, whole = await self._whole_or_smallest(
                check_report.update(run.annotations),
                check_report.smallest(create=False),
                lambda body: self._patch(run.id, body),
            )
        except NotThere:
            other = await self._lost(check_report)
            self.gates.spend(self.check.installation)
            if other is not None:
                raise
            await self._create_if_wanted(check_report)
            return
        self._is(run)
        if whole:
            await self._annotate(
                check_report, run.id, run.annotations + ANNOTATIONS_AT_ONCE
            )

    async def _annotate(
        self, check_report: Report, run_id: int, published: int
    ) -> None:
        """Add the annotations that aren't published yet."""
        if published < len(check_report.annotations):
            await self.keep(self.check)
        while published < len(check_report.annotations):
            self.gates.spend(self.check.installation)
            await self._patch(run_id, check_report.further(published))
            published += ANNOTATIONS_AT_ONCE

    async def _whole_or_smallest(
        self,
        whole: dict[str, Json],
        smallest: dict[str, Json],
        send: Callable[[dict[str, Json]], Awaitable[CheckRun]],
    ) -> tuple[CheckRun, bool]:
        """Send the full body, or the smallest one if that is invalid; return the check run, and True for the full one."""
        try:
            return await send(whole), True
        except Invalid:
            self.gates.spend(self.check.installation)
            return await send(smallest), False

    async def _patch(self, run_id: int, body: dict[str, Json]) -> CheckRun:
        check = self.check
        return await self.client.update_check_run(
            check.installation, check.repository, run_id, body
        )

    def _is(self, run: CheckRun) -> None:
        self.looks.forget(external_id(self.job.id, self.check.round))
        self.check = evolve(self.check, kind=CHECK, check_run_id=run.id, asked=False)


def is_published(pending: JobCheck, settings: GithubSettings) -> bool:
    """Return whether nothing has to be published: GitHub has the job's state already, or need not know of the job."""
    check, job = pending.check, pending.job
    if check.asked:
        return False
    if job.state is State.IGNORED and not check.told:
        return True
    expected = standing(job, partially_succeeded=settings.partially_succeeded)
    return expected.told == check.told
