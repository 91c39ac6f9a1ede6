"""The bug fence: what it catches, what it names, and that every loop of the code runs in it."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.redaction.known_secrets import KnownSecrets
from support.clock import advance, within
from support.logs import logging_to
from support.loops import catchers, endless_loops

BOUNDED = {
    # Loops that end by themselves, or are part of a fenced round, of a job's task, of a call or of a request.
    *(
        "agent/doctor.py:check_up",
        "agent/replay.py:_until_ended",
        "agent/replay.py:_cancel_at_signals",
    ),
    *(
        "agent/endpoint/caller.py:_read",
        "agent/endpoint/diagnose.py:_causes",
        "agent/endpoint/pool.py:__aiter__",
    ),
    # The parts of an answer, and the connections that wait for a request.
    *("network/direct.py:ask", "network/direct.py:__aiter__"),
    *(
        "network/direct.py:aclose",
        "network/direct.py:_idle_one",
        "network/direct.py:_release",
    ),
    *("hub/storage/migrate.py:_in_steps", "hub/storage/migrate.py:_patiently"),
    "hub/storage/engines/writer.py:_in_turn",
    *("network/tls_files.py:_ask_tunnel", "concurrency/bug_fence.py:_described"),
    *(
        "agent/control/http_connection.py:_read",
        "agent/control/http_connection.py:_watch",
    ),
    *("agent/control/server.py:_write_later", "agent/store/held_folders.py:close"),
    *(
        "agent/control/http_connection.py:_write_lines",
        "agent/control/queries.py:items",
        "agent/control/job_commands.py:items",
    ),
    *(
        "agent/supervisor.py:_another",
        "agent/supervisor.py:_until",
        "agent/supervisor.py:ask_for_time",
    ),
    *("agent/supervisor.py:give_up_at_signal", "hub/main.py:_stop_on_signal"),
    *("protocol/json_text.py:_members", "redaction/patterns.py:_is_a_key"),
    *("hub/http_bodies.py:_read_shortened", "hub/domain/json_shortener.py:feed"),
    *(
        f"agent/engines/local/starters.py:{name}"
        for name in ("_ask", "heard", "status")
    ),
    # Processes of their own.
    *(
        "agent/engines/local/starter.py:serve",
        "agent/engines/local/shim.py:_exit_code_of",
    ),
    "linux/subreaper.py:end_children",
    *("agent/engines/local/checkout.py:_read", "agent/engines/local/process.py:_read"),
    *(
        "hub/http_bodies.py:read_up_to",
        "hub/storage/database.py:say",
        "hub/storage/jobs/store.py:prune",
    ),
    *("hub/api/pull.py:_claim_within", "hub/api/jobs.py:show"),
    *("hub/github/app/check.py:check_app", "hub/github/api/client.py:check_runs"),
    *(
        "hub/github/api/client.py:installations",
        "hub/github/poller/redeliver.py:_tries",
    ),
    *("hub/github/ingest/resolve.py:_until_decided", "hub/github/session_lock.py:lost"),
    *(
        "hub/auth/webhook_signature.py:receive",
        "hub/github/api/transport.py:_exchange",
    ),
    *("hub/workers/notify.py:_listen", "hub/workers/notify.py:_doubt"),
    "hub/storage/migrations/versions/v0003_github.py:_more_of_jobs",
    *("hub/web/forms.py:read_form", "hub/web/events.py:_events"),
    *("hub/web/events.py:_pause", "hub/storage/engines/postgresql.py:_bounded"),
    "hub/storage/engines/turns.py:awaited",
    *(
        "agent/tracking/disk_retry.py:_until_stored",
        "agent/run_loop/attempt.py:_observe",
        "agent/run_loop/watchdogs.py:until_unwanted",
        "agent/run_loop/watchdogs.py:_keep_permission",
        "agent/run_loop/watchdogs.py:_until_begun",
        "agent/engines/starts.py:until_claimed",
        "agent/run_loop/queued.py:watch",
        "agent/engines/dagu/client.py:_exchange",
        "agent/engines/submitted/engine.py:observe",
        "agent/engines/submitted/engine.py:stop",
        "agent/engines/submitted/start.py:_until_answered",
        "agent/engines/slurm/engine.py:observe",
        "agent/engines/slurm/engine.py:stop",
        "agent/engines/slurm/engine.py:until_told",
        "agent/engines/slurm/listing.py:_until",
        "agent/engines/slurm/submit.py:start",
        "agent/engines/slurm/submit.py:_find",
    ),
    *("agent/loops/prune.py:_until_heard", "agent/loops/pull.py:_wait_for_room"),
    *("agent/loops/pull.py:_deliver", "agent/loops/report.py:_pay_all"),
    "linux/folder_tree.py:run",
    "linux/folder_tree.py:sync_tree",
    *("linux/pid1.py:_be_init", "linux/pid1.py:_reap"),
    *("redaction/stream.py:_held", "agent/store/durable.py:_write_all"),
    *("agent/store/disk_reserve.py:refill", "agent/run_loop/attempt.py:_limit_output"),
    *(
        "agent/store/durable.py:_replace",
        "agent/store/durable.py:_sync",
        "agent/store/evidence.py:command_lines",
        "agent/store/evidence.py:read",
    ),
    "agent/store/jobs.py:_move_away",
    # A line in pieces.
    "linux/nonblocking.py:_sent",
    # A thread: its batches are fenced by `named`.
    "agent/health/tracing.py:_work",
    # Calls and streams of logs, each for one job.
    *("agent/loops/logs/loop.py:_send_all", "agent/loops/logs/loop.py:_send"),
    *("agent/loops/logs/loop.py:_call", "agent/loops/logs/text.py:_read"),
    "agent/loops/logs/text.py:save",
    *("hub/api/logs.py:read", "hub/web/log.py:events", "hub/web/log.py:pieces"),
    *("hub/storage/logs/store.py:_write_all", "hub/storage/logs/store.py:_hash_of"),
    *("hub/web/ansi.py:after", "hub/storage/file_pieces.py:_pieces"),
    # Calls about artifacts, each for one job, and files that are read to their end.
    *("agent/loops/artifacts.py:_send_file", "agent/loops/artifacts.py:_call"),
    *(
        "agent/store/artifacts/find.py:_unfolded",
        "agent/store/artifacts/snapshots.py:_write_all",
        "agent/store/artifacts/snapshots.py:_hash",
        "hub/storage/artifacts/files.py:_write_all",
        "hub/storage/artifacts/files.py:_hash_of",
        "hub/storage/artifacts/files.py:_locked",
    ),
    # Lines of a log, read to a place or to its end.
    *("hub/web/log_lines.py:line_at", "hub/web/log_lines.py:offset_of"),
    # The output of a secret's command, up to a limit and with a deadline.
    "agent/engines/local/secrets.py:_output_of",
    # Masks that a text has, up to a place in it.
    *("redaction/stream.py:_answer", "redaction/stream.py:_until_known"),
    # An answer of a provider, up to a limit and with a deadline.
    "hub/login/http.py:_answer",
    # A trial of an endpoint: bodies up to a limit, and a wait with a deadline.
    *("conformance/caller.py:_read", "conformance/hooks.py:_status"),
    "conformance/trial.py:_up",
    # A trial of an engine: waits with a deadline, and output up to its end.
    *("agent/engine_check/bench.py:until", "agent/engine_check/bench.py:end"),
    "agent/engine_check/bench.py:_observe",
    *("agent/engine_check/killed.py:until", "agent/engine_check/run.py:end_at_signals"),
    # The client of a hub: a program's own calls, with steps up to an end, tries up to a number, and bodies up to a limit.
    *(
        f"client/{module}.py:{name}"
        for module in ("hub", "async_hub")
        for name in ("_run", "_iterate", "_send", "download")
    ),
    *(f"client/jobs.py:{name}" for name in ("submit", "listed", "wait", "watch")),
    *("client/jobs.py:cancel", "client/logs.py:pieces", "client/retries.py:asked"),
    *("client/artifacts.py:pieces", "client/folder.py:has"),
    # Threads: what they call raises where it is waited for.
    *(
        "concurrency/own_threads.py:run",
        "agent/engines/plugin/own_loop.py:_keep_running",
    ),
}
"""The endless loops outside the fence. Whoever adds one says why it is none of a program's loops."""

