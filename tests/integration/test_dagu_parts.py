"""Parts of the Dagu engine that need no Dagu: the script with its claim and its end, states, answers, settings."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from attrs import define
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatchd.agent.config.engines import unfit_options
from dispatchd.agent.config.keys import Cloud, EngineEntry, EngineKind, File
from dispatchd.agent.endpoint.open import engine_address_problem
from dispatchd.agent.engines.dagu.client import Client
from dispatchd.agent.engines.dagu.executor import WORDS, DaguExecutor
from dispatchd.agent.engines.dagu.states import Run
from dispatchd.agent.engines.plugin.guard import Gone
from dispatchd.agent.engines.port import State
from dispatchd.agent.engines.start_claims import Claim, Files, Legacy
from dispatchd.agent.engines.submitted.ends import ended, lost
from dispatchd.agent.engines.submitted.script import START, launch_text
from dispatchd.agent.engines.submitted.site import Site, order_stop
from dispatchd.errors import EngineRefused, EngineSilent
from dispatchd.linux.clock import MachineTime
from dispatchd.protocol.outcome import Exit, FailureCause
from support.servers import Reply, Request, http_server
from support.until import until

NAME = "dd-0123456789ab-0123456789abcdef"


def laid_out(folder: Path, command: list[str], **env: str) -> Files:
    site = Site(
        engine="d",
        folder=folder / "dagu",
        prefix="dd-",
        time=MachineTime(),
        executor=Gone(),
        words=WORDS,
        poll_s=1,
    )
    text = launch_text(command, env, folder, folder / "output")
    site.lay_out(NAME, folder, text, has_secrets=True)
    return site.files(NAME, folder)


def run_script(folder: Path) -> subprocess.Popen[bytes]:
    """Run a script as Dagu does: in a process group of its own, with an environment that has its keys."""
    return subprocess.Popen(
        ["/bin/sh", str(folder / "dagu" / NAME / START)],
        env={"PATH": os.defpath, "DAGU_KEY": "private"},
        start_new_session=True,
    )


def test_a_script_claims_its_attempt_runs_its_command_once_and_leaves_its_code(
    tmp_path: Path,
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "env; exit 7"], A="b")

    assert run_script(tmp_path).wait(20) == 7
    assert run_script(tmp_path).wait(20) == 75

    output = (tmp_path / "output").read_text()
    assert "A=b" in output
    assert "private" not in output
    assert (files.claim, files.exit_code) == (Claim.JOB, 7)
    assert files.legacy == Legacy(code=7)
    assert files.take() is Claim.JOB
    assert not (files.folder / "launch.sh").exists()


@pytest.mark.parametrize("shell", ["bash", "dash", "busybox"])
def test_whoever_executes_a_script_sees_no_value_of_a_command_that_is_killed(
    tmp_path: Path, shell: str
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "sh").symlink_to(program)
    files = laid_out(tmp_path, ["/bin/sh", "-c", "kill -KILL $$"], A="private")
    # As on a machine whose /bin/sh is this one.
    for text in files.folder.glob("*.sh"):
        text.write_text(text.read_text().replace("/bin/sh", str(tmp_path / "sh")))

    done = subprocess.run(
        [tmp_path / "sh", files.folder / START],
        env={"PATH": os.defpath},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, files.exit_code) == (137, 137)
    assert done.stdout + done.stderr == b""


def test_a_script_behind_the_daemons_claim_runs_nothing(tmp_path: Path) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", "echo ran"])

    assert files.take() is Claim.DAEMON
    assert run_script(tmp_path).wait(20) == 75

    assert not (tmp_path / "output").exists()


async def until_up(folder: Path) -> None:
    output = folder / "output"
    await until(lambda: output.exists() and "up\n" in output.read_text())


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


COURTEOUS = "trap 'echo term; sleep 0.3; exit 9' TERM; echo up; sleep 60 & wait $!"
DEAF = "trap '' TERM; sleep 600 & echo $! >child; echo up; wait"


async def test_a_command_is_ended_by_a_signal_to_its_script(tmp_path: Path) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", COURTEOUS])
    running = run_script(tmp_path)
    await until_up(tmp_path)

    # Dagu signals the process group of its step.
    os.killpg(running.pid, 15)

    assert running.wait(20) == 9
    assert files.legacy == Legacy(code=9, was_stopped=True)


async def test_the_exit_code_of_a_command_outlives_signals_at_its_end(
    tmp_path: Path,
) -> None:
    command = "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = laid_out(folder, ["/bin/sh", "-c", command])
        running = run_script(folder)
        await until_up(folder)

        while running.poll() is None:
            running.send_signal(15)

        assert (running.returncode, files.exit_code) == (9, 9)

    def is_clear() -> bool:
        return str(tmp_path).encode() not in b"".join(_command_lines())

    # Whoever waits for the end of a grace would kill a stranger with the id of the command.
    await until(is_clear, 5, "the end of whoever waits for a grace")


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


@pytest.mark.parametrize("signal_too", [True, False])
async def test_a_command_that_ignores_its_end_is_killed_after_the_grace(
    tmp_path: Path, *, signal_too: bool
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", DEAF])
    running = run_script(tmp_path)
    await until_up(tmp_path)
    child = int((tmp_path / "child").read_text())

    # Without a signal: Dagu has lost it, or is away.
    order_stop(files, 1.0)
    if signal_too:
        os.killpg(running.pid, 15)

    assert running.wait(20) == 137
    assert files.legacy == Legacy(code=137, was_stopped=True, was_ordered=True)
    await until(lambda: not alive(child))


@pytest.mark.parametrize("command", ["echo $$ >child; " + COURTEOUS, DEAF])
async def test_a_command_ends_with_its_script_that_is_killed(
    tmp_path: Path, command: str
) -> None:
    files = laid_out(tmp_path, ["/bin/sh", "-c", command])
    running = run_script(tmp_path)
    await until_up(tmp_path)
    child = int((tmp_path / "child").read_text())

    os.killpg(running.pid, 9)
    running.wait(20)

    await until(lambda: not alive(child))
    await until(lambda: files.has_left, 20, "the word of the watcher")
    assert files.exit_code is None


async def test_what_a_command_leaves_in_its_session_is_ended(tmp_path: Path) -> None:
    laid_out(tmp_path, ["/bin/sh", "-c", "sleep 600 & echo $! >child"])

    assert run_script(tmp_path).wait(20) == 0

    child = int((tmp_path / "child").read_text())
    await until(lambda: not alive(child))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=30,
    deadline=None,
)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_value_reaches_the_command_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    folder = tmp_path_factory.mktemp("value")
    laid_out(
        folder,
        ["/bin/sh", "-c", 'printf "%s\\0%s" "$VALUE" "$1"', "x", value],
        VALUE=value,
    )

    assert run_script(folder).wait(20) == 0

    assert (folder / "output").read_bytes() == b"\0".join([value.encode()] * 2)


FAILED, ABORTED, SUCCEEDED, PARTIALLY, REJECTED = 2, 3, 4, 6, 8
SAID = "failed to execute step: exit status 7"


ZOMBIE = "process terminated unexpectedly - zombie process detected"
STALE = "process terminated unexpectedly - stale local process detected"
LEASE = "distributed run lease expired: worker w1 accepted the task claim but stopped reporting to the owner coordinator"


@pytest.mark.parametrize(
    ("status", "error", "left", "was_stopped", "code"),
    [
        (SUCCEEDED, "", None, False, 0),
        (SUCCEEDED, "", 0, False, 0),
        # A DAG that forgives a failure doesn't hide it.
        (SUCCEEDED, "", 7, False, 7),
        (PARTIALLY, "", 7, False, 7),
        (FAILED, SAID, None, False, 7),
        # The run's own script could write that file.
        (FAILED, SAID, 0, False, 7),
        # What a step printed says nothing.
        (FAILED, f"{SAID} recent stderr (tail): exit status 0 lease", None, False, 7),
        (FAILED, f"{SAID} recent stderr (tail): {ZOMBIE}", None, False, 7),
        (FAILED, "gone recent stderr (tail): exit status 0", 3, False, 3),
        (FAILED, "exit status 75", 3, False, 3),
        (FAILED, "process is gone", 3, False, 3),
        (ABORTED, "", 143, True, 143),
        # Dagu has seen the end of a command that somebody else ended.
        (FAILED, "exit status 143", 143, True, 143),
        # What ended by itself has ended, whoever looked away.
        (FAILED, LEASE, 0, False, 0),
        (FAILED, LEASE, 7, False, 7),
        (FAILED, ZOMBIE, 7, False, 7),
        (FAILED, STALE, 7, False, 7),
        # What was ended because Dagu gave it up has done half of its work, however politely it left.
        (FAILED, LEASE, 143, True, None),
        (FAILED, ZOMBIE, 143, True, None),
        (FAILED, STALE, 143, True, None),
        (FAILED, ZOMBIE, 0, True, None),
        (FAILED, "process is gone", 0, True, None),
        (PARTIALLY, "", 0, True, None),
    ],
)
def test_the_exit_code_that_dagu_has_seen_counts(
    status: int, error: str, left: int | None, *, was_stopped: bool, code: int | None
) -> None:
    run = Run(name=NAME, status=status, errors=(error,) if error else ())

    end = ended(WORDS, NAME, run.found(), Legacy(code=left, was_stopped=was_stopped))

    assert isinstance(end, Exit)
    assert end.code == code
    assert (end.cause is FailureCause.CANCELLED) == (status == ABORTED)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (FAILED, "process is gone"),
        (FAILED, "exit status 75"),
        (FAILED, "the lease expired"),
        (ABORTED, ""),
        (PARTIALLY, ""),
        (REJECTED, ""),
        (FAILED, ZOMBIE),
    ],
)
def test_a_run_that_is_over_for_dagu_may_still_run(status: int, error: str) -> None:
    found = Run(name=NAME, status=status, errors=(error,)).found()

    assert ended(WORDS, NAME, found, Legacy()) is None


@pytest.mark.parametrize(
    ("status", "error"), [(SUCCEEDED, ""), (FAILED, "exit status 143")]
)
def test_an_end_that_dagu_has_caused_is_none_though_it_changes_its_mind(
    status: int, error: str
) -> None:
    found = Run(name=NAME, status=status, errors=(error,)).found()
    legacy = Legacy(code=found.code, was_stopped=True, was_ordered=True)

    end = ended(WORDS, NAME, found, legacy)
    own = ended(WORDS, NAME, found, legacy, is_stopping=True)

    assert end is not None
    assert end.code is None
    assert "its command was terminated" in end.note
    # Where the daemon has ended it, its record says why.
    assert own == Exit(code=found.code)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (LEASE, "its worker's lease was over"),
        (ZOMBIE, "whoever executed it for Dagu was gone"),
    ],
)
@pytest.mark.parametrize(
    ("was_terminated", "how"),
    [
        (False, "its script left no exit code"),
        (True, "its command was terminated"),
    ],
)
def test_a_run_that_dagu_gave_up_is_lost_in_words(
    error: str, why: str, *, was_terminated: bool, how: str
) -> None:
    run = Run(name=NAME, status=FAILED, errors=(error,))

    end = lost(WORDS, NAME, run.found(), was_terminated=was_terminated)

    assert end.code is None
    assert end.note == f"Dagu gave up run {NAME}: {why}: {error}; {how}."


@pytest.mark.parametrize("status", [0, 1, 5, 7, 9, 99])
def test_a_state_that_is_not_known_as_an_end_decides_nothing(status: int) -> None:
    assert Run(name=NAME, status=status).found().state is not State.ENDED


def found(**more: object) -> bytes:
    return json.dumps({"dagRunDetails": {"dagRunId": NAME, **more}}).encode()


async def answered(
    folder: Path, status: int, body: bytes, *, key: str = ""
) -> tuple[Run | None, Request]:
    requests: list[Request] = []

    def answer(request: Request) -> Reply:
        requests.append(request)
        return Reply(status, body=body)

    key_file = folder / "key"
    key_file.write_text(key)
    with http_server(answer) as port:
        client = Client(
            f"http://127.0.0.1:{port}/api/v2", key_file if key else None, {}
        )
        run = await client.find("dag", NAME)
    return run, requests[0]


async def test_a_run_is_found_with_the_key(tmp_path: Path) -> None:
    body = found(status=2, nodes=[{"error": f"a\n{SAID}"}, {}, 7], workerId="w1")

    run, request = await answered(tmp_path, 200, body, key="k-1\n")

    assert run == Run(name=NAME, status=2, where="w1", errors=(f"a {SAID}",))
    assert request.path == f"/api/v2/dag-runs/dag/{NAME}"
    assert request.headers["authorization"] == "Bearer k-1"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"dagRuns": null}', []),
        (b'{"dagRuns": []}', []),
        (
            b'{"dagRuns": [{"name": "dag", "dagRunId": "dd-a"}, {"name": "x", "dagRunId": "dd-b"}, {"name": "dag", "dagRunId": "y"}, 7]}',
            ["dd-a", "dd-a"],
        ),
    ],
)
async def test_what_waits_and_runs_is_listed(body: bytes, expected: list[str]) -> None:
    requests: list[Request] = []

    def answer(request: Request) -> Reply:
        requests.append(request)
        return Reply(200, body=body)

    with http_server(answer) as port:
        client = Client(f"http://127.0.0.1:{port}/api/v2", None, {})
        assert await DaguExecutor(client, "dag").names("dd-") == expected
    assert [each.path for each in requests] == [
        "/api/v2/dag-runs?name=dag&status=1",
        "/api/v2/dag-runs?name=dag&status=5",
    ]


@define
class HandClock:
    """A clock that a test sets."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now

    wall = since_boot = monotonic


