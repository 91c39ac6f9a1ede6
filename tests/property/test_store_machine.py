"""The store against a dictionary: whatever is done to both, both say the same, also after a crash."""

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.codec import encode
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.names import file_name
from dispatchd.errors import StoreUnavailable
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict
from support.obstacle import Obstacle
from support.records import NOW
from support.state_machines import run_for_long
from support.torture import Torture

ids = st.sampled_from(["a", "b", "job/1", "..", "ü", "x" * 300])
phases = st.sampled_from([phase for phase in Phase if phase is not Phase.HISTORY])


def record(job_id: str, phase: Phase, at: int, actor: str = "") -> TrackedJob:
    """Return a record that was changed some seconds after the first one."""
    now = NOW + timedelta(seconds=at)
    fresh = TrackedJob.received(Job(id=job_id, workflow="it", actor=actor), now=now)
    verdict = (
        Verdict(outcome=Outcome.SUCCEEDED, summary="Done.")
        if phase is Phase.HISTORY
        else None
    )
    return evolve(fresh, phase=phase, verdict=verdict)


class Store(RuleBasedStateMachine):
    """`tracked` and `past` are what the store should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dispatchd-store-"))
        self.tracked: dict[str, TrackedJob] = {}
        self.past: dict[str, TrackedJob] = {}
        self.at = 0
        self.store, _ = JobStore.open(self.folder)

    @override
    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(job_id=ids, phase=phases, actor=st.text(max_size=3))
    def put(self, job_id: str, phase: Phase, actor: str) -> None:
        self.tracked[job_id] = record(job_id, phase, self.next(), actor)
        self.past.pop(job_id, None)
        self.store.put(self.tracked[job_id])

    @precondition(lambda self: self.tracked)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.tracked)))
        del self.tracked[job_id]
        self.past[job_id] = record(job_id, Phase.HISTORY, self.next())
        self.store.put(self.past[job_id])

    @rule(job_id=ids, phase=phases)
    def a_refused_put_changes_nothing(self, job_id: str, phase: Phase) -> None:
        obstacle = Obstacle(self.folder / "jobs" / f"{file_name(job_id)}.json")
        obstacle.put_up()
        try:
            self.store.put(record(job_id, phase, self.next(), "refused"))
        except StoreUnavailable:
            refused = True
        else:
            refused = False
        obstacle.take_away()
        assert refused

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.past)))
        self.store.forget(self.past.pop(job_id))

    @rule(data=st.data(), job_id=ids)
    def crash(self, data: st.DataObject, job_id: str) -> None:
        """Come back after a crash that left half a file, or a job on both sides of its move."""
        (self.folder / "jobs" / f".aside-{file_name(job_id)}.json").write_bytes(
            b'{"half'
        )
        if self.past:
            both = data.draw(st.sampled_from(sorted(self.past)))
            left = self.folder / "jobs" / f"{file_name(both)}.json"
            left.write_bytes(encode(record(both, Phase.FINISHING, 0)))
        self.reopen(expected=0)

    @precondition(lambda self: self.tracked)
    @rule(data=st.data(), unreadable=st.booleans())
    def power_cut(self, data: st.DataObject, *, unreadable: bool) -> None:
        """Come back after a power cut that has undone the removal of an earlier record from history."""
        job_id = data.draw(st.sampled_from(sorted(self.tracked)))
        left = self.folder / "history" / f"{file_name(job_id)}.json"
        old = encode(record(job_id, Phase.HISTORY, 0))
        left.write_bytes(old[:20] if unreadable else old)
        self.reopen(expected=int(unreadable))

    @precondition(lambda self: self.tracked)
    @rule(data=st.data(), damage=st.binary(max_size=30))
    def damage_a_record(self, data: st.DataObject, damage: bytes) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.tracked)))
        del self.tracked[job_id]
        (self.folder / "jobs" / f"{file_name(job_id)}.json").write_bytes(damage)
        self.reopen(expected=1)

    def next(self) -> int:
        self.at += 1
        return self.at

    def reopen(self, *, expected: int) -> None:
        self.store.close()
        self.store, quarantined = JobStore.open(self.folder)
        assert len(quarantined) == expected

    @invariant()
    def both_say_the_same(self) -> None:
        assert self.store.all() == [
            self.tracked[job_id] for job_id in sorted(self.tracked)
        ]
        for phase in Phase:
            found = {each.job.id for each in self.store.in_phase(phase)}
            assert found == {
                job_id for job_id, each in self.tracked.items() if each.phase is phase
            }
        for job_id in ("a", "job/1", ".."):
            assert self.store.get(job_id) == self.tracked.get(job_id)
            assert self.store.past(job_id) == self.past.get(job_id)


Store.TestCase.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, print_blob=True
)
TestStore = Store.TestCase


@pytest.mark.torture
@pytest.mark.timeout(0)
def test_store_for_long(torture: Torture) -> None:
    run_for_long(Store, Store.TestCase.settings, torture, examples=300)