FENCE = {"concurrency/bug_fence.py:rounds", "concurrency/bug_fence.py:complete"}


def test_every_loop_of_the_code_runs_in_the_fence() -> None:
    assert set(endless_loops()) - FENCE - BOUNDED == set()


def test_the_fence_alone_catches_every_exception() -> None:
    assert {each.partition(":")[0] for each in catchers()} == {
        # Files of any package beside ours: one that can't be read has no entry points.
        "agent/config/engines.py",
        "concurrency/bug_fence.py",
    }


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "log"
    with logging_to(file, KnownSecrets()):
        yield file


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RecursionError(),
        MemoryError(),
        OverflowError("signed integer is greater than maximum"),
        UnicodeEncodeError("latin-1", "x", 0, 1, "y"),
        BrokenPipeError(),
        FileNotFoundError(2, "gone"),
        ExceptionGroup("g", [ExceptionGroup("h", [KeyError("k")])]),
    ],
)
async def test_a_round_that_raises_is_logged_named_and_done_again(
    log: Path, error: Exception
) -> None:
    bugs = BugFence()
    rounds: list[dict[str, str]] = []
    pauses: list[float] = []

    async def act() -> None:
        rounds.append(dict(bugs.failing))
        if len(rounds) <= 2:
            raise error
        if len(rounds) > 3:
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await bugs.rounds("it", act, on_pause=pauses.append, longest_s=10)

        tasks.start_soon(run)
        with within(20):
            while len(rounds) < 4:
                await advance(10)
        tasks.cancel_scope.cancel()

    leaf = "KeyError" if isinstance(error, ExceptionGroup) else type(error).__name__
    assert rounds == [{}, {"it": leaf}, {"it": leaf}, {}]
    assert bugs.met == {"it": 2}
    assert bugs.failing == {}
    assert all(0 <= each <= 10 for each in pauses)
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert '"event": "bug_contained"' in lines[0]
    assert '"loop": "it"' in lines[0]
    assert "Traceback" in lines[0]


