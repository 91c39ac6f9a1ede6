"""Play of `dispatchd demo`: a hub, a daemon, and jobs made from real GitHub payloads."""

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NoReturn

import anyio
import click
import httpx
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from attrs import frozen

from dispatchd.agent.endpoint.wire import job_to_wire
from dispatchd.errors import NotReachable
from dispatchd.protocol.github_event import job_from_event
from dispatchd.protocol.job import Job
from dispatchd.protocol.json_text import loads
from dispatchd.protocol.times import duration

_START_S: Final = 30.0
"""Longest wait until the hub listens (seconds)."""

_ALL_S: Final = 90.0
"""Longest time of the whole demo (seconds)."""

_CONFIG: Final = """\
[cloud]
url = "{url}"
license_id = "self-hosted"
server_id = "demo-machine"
secret_file = "secret"

[store]
folder = "state"
min_free_mib = 1

[runs]
slots = 2
queue_ahead = 8

[log]
format = "json"

[workflows.show-event]
command = ["/bin/sh", "-c", 'echo "$GITHUB_EVENT_NAME in $GITHUB_REPOSITORY by $GITHUB_ACTOR"; wc -c <"$GITHUB_EVENT_PATH"']

[workflows.failing-tests]
command = ["/bin/sh", "-c", "echo 3 of 140 tests failed; exit 1"]

[workflows.long-build]
command = ["/bin/sh", "-c", "echo building; sleep 600"]
max_duration_s = 3600
"""


@frozen
class Act:
    """One job of the demo: its source, its workflow, and its expected outcome."""

    job_id: str
    payload: str
    workflow: str
    outcome: str
    cancels: str = ""


_ACTS: Final = (
    Act("build", "pull_request.opened", "long-build", "aborted"),
    Act("push", "push", "show-event", "succeeded"),
    Act("comment", "issue_comment.created", "show-event", "succeeded"),
    Act("release", "release.published", "show-event", "succeeded"),
    Act("dispatch", "workflow_dispatch", "show-event", "succeeded"),
    Act("rerun", "check_run.rerequested", "failing-tests", "failed"),
    Act("typo", "push", "no-such-workflow", "rejected"),
    Act("stop-build", "pull_request.opened", "", "succeeded", cancels="build"),
)


@frozen
class Result:
    """Outcome of an act's job, and its output."""

    act: Act
    outcome: str
    summary: str
    log: str

    @property
    def as_expected(self) -> bool:
        """True if the outcome is the expected one."""
        return self.outcome == self.act.outcome


async def play(folder: Path, *, quiet: bool) -> Sequence[Result]:
    """Play every act in a folder, and return the results.

    Raises:
        NotReachable: The jobs don't end.
    """
    say = _say_nothing if quiet else click.echo
    with anyio.move_on_after(_ALL_S):
        async with (
            _hub(folder) as (url, token),
            httpx.AsyncClient(
                base_url=url,
                timeout=_ALL_S,
                trust_env=False,
                headers={"authorization": f"Bearer {token}"},
            ) as http,
        ):
            say(f"hub      {url}")
            (folder / "config.toml").write_text(_CONFIG.format(url=url))
            async with _daemon(folder) as daemon, anyio.create_task_group() as tasks:
                tasks.start_soon(
                    _show_progress, daemon, folder / "daemon.log", say, name="progress"
                )
                for act in _ACTS[:-1]:
                    await _submit(http, act)
                # The build is cancelled once it runs, as a person would do it.
                await _until_running(http, "build")
                await _submit(http, _ACTS[-1])
                results = [await _result(http, act, folder) for act in _ACTS]
                tasks.cancel_scope.cancel()
            return results
    raise NotReachable(
        cannot="finish the demo",
        reason=f"it took longer than {duration(_ALL_S)}; see {folder}",
    )


def _say_nothing(_: str) -> None:
    return