def queue(*names: str, total: int | None = None) -> bytes:
    runs = [{"name": "dag", "dagRunId": name} for name in names]
    summary = {"totalQueued": len(names) if total is None else total}
    return json.dumps({"queues": [{"queued": runs}], "summary": summary}).encode()


async def is_found(status: int, queues: list[tuple[float, int, bytes]]) -> list[bool]:
    """Return whether a run is found in the end of each time, in which the server has a queue."""
    now = queues[0]
    clock = HandClock()

    def answer(request: Request) -> Reply:
        if request.path.endswith("/queues"):
            return Reply(now[1], body=now[2])
        return Reply(200, body=found(status=status))

    seen = []
    with http_server(answer) as port:
        client = Client(f"http://127.0.0.1:{port}/api/v2", None, {})
        executor = DaguExecutor(client, "dag", clock)
        for now in queues:
            await executor.find(NAME)
            clock.now += now[0]
            seen.append(await executor.find(NAME) is not None)
    return seen


NO_QUEUE, IN_QUEUE, OTHERS = queue(), queue("dd-a", NAME), queue("dd-a")


@pytest.mark.parametrize("status", [0, 5])
@pytest.mark.parametrize("without", [NO_QUEUE, OTHERS])
async def test_a_run_that_waits_in_no_queue_is_lost_after_a_minute(
    status: int, without: bytes
) -> None:
    times = [
        (300.0, 200, IN_QUEUE),
        (59.0, 200, without),
        (10.0, 200, IN_QUEUE),
        (10.0, 200, without),
        (59.0, 200, without),
        (1.0, 200, without),
    ]

    assert await is_found(status, times) == [True, True, True, True, True, False]


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (200, IN_QUEUE),
        (500, b'{"code": "internal_error"}'),
        (403, b'{"message": "no"}'),
        (200, b"<html>"),
        (200, b"{}"),
        # A page of more.
        (200, queue(total=1)),
        # Dagu 2.
        (
            200,
            b'{"queues": [{"name": "q", "queuedCount": 1}], "summary": {"totalQueued": 1}}',
        ),
    ],
)
async def test_a_queue_that_nobody_knows_decides_nothing(
    code: int, body: bytes
) -> None:
    assert await is_found(5, [(600.0, code, body)] * 2) == [True, True]