async def test_a_loop_that_is_cancelled_in_its_pause_is_named_no_more() -> None:
    bugs = BugFence()

    async def act() -> None:
        raise ValueError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bugs.rounds, "it", act)
        await anyio.wait_all_tasks_blocked()
        assert bugs.messages == [
            "it has met a bug and is tried again; the log has details (ValueError)"
        ]
        tasks.cancel_scope.cancel()

    assert bugs.failing == {}


async def test_the_items_of_a_loop_are_named_apart(log: Path) -> None:
    bugs, calls = BugFence(), []

    async def act() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await bugs.complete("report", act, item="job-1")

        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        assert [*bugs.failing] == ["report job-1"]
        await advance(60)

    assert bugs.failing == {}
    assert bugs.met == {"report": 1}
    assert '"item": "job-1"' in log.read_text()


def test_what_is_raised_on_purpose_passes() -> None:
    bugs = BugFence()

    with (
        pytest.raises(KeyError),
        bugs.contained("it", passing=(KeyError,)) as containment,
    ):
        raise KeyError

    assert containment.bug == ""
    assert not bugs.met


def test_what_ends_a_program_on_purpose_passes() -> None:
    bugs = BugFence()

    with pytest.raises(KeyboardInterrupt), bugs.contained("it"):
        raise KeyboardInterrupt

    assert not bugs.met
