"""The example agent, end to end: hub, daemon, private clone, edit, commit, push, result; and what is left."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dispatchd.concurrency.bug_fence import BugFence
from support.clock import LongPauses
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Answer, Request, as_json, endpoint
from support.git_server import GitServer, git, git_server
from support.hub import Hub
from support.until import until

TOKEN = "token-of-the-installation-0815"
AGENT = Path(__file__).parents[2] / "examples" / "coding-agent.py"


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "served", token=TOKEN) as found:
        yield found


@pytest.fixture
async def daemon(
    tmp_path: Path, server: Hub, forge: GitServer
) -> AsyncIterator[DaemonHere]:
    config = configure(tmp_path, server.url, forge)
    env = {"TOKEN_OF_THE_MACHINE": TOKEN}
    async with running_daemon(config, env=env, bugs=BugFence(LongPauses())) as found:
        yield found


def configure(folder: Path, url: str, forge: GitServer) -> Path:
    """Write the configuration of a machine with an agent that works in private clones."""
    config = write_config(
        folder / "machine",
        url,
        {"agent": [sys.executable, str(AGENT)]},
        limits=f"""
contract = "headless"
checkout = true
checkout_url = "{forge.url}"
checkout_secret = "forge"
secrets = {{ GIT_TOKEN = "forge" }}
required_artifacts = ["README.md"]
""",
    )
    text = config.read_text()
    config.write_text(f'{text}\n[secrets.forge]\nenv = "TOKEN_OF_THE_MACHINE"\n')
    return config


def job(sha: str, job_id: str = "j") -> dict[str, Any]:
    return {
        "id": job_id,
        "dag_name": "agent",
        "event_name": "issue_comment",
        "event_action": "created",
        "repository_name": "o/r",
        "ref": "refs/heads/main",
        "sha": sha,
    }


def comment(body: str) -> str:
    return json.dumps(
        {
            "comment": {"id": 5, "body": body},
            "repository": {"full_name": "o/r", "default_branch": "main"},
        }
    )


async def until_cleared(run: Path) -> None:
    """Wait until the clone of a run has been removed, which the daemon doesn't announce."""
    await until(lambda: not (run / "workspace.private").exists())


