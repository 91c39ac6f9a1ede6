"""The log of an attempt whose number was that of another one, which never began."""

from pathlib import Path
from random import Random
from typing import cast

import anyio
from attrs import define, evolve, field

from dispatchd.agent.domain.delivery import LogAnswer
from dispatchd.agent.domain.job import Attempt, TrackedJob
from dispatchd.agent.domain.phase import Event
from dispatchd.agent.domain.workflow import Workflow
from dispatchd.agent.loops.logs.loop import LogLoop
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.log_debts import LogDebts
from dispatchd.agent.tracking.ports import Source
from dispatchd.agent.tracking.tracked_jobs import Tracking
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.concurrency.notifier import Notifier
from dispatchd.linux.clock import SteadyClock
from dispatchd.protocol.extensions import LOG
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict
from dispatchd.protocol.report import LogChunk
from dispatchd.redaction.known_secrets import KnownSecrets
from dispatchd.redaction.redactor import Redactor
from support.current import current_config
from support.until import until

WORKFLOW = Workflow(
    name="it",
    command=("/bin/true",),
    max_duration_s=9,
    inactivity_s=0,
    kill_grace_s=1,
    max_retries=0,
)
JOB = Job(id="j", workflow="it", extensions=(LOG,))


@define
class Endpoint:
    """Takes logs."""

    text: bytes = b""
    whole: list[str] = field(factory=list)

    async def log(self, record: TrackedJob, chunk: LogChunk) -> LogAnswer:
        assert record.job.id == "j"
        self.text = self.text[: chunk.offset] + chunk.data
        if chunk.whole:
            self.whole.append(chunk.whole)
        return LogAnswer(offset=len(self.text), watching=True)


async def starting(tracking: Tracking, redactor: Redactor) -> None:
    now = tracking.context.clock.now()
    attempt = Attempt(number=1, started_at=now, deadline_at=now, terms=WORKFLOW.terms)
    record = await tracking.tracker.apply(
        "j",
        Event.ATTEMPT_STARTING,
        change=lambda before: before.with_attempt(attempt),
    )
    tracking.logs.begin(record, attempt, redactor)


async def test_an_attempt_that_never_began_takes_no_log_and_no_secret_from_the_next(
    tmp_path: Path,
) -> None:
    store, _ = JobStore.open(tmp_path)
    tracking = Tracking.of(
        current_config(tmp_path, {"it": WORKFLOW}),
        store,
        SteadyClock.open(tmp_path),
        BugFence(),
        random=Random(0),
        changed=Notifier(),
    )
    endpoint, debts = Endpoint(), LogDebts.open(tmp_path)
    loop = LogLoop(
        source=cast("Source", endpoint),
        tracking=tracking,
        debts=debts,
        known=KnownSecrets(),
    )
    tracker, run = tracking.tracker, tracking.runs.folder("j")
    await tracker.receive(JOB, store_texts=lambda: None)
    await tracker.apply("j", Event.ACCEPT_CONFIRMED)
    run.output_file(1).parent.mkdir(parents=True)
    run.output_file(1).touch()
    async with anyio.create_task_group() as tasks:
        await tasks.start(loop.run)
        tracking.logs.note("j", watching=True)
        await starting(tracking, Redactor.of(["the-first-token"]))
        await until(lambda: debts.list() == ["j"])
        await anyio.wait_all_tasks_blocked()

        await tracker.apply(
            "j",
            Event.ATTEMPT_NEVER_STARTED,
            change=lambda before: evolve(before, attempts=()),
        )
        await starting(tracking, Redactor.of(["the-second-token"]))
        run.output_file(1).write_text("the-second-token is here\n")
        await tracker.apply(
            "j",
            Event.DECIDED,
            verdict=Verdict(outcome=Outcome.SUCCEEDED, summary="Done."),
        )
        await until(lambda: bool(endpoint.whole))
        tasks.cancel_scope.cancel()
    store.close()

    assert endpoint.text == b"[redacted] is here\n"
