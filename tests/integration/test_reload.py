"""A changed configuration is taken as a whole or not at all, and live runs keep theirs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from anyio import to_thread

from dispatchd.errors import UsageError
from support.control import call, until_status
from support.daemon import DaemonHere, running_daemon, write_config
from support.daemon_process import DaemonProcess, running
from support.endpoint import endpoint
from support.until import until

WAITS = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.05; done; exit $CODE"]


def change(config: Path, before: str, after: str) -> None:
    text = config.read_text()
    assert before in text
    config.write_text(text.replace(before, after))


async def restart(daemon: DaemonHere, before: str, after: str) -> None:
    """Kill a daemon, and start the next one with a changed configuration."""
    await daemon.crash()
    change(daemon.config, before, after)
    daemon.log_file.unlink()
    daemon.start()
    await daemon.until_logged("daemon_ready")


def let_go(daemon: DaemonHere, job_id: str) -> None:
    (daemon.state / "runs" / job_id / "workspace" / "go").touch()


async def test_a_new_workflow_is_there_after_a_reload(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"old": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            with config.open("a") as file:
                file.write('[workflows.new]\ncommand = ["/bin/sh", "-c", "exit 7"]\n')
            daemon.send(signal.SIGHUP)
            await daemon.until_logged("reloaded")
            hub.hand_out({"id": "job-1", "dag_name": "new"})
            [finish] = await hub.until_finished("job-1")
            status = await call(daemon, "GET", "/v1/status")

    assert finish["result_status"] == "failed"
    assert "exit code 7" in finish["result_summary"]
    assert status["reloaded_at"] is not None


async def test_a_bad_configuration_is_refused_and_named_until_it_is_mended(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            change(config, "[runs]", "[runs]\nslots = 0")
            daemon.send(signal.SIGHUP)
            line = await daemon.until_logged("reload_refused")
            status = await call(daemon, "GET", "/v1/status")
            with pytest.raises(UsageError, match=r"runs\.slots"):
                await call(daemon, "POST", "/v1/reload")
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            [finish] = await hub.until_finished("job-1")
            change(config, "slots = 0", "slots = 3")
            await call(daemon, "POST", "/v1/reload")
            mended = await call(daemon, "GET", "/v1/status")

    assert "runs.slots" in line["problems"][0]
    assert "runs.slots" in status["warnings"][0]
    assert finish["result_status"] == "succeeded"
    assert mended["warnings"] == []
    assert mended["slots"]["total"] == 3


async def test_a_live_run_keeps_its_terms_and_the_next_one_has_the_new_ones(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, limits='env = { CODE = "1" }'
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "before", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="before")
            change(config, 'CODE = "1"', 'CODE = "2"')
            await call(daemon, "POST", "/v1/reload")
            let_go(daemon, "before")
            hub.hand_out({"id": "after", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="after")
            let_go(daemon, "after")
            before, after = await hub.until_finished("before", "after")

    assert "exit code 1" in before["result_summary"]
    assert "exit code 2" in after["result_summary"]


async def test_a_run_whose_workflow_has_gone_ends_as_it_would_have(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, limits='env = { CODE = "0" }'
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="job-1")
            change(config, '[workflows."it"]', '[workflows."other"]')
            await call(daemon, "POST", "/v1/reload")
            let_go(daemon, "job-1")
            [finish] = await hub.until_finished("job-1")

    assert finish["result_status"] == "succeeded"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('[workflows."it"]', '[workflows."other"]'),
        ("report_output = false", "report_output = true"),
    ],
)
async def test_the_output_of_a_run_that_was_to_stay_at_home_stays_there(
    tmp_path: Path, before: str, after: str
) -> None:
    script = [*WAITS[:2], f"echo private; {WAITS[2]}"]
    limits = 'env = { CODE = "1" }\nreport_output = false'
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": script}, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="job-1")
            await restart(daemon, before, after)
            let_go(daemon, "job-1")
            [finish] = await hub.until_finished("job-1")

    assert finish["result_status"] == "failed"
    assert "private" not in str(finish)


async def test_a_run_whose_workflow_has_gone_still_needs_its_artifacts(
    tmp_path: Path,
) -> None:
    limits = 'env = { CODE = "0" }\nrequired_artifacts = ["dist"]\nmissing_artifacts = "fail"'
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": WAITS}, limits=limits)
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started", job_id="job-1")
            await restart(daemon, '[workflows."it"]', '[workflows."other"]')
            let_go(daemon, "job-1")
            [finish] = await hub.until_finished("job-1")

    assert (finish["result_status"], finish["result_cause"]) == (
        "failed",
        "missing-artifact",
    )


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ('server_id = "srv-test"', 'server_id = "srv-2"', "cloud.server_id"),
        ('folder = "state"', 'folder = "other"', "store.folder"),
        ('format = "json"', 'format = "text"', "log.format"),
    ],
)
async def test_what_cant_change_under_a_running_daemon_is_refused_by_name(
    tmp_path: Path, before: str, after: str, key: str
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        async with running_daemon(config) as daemon:
            change(config, before, after)

            with pytest.raises(UsageError) as caught:
                await call(daemon, "POST", "/v1/reload")

    assert key in str(caught.value)
    assert "restart" in str(caught.value)


async def test_the_log_level_changes_for_all_that_logs(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        change(config, 'level = "debug"', 'level = "error"')
        daemon = DaemonProcess(config=config)
        daemon.start()
        try:
            await hub.until(lambda e: bool(e.calls("pull")))
            hub.hand_out({"id": "quiet", "dag_name": "it"})
            await hub.until_finished("quiet")
            change(config, 'level = "error"', 'level = "info"')
            daemon.process.send_signal(signal.SIGHUP)
            await daemon.until_logged("reloaded")
            hub.hand_out({"id": "loud", "dag_name": "it"})
            await daemon.until_logged("job_finish_acknowledged", job_id="loud")
        finally:
            daemon.kill()

    received = [line for line in daemon.log() if line.get("event") == "job_received"]
    assert [line["job_id"] for line in received] == ["loud"]


async def test_more_slots_are_used_at_once(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, limits='env = { CODE = "0" }'
        )
        async with running_daemon(config) as daemon:
            for name in ("one", "two"):
                hub.hand_out({"id": name, "dag_name": "it"})
            await until_status(daemon, lambda s: s["jobs"]["accepted"] == 1)
            change(config, "[runs]", "[runs]\nslots = 2")
            await call(daemon, "POST", "/v1/reload")
            await until_status(daemon, lambda s: s["slots"]["used"] == 2)
            for name in ("one", "two"):
                let_go(daemon, name)
            await hub.until_finished("one", "two")


async def test_a_hangup_is_no_end_from_the_first_moment_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:1", {"it": ["/bin/true"]})
    with running(config) as daemon:
        status = Path(f"/proc/{daemon.process.pid}/status")

        def is_ignored() -> bool:
            """Return whether a hangup is taken, long before anything is loaded (proc_pid_status(5))."""
            lines = dict(
                line.split(":\t", 1) for line in status.read_text().splitlines()
            )
            return bool(int(lines["SigIgn"], 16) >> (signal.SIGHUP - 1) & 1)

        await until(is_ignored)
        logged = daemon.log()
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.until_logged("daemon_ready")
        code = await to_thread.run_sync(daemon.stop)

    assert logged == []
    assert code == 0


async def test_a_stop_before_anything_has_begun_ends_the_daemon_well(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:1", {"it": ["/bin/true"]})
    with running(config) as daemon:
        status = Path(f"/proc/{daemon.process.pid}/status")

        def is_taken() -> bool:
            """Return whether a SIGTERM has a handler, long before anything is loaded (proc_pid_status(5))."""
            lines = dict(
                line.split(":\t", 1) for line in status.read_text().splitlines()
            )
            return bool(int(lines["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)

        await until(is_taken)
        code = await to_thread.run_sync(daemon.stop)

    assert code == 0


async def test_a_reload_finds_its_file_where_the_folder_of_the_start_is_gone(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path / "machine", hub.url, {"it": ["/bin/true"]})
        (tmp_path / "here").mkdir()
        with (
            (tmp_path / "machine" / "daemon.log").open("w") as log,
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "dispatchd", "run"),
                    *("--config", "../machine/config.toml"),
                ],
                cwd=tmp_path / "here",
                stdout=log,
            ) as process,
        ):
            daemon = DaemonProcess(config=config)
            try:
                await until(lambda: hub.calls("pull"))
                (tmp_path / "here").rmdir()
                process.send_signal(signal.SIGHUP)
                await until(lambda: [e for e in daemon.log() if "reloaded" in str(e)])
                hub.hand_out({"id": "j", "dag_name": "it"})
                [finish] = await hub.until_finished("j")
            finally:
                process.terminate()

    assert finish["result_status"] == "succeeded"