def command_lines() -> Iterator[bytes]:
    """Yield the command line of every process of this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # gone meanwhile
            yield path.read_bytes()


async def test_a_coding_agent_goes_end_to_end(
    server: Hub, daemon: DaemonHere, forge: GitServer
) -> None:
    sha = forge.create("o/r")[2]
    seen: list[list[bytes]] = []
    # Each git that asks waits for the answer, so it is there to be seen.
    forge.at_request = lambda: seen.append([*command_lines()])
    await server.submit(job(sha), comment("/agent mention the new office"))
    result = await server.result("j")

    bare = forge.root / "o/r.git"
    assert result["result_status"] == "succeeded", result
    assert result["result_summary"] == "Noted the request in NOTES.md on agent/j."
    assert git(bare, "show", "agent/j:NOTES.md") == "- mention the new office"
    assert git(bare, "rev-parse", "agent/j^") == sha
    run = daemon.state / "runs" / "j"
    attempt = run / "attempt-1"
    assert (
        git(bare, "rev-parse", "agent/j")
        == (json.loads((attempt / "run/result.json").read_text())["commits"][0])
    )
    await until_cleared(run)
    # The clone is gone, and what a success needs of it is kept.
    assert list((run / "workspace").iterdir()) == []
    assert (run / "artifacts" / "README.md").read_text() == "version 3\n"
    assert (run / "artifacts" / "NOTES.md").exists()
    assert {path.rpartition("/")[2] for path, _ in forge.requests} >= {
        "git-upload-pack",
        "git-receive-pack",
    }
    for lines in seen:
        assert any(b"remote-http" in line for line in lines)
        assert not any(TOKEN.encode() in line for line in lines)
    for path, data in daemon.written().items():
        assert TOKEN.encode() not in data, path


async def test_an_agent_that_needs_words_asks_for_them(
    server: Hub, daemon: DaemonHere, forge: GitServer
) -> None:
    sha = forge.create("o/r")[2]
    await server.submit(job(sha), comment("/agent"))

    await daemon.until_logged("job_parked", job_id="j")
    record = json.loads((daemon.state / "jobs" / "j.json").read_text())

    assert "What shall I do?" in record["blocked"]
    # A person may want to look: the clone stays until it is resolved.
    assert (daemon.state / "runs/j/workspace/README.md").exists()


async def test_a_parked_agent_that_is_tried_again_has_a_clone_and_leaves_none(
    server: Hub, daemon: DaemonHere, forge: GitServer
) -> None:
    sha = forge.create("o/r")[2]
    await server.submit(job(sha), comment("/agent"))
    await daemon.until_logged("job_parked", job_id="j")
    run = daemon.state / "runs" / "j"
    # Removing them takes longer than the new attempt's clone.
    for number in range(3000):
        (run / "workspace" / str(number)).touch()

    await call(daemon, "POST", "/v1/jobs/j/resolve", {"as": "retry"})
    await daemon.until_logged("job_parked", job_id="j", attempt=2)

    assert (run / "workspace" / "README.md").exists()
    assert (run / "workspace.private").exists()
    assert not (run / "workspace" / "1").exists()
    await call(daemon, "POST", "/v1/jobs/j/resolve", {"as": "fail"})
    await until_cleared(run)
    assert list((run / "workspace").iterdir()) == []
    await until(lambda: not list((daemon.state / "runs" / ".gone").iterdir()))


@pytest.mark.parametrize("end", ["refused", "cancelled"])
async def test_a_parked_agent_that_is_tried_again_in_vain_leaves_no_clone(
    tmp_path: Path, forge: GitServer, end: str
) -> None:
    sha = forge.create("o/r")[2]
    status = {"refused": 409, "cancelled": 503}[end]

    def script(request: Request) -> Answer | None:
        if request.call == "accept" and hub.calls("accept"):
            return as_json({"message": "no"}, status)
        return None

    async with (
        endpoint() as hub,
        running_daemon(
            configure(tmp_path, hub.url, forge), env={"TOKEN_OF_THE_MACHINE": TOKEN}
        ) as daemon,
    ):
        hub.hand_out({**job(sha), "payload": json.loads(comment("/agent"))})
        await daemon.until_logged("job_parked", job_id="j")
        run = daemon.state / "runs" / "j"
        assert (run / "workspace" / "README.md").exists()
        hub.script = script
        await call(daemon, "POST", "/v1/jobs/j/resolve", {"as": "retry"})
        if end == "cancelled":
            await daemon.until_logged("report_failed", job_id="j")
            await call(daemon, "POST", "/v1/jobs/j/cancel", {})
        await until_cleared(run)

    assert list((run / "workspace").iterdir()) == []


async def test_a_clone_that_a_killed_daemon_left_is_removed_by_the_next(
    server: Hub, daemon: DaemonHere, forge: GitServer
) -> None:
    sha = forge.create("o/r")[2]
    await server.submit(job(sha), comment("/agent once"))
    await server.result("j")
    await daemon.until_logged("job_finish_acknowledged", job_id="j")
    run = daemon.state / "runs" / "j"
    await until_cleared(run)
    await daemon.crash()
    (run / "workspace.private").touch()
    (run / "workspace" / "private.py").write_text("code")
    locked = run / "workspace" / "locked"
    locked.mkdir()
    (locked / "more.py").write_text("code")
    locked.chmod(0o500)

    daemon.start()
    await until_cleared(run)

    assert list((run / "workspace").iterdir()) == []


async def test_a_repository_that_cannot_be_cloned_is_tried_again(
    tmp_path: Path, server: Hub, daemon: DaemonHere, forge: GitServer
) -> None:
    forge.status = 500
    await server.submit(job("f" * 40), comment("/agent once"))

    await daemon.until_logged("job_start_failed", job_id="j")
    record = json.loads((daemon.state / "jobs" / "j.json").read_text())

    assert (record["start_failures"], record["phase"]) == (1, "retry_wait")
    assert record["retry_at"]
    await until_cleared(tmp_path / "machine/state/runs/j")
    assert list((tmp_path / "machine/state/runs/j/workspace").iterdir()) == []
