"""Words and figures of the hub's page: why a job waits, the depth of the queue, the parts of a job's time, lines of a log."""

from attrs import evolve

from dispatchd.hub.domain.binding import Binding
from dispatchd.hub.domain.model import Attempt, HubJob, State
from dispatchd.hub.storage.jobs.reader import Wait
from dispatchd.hub.web.lists.depth import BARS, course
from dispatchd.hub.web.lists.waiting import Queue, Worker
from dispatchd.hub.web.log_lines import LineCounts, numbered, offset_of
from dispatchd.hub.web.view_model import parts

JOB = HubJob(id="j", document={}, workflow="deploy", repository="o/r")
IDLE = Worker(name="build-1", server_id="u1", workflows=["deploy"])
BUSY = evolve(IDLE, name="build-2", server_id="u2", jobs=2)
AWAY = evolve(IDLE, name="build-3", server_id="u3", state="away", silent_s=3700)


def why(*workers: Worker, job: HubJob = JOB, ahead: int | None = None) -> str:
    return Queue(workers=workers).why(job, ahead)


def test_a_waiting_job_says_what_it_waits_for() -> None:
    other = evolve(IDLE, workflows=["ci"])
    bound = evolve(IDLE, binding=Binding(repositories=("x/*",)))
    gone = evolve(IDLE, state="revoked")

    assert why() == why(gone)
    assert "No machine has joined" in why()
    assert why(other) == "No active machine has the workflow deploy."
    assert "had it: build-3 (away, last heard of 1 h ago)." in why(other, AWAY)
    assert "may take jobs of o/r" in why(bound)
    assert why(BUSY) == "The one machine that may take it is busy (build-2)."
    assert why(BUSY, BUSY, ahead=1) == (
        "All 2 machines that may take it are busy; 1 queued job is before it."
    )
    assert why(IDLE, BUSY).startswith("1 of 2 machines that may take it has no job")
    assert why(IDLE).startswith("The one machine that may take it has no job")
    assert "no queued jobs are before it" in why(BUSY, ahead=0)
    mine = evolve(JOB, only_machine="u3")
    assert why(AWAY, job=mine) == (
        "Only the machine build-3 may take it, which is away, last heard of 1 h ago."
    )
    never = evolve(IDLE, state="never")
    assert why(never) == "No active machine has the workflow deploy."
    assert "which is never seen yet" in why(never, job=evolve(JOB, only_machine="u1"))
    assert why(IDLE, job=evolve(JOB, state=State.RUNNING)) == ""
    paused = Queue(workers=[IDLE], is_paused=True, pause_reason="move\x1b[2J")
    assert paused.why(JOB) == "Dispatch is paused: move\\x1b[2J."
    assert "Dispatch" not in paused.why(evolve(JOB, urgent=True))


def test_the_chart_has_depth_and_waits() -> None:
    waits = [
        Wait(created_at=100.0, ended_at=400.0),
        Wait(created_at=100.0, ended_at=0),
        Wait(created_at=-900.0, ended_at=0),
    ]

    found = course(waits, since=0.0, now=480.0)

    assert len(found.bars) == BARS
    assert [found.bars[number].waiting for number in (0, 20, 47)] == [1, 3, 2]
    assert (found.most, found.longest_s) == (3, 1380.0)
    assert (found.median_s, found.ended) == (300.0, 1)
    assert {bar.depth_height for bar in found.bars} == {20, 40, 60}
    assert course([], since=0.0, now=1.0).most == 0


def test_the_bar_has_all_of_a_job_s_time() -> None:
    done = evolve(
        JOB,
        state=State.SUCCEEDED,
        created_at=100.0,
        claimed_at=160.0,
        accepted_at=160.1,
        finished_at=400.0,
    )
    second = [
        Attempt(job_id="j", number=1, machine="m", claimed_at=110.0, ended_at=150.0),
        Attempt(job_id="j", number=2, machine="m", claimed_at=160.0),
    ]

    known = evolve(done, started_at=170.0)
    parked = evolve(known, state=State.NEEDS_ATTENTION, finished_at=0)
    begins, ends = ["waiting", "handed over", "starting"], ["running", "reporting"]
    for job, attempts, names in (
        (done, second[1:], ["waiting", "handed over", "running"]),
        (done, second, ["waiting", "claim 1", "waiting", "handed over", "running"]),
        (evolve(JOB, created_at=100.0), [], ["waiting"]),
        (evolve(known, state=State.ACCEPTED, finished_at=0), second[1:], begins),
        (known, second[1:], [*begins, "running"]),
        (evolve(known, run_ended_at=390.0), second[1:], [*begins, *ends]),
        (evolve(parked, parked_at=300.0), second[1:], [*begins, "running", "parked"]),
        (parked, second[1:], [*begins, "running"]),
        # Queued again, and then cancelled while it waited.
        (
            evolve(done, state=State.ABORTED),
            second[:1],
            ["waiting", "claim 1", *begins[:1]],
        ),
    ):
        found = parts(job, attempts, 500.0)
        assert [part.name for part in found] == names
        whole = (job.finished_at or 500.0) - job.created_at
        assert abs(sum(part.seconds for part in found) - whole) < 0.001
        assert abs(found[-1].x + found[-1].width - 1000) <= len(found)
    assert parts(evolve(JOB, created_at=500.0), [], 500.0) == []


class Text:
    """A log that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.bytes_read = data, 0

    def read(self, offset: int, most: int) -> bytes:
        piece = self.data[offset : offset + most]
        self.bytes_read += len(piece)
        return piece


def test_lines_of_a_log_keep_their_numbers_and_are_counted_once() -> None:
    # More than one piece is read of it, with ends of lines at its seam.
    text = Text(b"".join(b"%d\n" % number for number in range(1, 300_001)))
    counts = LineCounts()

    for line in (1, 2, 77, 299_999):
        offset = offset_of(line, text.read)
        assert offset is not None
        assert text.data[offset:].startswith(b"%d\n" % line)
        assert counts.line_at("a", text.read, offset) == line
    before = text.bytes_read
    assert counts.line_at("a", text.read, len(text.data)) == 300_001
    assert text.bytes_read - before < 20
    assert counts.line_at("a", text.read, 4) == 3
    assert offset_of(300_002, text.read) is None
    html = numbered("a\nb\n", 1, 7)
    assert html == '<i id="L7" data-n="7"></i>a\n<i id="L8" data-n="8"></i>b\n'
    assert numbered("c", 2, 1) == '<i id="L2.1" data-n="1"></i>c'