async def test_a_run_that_has_begun_is_in_no_queue() -> None:
    assert await is_found(1, [(600.0, 200, NO_QUEUE)] * 2) == [True, True]


async def test_a_list_on_several_pages_is_read_to_its_end() -> None:
    pages = {
        "1": {"dagRuns": [{"name": "dag", "dagRunId": "dd-a"}], "nextCursor": "a+/&b"},
        "1&cursor=a%2B%2F%26b": {"dagRuns": [{"name": "dag", "dagRunId": "dd-b"}]},
        "5": {"dagRuns": []},
    }

    def answer(request: Request) -> Reply:
        page = pages[request.path.partition("status=")[2]]
        return Reply(200, body=json.dumps(page).encode())

    with http_server(answer) as port:
        client = Client(f"http://127.0.0.1:{port}/api/v1", None, {})
        assert await client.unfinished("dag") == ["dd-a", "dd-b"]


async def test_a_list_without_an_end_is_silence() -> None:
    page = b'{"dagRuns": [], "nextCursor": "again"}'
    with http_server(lambda _: Reply(200, body=page)) as port:
        client = Client(f"http://127.0.0.1:{port}/api/v1", None, {})
        with pytest.raises(EngineSilent, match="more than 100 pages"):
            await client.unfinished("dag")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>"])