@asynccontextmanager
async def _hub(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Run a hub with one machine. Yield its address and the token of its owner."""
    place = folder / "hub"
    config = ["--config", str(place / "hub.toml")]
    await _command(folder, "init", "--json", "--listen", "127.0.0.1:0", str(place))
    port_file = place / "port"
    serve = ["hub", "serve", *config, "--port-file", str(port_file)]
    async with await _start(*serve, folder=folder) as process:
        lines = TextReceiveStream(_output(process))
        url = ""
        with anyio.move_on_after(_START_S):
            while not url.endswith("\n"):
                try:
                    url += await lines.receive()
                except anyio.EndOfStream:
                    _give_up(folder)
        if "http" not in url:
            _give_up(folder)
        url = url.split()[-1]
        arguments = ["machine", "add", "demo-machine", "--fixed-secret", "--json"]
        added = await _command(folder, *arguments, *config, "--url", url)
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(added["secret"])
        try:
            yield url, (place / "admin-token").read_text().strip()
        finally:
            process.terminate()


async def _command(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return the JSON that a command of the hub prints."""
    done = await anyio.run_process(
        [sys.executable, "-m", "dispatchd", "hub", *arguments], cwd=folder, check=False
    )
    if done.returncode:
        (folder / "errors.log").write_bytes(done.stderr)
        _give_up(folder)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@asynccontextmanager
async def _daemon(folder: Path) -> AsyncIterator[Process]:
    async with await _start("run", "--config", "config.toml", folder=folder) as process:
        try:
            yield process
        finally:
            process.terminate()


async def _start(*arguments: str, folder: Path) -> Process:
    with (folder / "errors.log").open("ab") as errors:
        return await anyio.open_process(
            [sys.executable, "-m", "dispatchd", *arguments], cwd=folder, stderr=errors
        )


def _output(process: Process) -> anyio.abc.ByteReceiveStream:
    if process.stdout is None:
        message = "a process of the demo has no output"
        raise AssertionError(message)
    return process.stdout


def _give_up(folder: Path) -> NoReturn:
    lines = (folder / "errors.log").read_text().strip().splitlines() or [
        f"see {folder}"
    ]
    raise NotReachable(
        cannot="start the hub", reason=lines[-1].removeprefix("dispatchd: ")
    )


async def _submit(http: httpx.AsyncClient, act: Act) -> None:
    event, _, _ = act.payload.partition(".")
    text = (files("dispatchd") / "demo_data" / f"{act.payload}.json").read_text(
        encoding="utf-8"
    )
    if act.cancels:
        job = Job(id=act.job_id, command="cancel", target_run_id=act.cancels)
    else:
        job = job_from_event(act.job_id, act.workflow, event, loads(text))
    head = json.dumps(job_to_wire(job))
    reply = await http.post("/api/v1/jobs", content=f'{head[:-1]}, "payload": {text}}}')
    reply.raise_for_status()


async def _until_running(http: httpx.AsyncClient, job_id: str) -> None:
    while not await _view(http, job_id, "accepted"):
        pass


async def _result(http: httpx.AsyncClient, act: Act, folder: Path) -> Result:
    job = await _view(http, act.job_id, "finished")
    log = folder / "state" / "runs" / act.job_id / "attempt-1" / "output.log"
    return Result(
        act,
        job["result_status"],
        job["result_summary"],
        str(log) if log.exists() else "(not run)",
    )


async def _view(http: httpx.AsyncClient, job_id: str, until: str) -> dict[str, Any]:
    reply = await http.get(
        f"/api/v1/jobs/{job_id}", params={"wait": str(_ALL_S), "until": until}
    )
    job: dict[str, Any] = reply.raise_for_status().json()
    return job


async def _show_progress(daemon: Process, log_file: Path, say: Any) -> None:  # noqa: ANN401  # click.echo or nothing
    buffered = ""
    with log_file.open("a") as log:
        async for text in TextReceiveStream(_output(daemon)):
            log.write(text)
            log.flush()
            *lines, buffered = (buffered + text).split("\n")
            for line in lines:
                _show(json.loads(line), say)


def _show(line: dict[str, Any], say: Any) -> None:  # noqa: ANN401  # click.echo or nothing
    if line["event"] == "daemon_ready":
        say(f"daemon   pid {line['pid']}, pulling; no port open\n")
    elif line["event"].startswith("job_") and "phase" in line:
        outcome = f"  {line['outcome']}" if line.get("outcome") else ""
        say(
            f"{line['timestamp'][11:23]}  {line['job_id']:<11} {line['phase']:<15}{outcome}"
        )
