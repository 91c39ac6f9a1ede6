"""The hub's jobs against a model: whatever machines, people and time do, a job has one holder and one result."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from typing_extensions import override

from dispatchd.hub.config.load import Leases
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.errors import HubError
from dispatchd.hub.domain.model import (
    ENDED,
    HELD,
    HubJob,
    Result,
    Standing,
    State,
    Submission,
)
from dispatchd.hub.queue.admission import Admission
from dispatchd.hub.storage.database import Database
from dispatchd.hub.storage.jobs.reader import Filter, JobReader
from dispatchd.hub.storage.jobs.store import JobStore
from support.state_machines import run_for_long
from support.torture import Torture

LEASE_S = 10.0
PATIENCE_S = 20.0
UNHEARD_S = 40.0
MOST_EXPIRIES = 2
LEASES = Leases(seconds=LEASE_S, patience_s=PATIENCE_S, unheard_s=UNHEARD_S)

machines = st.sampled_from(["m1", "m2"])
repositories = st.sampled_from(["", "o/a", "o/b"])
results = st.sampled_from(["succeeded", "failed", "aborted", "rejected"])
phases = st.sampled_from(["accepted", "running", "needs_attention"])


@define
class Expected:
    """What the model knows of a job."""

    claims: list[Claim] = field(factory=list)
    """Every claim that was handed out, the newest last."""
    current: Claim | None = None
    """The claim that counts, also while it has lapsed."""
    lapsed: bool = False
    released: Claim | None = None
    """The claim under which it was handed back, until it is handed out again; it may still say how the job ended."""
    released_before: Claim | None = None
    """The same before the newest claim."""
    before: HubJob | None = None
    """The job before its newest claim, which may still be taken back."""
    accepted: bool = False
    """Whether any machine has ever accepted it."""
    cancelled: bool = False
    """Whether its end was promised to somebody."""
    result: str = ""
    """What the hub has acknowledged as the result."""
    ended: bool = False


class Hub(RuleBasedStateMachine):
    """`jobs` is what the hub should say."""

    empty: Path
    """A new hub's database, from which others are copied: to make one takes a while."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dispatchd-hub-"))
        shutil.copy(self.empty, self.folder / "hub.db")
        self.has_changed = False
        """Whether a restart would show anything new."""
        self.jobs: dict[str, Expected] = {}
        self.now = 1000.0
        self.tokens = 0
        self.open()

    def open(self) -> None:
        self.database = Database.open(f"sqlite:///{self.folder}/hub.db")
        self.store, self.reader = JobStore(self.database), JobReader(self.database)
        self.admission = Admission(self.database)

    @override
    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    @initialize(repository=repositories, priority=st.integers(-1, 1))
    def begin(self, repository: str, priority: int) -> None:
        self.submit(repository, priority)

    @rule(repository=repositories, priority=st.integers(-1, 1))
    def submit(self, repository: str, priority: int) -> None:
        job_id = f"job-{len(self.jobs)}"
        document = {"id": job_id, "dag_name": "ci", "repository_name": repository}
        submission = Submission(
            id=job_id,
            document={**document},
            payload="{}",
            headers="{}",
            priority=priority,
        )
        assert self.admission.submit(submission, now=self.now, most=1000) is not None
        assert self.admission.submit(submission, now=self.now, most=1000) is None
        self.jobs[job_id] = Expected()
        self.has_changed = True

    @rule(machine=machines)
    def claim(self, machine: str) -> None:
        self.tokens += 1
        claim = Claim(machine=machine, token_hash=f"t{self.tokens}")
        queued = self.reader.list(Filter(state="queued", limit=1000))
        found = self.store.claim(
            machine, claim.token_hash, None, now=self.now, lease_s=LEASE_S
        )
        assert (found is None) == (not queued)
        if found is not None:
            expected = self.jobs[found.job.id]
            assert not expected.ended
            assert not expected.cancelled
            assert expected.current is None or expected.lapsed
            assert found.job.priority == max(job.priority for job in queued)
            expected.claims.append(claim)
            expected.current, expected.lapsed = claim, False
            expected.released, expected.released_before = None, expected.released
            expected.before = found.before
            self.has_changed = True

    @precondition(lambda self: any(each.claims for each in self.jobs.values()))
    @rule(
        data=st.data(),
        call=st.sampled_from(["accept", "beat", "release", "take_back"]),
        phase=phases,
    )
    def tell(self, data: st.DataObject, call: str, phase: str) -> None:
        job_id, claim = self._some_claim(data)
        lease = self.now + LEASE_S
        standing = Standing(phase=phase)
        expected = self.jobs[job_id]
        before = expected.before or HubJob(id=job_id, document={})
        decisions = {
            "accept": lambda job: claim_rules.accept(
                job, claim, run_id=claim.token_hash, now=self.now, lease_until=lease
            ),
            "beat": lambda job: claim_rules.beat(
                job, claim, standing=standing, lease_until=lease
            ),
            "release": lambda job: claim_rules.release(job, claim, now=self.now),
            "take_back": lambda job: claim_rules.take_back(
                job, claim, before=before, now=self.now
            ),
        }
        may = not expected.ended and claim == expected.current
        newest = claim == expected.claims[-1]
        if call == "take_back" and not (may and newest and expected.before):
            # The hub takes back only what it has just handed out.
            return
        try:
            changed = self.store.change(job_id, decisions[call])
        except HubError:
            assert not may
            return
        assert changed is not None
        was, after = changed
        self.has_changed = True
        if not may:
            # A repeated release; or a heartbeat of what the hub has ended, which hears of it.
            assert newest
            assert was == after
            assert call == "release" or (
                call == "beat" and claim_rules.wants_end(after)
            )
        elif call in ("release", "take_back"):
            expected.current, expected.ended = None, expected.cancelled
            expected.lapsed = False
            expected.released = claim
            if call == "take_back":
                expected.released = expected.released_before
                expected.claims.pop()
                expected.before = None
                if before.lapsed and not expected.ended:
                    # The claim before it counts again.
                    expected.current = Claim(
                        machine=before.machine, token_hash=before.token_hash
                    )
                    expected.lapsed = True
        else:
            expected.lapsed = False
            assert claim_rules.wants_end(after) == expected.cancelled
            if call == "accept":
                # What nobody has ever accepted has not begun, so a cancel ends it.
                expected.ended = expected.cancelled and not expected.accepted
                expected.accepted = True

    @precondition(lambda self: any(each.claims for each in self.jobs.values()))
    @rule(data=st.data(), result=results)
    def finish(self, data: st.DataObject, result: str) -> None:
        job_id, claim = self._some_claim(data)
        expected = self.jobs[job_id]
        holds = claim in (expected.current, expected.released)
        try:
            self.store.change(
                job_id,
                lambda job: claim_rules.finish(
                    job, claim, result=Result(status=result), now=self.now
                ),
            )
        except HubError:
            assert expected.ended or not holds
            return
        self.has_changed = True
        assert holds
        assert expected.result in ("", result)
        expected.result, expected.ended = result, True

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        expected = self.jobs[job_id]
        try:
            self.store.change(job_id, lambda job: claim_rules.cancel(job, now=self.now))
        except HubError:
            assert expected.ended
            return
        self.has_changed = True
        expected.cancelled = True
        if expected.current is None or expected.lapsed:
            expected.ended = True

    @precondition(lambda self: self.jobs)
    @rule(
        seconds=st.sampled_from(
            [1.0, LEASE_S, LEASE_S + PATIENCE_S, LEASE_S + UNHEARD_S]
        )
    )
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = self.store.next_expiry(LEASES)
        taken = self.store.expire(
            lambda job: claim_rules.expire(job, now=self.now, most=MOST_EXPIRIES),
            now=self.now,
            leases=LEASES,
        )
        assert bool(taken) == (due is not None and due <= self.now)
        for job in taken:
            expected = self.jobs[job.id]
            assert expected.current is not None
            assert (job.state is State.QUEUED) == (
                job.expiries <= MOST_EXPIRIES and not job.cancel_requested
            )
            expected.ended = job.state is not State.QUEUED
            expected.lapsed = not expected.ended
            self.has_changed = True

    @precondition(lambda self: self.has_changed)
    @rule()
    def restart(self) -> None:
        self.has_changed = False
        self.database.close()
        self.open()

    @invariant()
    def each_job_is_as_the_model_has_it(self) -> None:
        for job in self.reader.list(Filter(limit=1000)):
            expected = self.jobs[job.id]
            assert (job.state in ENDED) == expected.ended
            if expected.result:
                assert job.state == expected.result
            held = expected.current is not None and not expected.lapsed
            assert (job.state in HELD) == (held and not expected.ended)
            attempts = self.reader.attempts(job.id)
            assert [each.number for each in attempts] == [
                number + 1 for number in range(len(expected.claims))
            ]
            open_ones = [each for each in attempts if not each.outcome]
            assert len(open_ones) == (job.state in HELD)

    def _some_claim(self, data: st.DataObject) -> tuple[str, Claim]:
        """Draw a claim of some job, which may be stale."""
        claimed = sorted(job_id for job_id, each in self.jobs.items() if each.claims)
        job_id = data.draw(st.sampled_from(claimed))
        return job_id, data.draw(st.sampled_from(self.jobs[job_id].claims))


Hub.TestCase.settings = settings(max_examples=8, stateful_step_count=40, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    Hub.empty = tmp_path_factory.mktemp("empty") / "hub.db"
    Database.open(f"sqlite:///{Hub.empty}").close()
    yield
    del Hub.empty


TestHub = Hub.TestCase


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_hub_for_long(torture: Torture) -> None:
    run_for_long(Hub, Hub.TestCase.settings, torture, examples=200)