async def test_a_list_that_isnt_dagus_is_silence(body: bytes) -> None:
    with http_server(lambda _: Reply(200, body=body)) as port:
        client = Client(f"http://127.0.0.1:{port}/api/v2", None, {})
        with pytest.raises(EngineSilent):
            await client.unfinished("dag")


async def test_a_run_is_missing_only_if_dagu_says_so(tmp_path: Path) -> None:
    run, request = await answered(tmp_path, 404, b'{"code": "not_found"}')

    assert run is None
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b"<html>404</html>", EngineSilent),
        (404, b'{"code": "page_not_found"}', EngineRefused),
        (200, b"", EngineSilent),
        (200, b"[]", EngineSilent),
        (200, b"{}", EngineSilent),
        (200, b'{"dagRunDetails": {"dagRunId": "other", "status": 4}}', EngineSilent),
        (200, found(status="4"), EngineSilent),
        (200, b'{"dagRunDetails": {"dagRunId"', EngineSilent),
        (302, b"", EngineSilent),
        (401, b'{"code": "unauthorized", "message": "no"}', EngineRefused),
        (401, b"", EngineRefused),
        (401, b"<html>", EngineSilent),
        (404, b"", EngineRefused),
        (403, b'{"message": "no"}', EngineRefused),
        (500, b'{"code": "internal_error"}', EngineSilent),
        (502, b"<html>", EngineSilent),
        (599, b"", EngineSilent),
    ],
)
async def test_an_answer_that_isnt_dagus_is_silence(
    tmp_path: Path, status: int, body: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await answered(tmp_path, status, body)


@pytest.mark.parametrize("key", ["\n", "a\nb", "\u00e4"])
async def test_a_key_that_cannot_be_used_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(EngineRefused, match="can't be used") as caught:
        await answered(tmp_path, 200, b"{}", key=key)

    assert key.strip() == "" or key not in str(caught.value)


async def test_nobody_at_the_address_is_silence() -> None:
    client = Client("http://127.0.0.1:9/api/v2", None, {})

    with pytest.raises(EngineSilent, match="doesn't answer"):
        await client.enqueue("dag", NAME)


GOOD = {"kind": EngineKind.DAGU, "url": "http://localhost:8080/api/v2", "dag": "x"}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("url", "", "must be set"),
        ("dag", "", "must be set"),
        ("partition", "ci", 'kind = "dagu"'),
        ("options", ("--nice=1",), 'kind = "dagu"'),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    key: str, value: object, expected: str
) -> None:
    problems = dict(unfit_options(_content(**{**GOOD, key: value})))

    assert expected in problems[f"engines.d.{key}"]


def test_settings_that_can_be_used_are_taken() -> None:
    assert not dict(unfit_options(_content(**GOOD)))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://dagu.example/api/v2", "must be https"),
        ("https://dagu.example", "path of the API"),
        ("https://dagu.example/api/v2?x=1", "path of the API"),
        ("https://u:p@dagu.example/api/v2", "without credentials"),
        ("ftp://dagu.example/api/v2", "http or https"),
        ("https://x:99999/api/v2", "port"),
        ("https://[::1/api/v2", "must be a URL"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(address: str, expected: str) -> None:
    assert expected in engine_address_problem(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8080/api/v2",
        "http://[::1]:8080/api/v1",
        "https://dagu.example/base/api/v1/",
    ],
)
def test_an_address_that_can_be_used_is_taken(address: str) -> None:
    assert not engine_address_problem(address)


def test_keys_of_dagu_do_not_stand_beside_slurm() -> None:
    assert set(dict(unfit_options(_content(url="x", dag="y")))) == {
        "engines.d.url",
        "engines.d.dag",
    }


def _content(**engine: object) -> File:
    build: Callable[..., EngineEntry] = EngineEntry
    return File(
        cloud=Cloud(url="http://x"), engines={"d": build(**engine)}, workflows={}
    )
