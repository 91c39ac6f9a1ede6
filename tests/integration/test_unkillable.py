"""What can't be ended is given up after a deadline: the job ends, and people learn what is left."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.exit_table import Contract
from dispatchd.agent.domain.run.events import Story
from dispatchd.agent.domain.verdict import Evidence, judge
from dispatchd.agent.engines.chosen import Engines
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.local.process import identify
from dispatchd.agent.run_loop.unkillable import Survivors
from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.protocol.outcome import Exit, FailureCause, Outcome, Survivor
from dispatchd.protocol.result import NoResult
from dispatchd.redaction.known_secrets import KnownSecrets
from support.clock import advance
from support.current import current_config
from support.until import until

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user who may signal nobody else's processes, for the length of a block."""
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def leftover() -> Iterator[ProcessIdentity]:
    """Return a leader that is gone, in whose session a process of root is left, without a marker."""
    leader = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 300 >/dev/null & echo there; read -r _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert leader.stdin is not None
    assert leader.stdout is not None
    assert leader.stdout.readline() == b"there\n"
    identity = identify(leader.pid)
    assert identity is not None
    leader.kill()
    leader.wait()
    leader.stdin.close()
    leader.stdout.close()
    yield identity
    os.killpg(leader.pid, signal.SIGKILL)


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
async def test_a_leftover_of_another_user_is_given_up_and_swept_again(
    tmp_path: Path, leftover: ProcessIdentity
) -> None:
    engine = LocalEngine.here({}, KnownSecrets())
    with as_nobody():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pass_time, tasks.cancel_scope)
            cleared = await engine.clear(leftover, tmp_path)
            tasks.cancel_scope.cancel()

    assert cleared.ended == 0
    (survivor,) = cleared.survivors
    assert (survivor.name, survivor.user) == ("sleep", "root")
    engines = Engines(engine, current_config(tmp_path))
    survivors = Survivors(engines, BugFence())
    survivors.add("j", leftover, tmp_path, cleared.survivors)
    assert survivors.warnings == [f"processes of job j can't be ended: {survivor}"]
    async with anyio.create_task_group() as tasks:
        await tasks.start(survivors.run)
        await advance(61)
        await until(lambda: survivors.warnings == [])
        tasks.cancel_scope.cancel()


async def pass_time(_: anyio.CancelScope) -> None:
    while True:
        await anyio.lowlevel.checkpoint()
        await advance(1)


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize(
    ("end", "stop", "words"),
    [
        (Exit(code=0), None, "Succeeded after"),
        (Exit(code=None), FailureCause.MAX_DURATION, "Reached its time limit"),
        (Exit(code=None), FailureCause.CANCELLED, "Cancelled after"),
    ],
)
def test_a_job_with_survivors_fails_and_says_what_else_became_of_it(
    contract: Contract, end: Exit, stop: FailureCause | None, words: str
) -> None:
    left = Exit(
        code=end.code, survivors=(Survivor(pid=7, name="sleep", user="root"),) * 7
    )
    result = NoResult("none") if contract is Contract.HEADLESS else None
    evidence = Evidence(
        end=left, contract=contract, result=result, story=Story(), duration_s=1.0
    )

    judgement = judge(evidence, stop)

    assert judgement.ruling.outcome is Outcome.FAILED
    assert judgement.ruling.cause is FailureCause.UNKILLABLE
    assert judgement.summary.startswith("7 of its processes can't be ended")
    assert "sleep (pid 7, user root)" in judgement.summary
    assert "and 2 more" in judgement.summary
    assert contract is Contract.HEADLESS or words in judgement.summary
    assert judgement.summary.count("can't be ended") == 1
