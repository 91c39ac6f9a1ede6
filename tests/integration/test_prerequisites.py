"""A machine that lacks something says so before it takes a job, and takes none that it couldn't run well."""

import os
import shutil
import signal
import subprocess
import sys
from errno import ENOSYS, EPERM
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import SECRET, endpoint
from support.torture import few

COMPILER = shutil.which("cc") or shutil.which("gcc")
PIDFD_SEND_SIGNAL, PIDFD_OPEN = "424", "434"
"""Numbers of the system calls, the same on every architecture that has come since Linux 5.1."""


@pytest.fixture(scope="session")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs another one for which two system calls fail."""
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    program = tmp_path_factory.mktemp("without") / "without"
    source = Path(__file__).parents[1] / "support" / "without.c"
    subprocess.run([COMPILER, "-o", program, source], check=True)
    return program


@pytest.mark.parametrize(
    ("error", "calls"),
    few(
        [
            (ENOSYS, (PIDFD_OPEN, PIDFD_SEND_SIGNAL)),
            (EPERM, (PIDFD_OPEN, PIDFD_SEND_SIGNAL)),
            (EPERM, (PIDFD_SEND_SIGNAL, PIDFD_SEND_SIGNAL)),
        ],
        1,
    ),
    ids=["old-kernel", "seccomp", "seccomp-of-signals-alone"],
)
async def test_a_kernel_without_pidfd_is_named_before_a_job_is_taken(
    tmp_path: Path, without: Path, error: int, calls: tuple[str, str]
) -> None:
    async with endpoint() as hub:
        hub.hand_out({"id": "j", "dag_name": "it"})
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = [str(without), str(error), *calls, "--", sys.executable]
            return subprocess.run(
                [*command, "-m", "dispatchd", *words, "--config", str(config)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        ran = await to_thread.run_sync(run, "run")
        doctor = await to_thread.run_sync(run, "doctor")

    assert ran.returncode == os.EX_CONFIG
    [line] = ran.stderr.splitlines()
    assert "use Linux 5.3 or newer" in line
    assert "seccomp" in line
    assert os.strerror(error) in line
    assert hub.calls("pull") == []
    assert doctor.returncode == 2
    assert "failed  pidfd" in doctor.stdout
    assert os.strerror(error) in doctor.stdout
    assert doctor.stderr == ""


async def test_a_checkout_without_git_stops_the_start(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"]}, limits="checkout = true"
        )
        done = await to_thread.run_sync(
            lambda: subprocess.run(
                [sys.executable, "-m", "dispatchd", "run", "--config", str(config)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, "PATH": str(tmp_path)},
            )
        )

    assert done.returncode == os.EX_CONFIG
    assert "install git" in done.stderr
    assert hub.calls("pull") == []


async def test_a_limit_that_cannot_be_kept_keeps_the_workflow_to_others(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/true"], "free": ["/bin/true"]}
        )
        text = config.read_text()
        config.write_text(
            text.replace('[workflows."it"]', '[workflows."it"]\npids_max = 50').replace(
                "[runs]", "[runs]\nmemory_max_mib = 900"
            )
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            hub.hand_out({"id": "k", "dag_name": "free"})
            refused, ran = await hub.until_finished("j", "k")
            status = await call(daemon, "GET", "/v1/status")
            pulls = [each.body.get("workflows") for each in hub.calls("pull")]

    if "controllers: cpu, memory, pids" in status["containment"]:
        pytest.skip("this machine keeps every limit")
    assert refused["result_status"] == "rejected"
    assert "pids_max can't be kept on this machine" in refused["result_summary"]
    assert ran["result_status"] == "succeeded"
    assert pulls[0] == ["free"]
    words = " ".join(status["warnings"])
    assert "workflows.it takes no jobs: pids_max can't be kept" in words
    assert "runs continue without memory_max_mib" in words


@pytest.mark.parametrize(
    ("more", "goes_back"),
    [
        ({}, False),
        ({"claim_token": "t", "lease_seconds": 600, "extensions": ["release"]}, True),
    ],
    ids=["rejected", "given back"],
)
async def test_an_accepted_job_does_not_run_without_a_limit_that_cannot_be_kept_any_more(
    tmp_path: Path,
    more: dict[str, Any],
    goes_back: bool,  # noqa: FBT001  # a column of the table
) -> None:
    waits = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.05; done"]
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"first": waits, "it": ["/usr/bin/touch", "ran"]}
        )
        async with running_daemon(config) as daemon:
            if "memory" in (await call(daemon, "GET", "/v1/status"))["containment"]:
                pytest.skip("this machine keeps the limit")
            hub.hand_out({"id": "a", "dag_name": "first"})
            await daemon.until_logged("job_attempt_started", job_id="a")
            hub.hand_out({"id": "b", "dag_name": "it", **more})
            await daemon.until_logged("job_accept_confirmed", job_id="b")
            before = '[workflows."it"]'
            text = config.read_text()
            config.write_text(text.replace(before, f"{before}\nmemory_max_mib = 900"))
            daemon.send(signal.SIGHUP)
            await daemon.until_logged("reloaded")
            (daemon.state / "runs" / "a" / "workspace" / "go").touch()
            if goes_back:
                await hub.until(lambda it: bool(it.calls("release", "b")))
                words = hub.calls("release", "b")[0].body["reason"]
            else:
                [finish] = await hub.until_finished("b")
                words = finish["result_summary"]
                assert finish["result_status"] == "rejected"

    assert "memory_max_mib can't be kept on this machine" in words
    assert not list(tmp_path.rglob("ran"))


async def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    seen: list[Any] = []
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/sh", "-c", 'printf %s "$KEY" >key']}
        )
        (tmp_path / "secret").write_bytes(b"\xef\xbb\xbf" + SECRET.encode() + b"\r\n")
        (tmp_path / "key").write_bytes(b"\xef\xbb\xbfa key\n")
        with config.open("a") as file:
            file.write('secrets = { KEY = "key" }\n[secrets.key]\nfile = "key"\n')
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until_finished("j")
            seen = [each.body["heartbeat_secret"] for each in hub.calls("pull")]
            key = (daemon.state / "runs" / "j" / "workspace" / "key").read_bytes()

    assert set(seen) == {SECRET}
    assert key == b"a key"
