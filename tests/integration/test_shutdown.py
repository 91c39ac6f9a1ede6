"""What a stop does to runs is the owner's choice: leave them alive, wait for them, or end them."""

import signal
import socket
from pathlib import Path

from support.daemon import write_config
from support.daemon_process import DaemonProcess, running, running_daemon
from support.endpoint import Endpoint, endpoint

WAITS = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.05; done; exit 4"]


async def start(daemon: DaemonProcess, hub: Endpoint) -> None:
    hub.hand_out({"id": "job-1", "dag_name": "it"})
    await daemon.until_logged("job_attempt_started")


def let_go(daemon: DaemonProcess) -> None:
    (daemon.state / "runs" / "job-1" / "workspace" / "go").touch()


async def test_a_stop_that_drains_waits_for_runs_and_reports_them(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, runs='on_shutdown = "drain"'
        )
        with running(config) as daemon:
            await start(daemon, hub)
            daemon.process.send_signal(signal.SIGTERM)
            await daemon.until_logged("stopping")
            let_go(daemon)
            [finish] = await hub.until_finished("job-1")
            code = daemon.process.wait(20)

    assert code == 0
    assert "exit code 4" in finish["result_summary"]


async def test_a_stop_that_drains_asks_for_time_and_takes_a_second_signal(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        async with endpoint() as hub:
            config = write_config(
                tmp_path, hub.url, {"it": WAITS}, runs='on_shutdown = "drain"'
            )
            env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
            with running(config, env=env) as daemon:
                await start(daemon, hub)
                daemon.process.send_signal(signal.SIGTERM)
                await daemon.until_logged("stopping")
                while b"EXTEND_TIMEOUT_USEC" not in manager.recv(65536):
                    pass
                daemon.process.send_signal(signal.SIGTERM)
                code = daemon.process.wait(20)
            daemon.log_file.unlink()
            async with running_daemon(config) as daemon:
                let_go(daemon)
                [finish] = await hub.until_finished("job-1")

    assert code == 0
    assert "exit code 4" in finish["result_summary"]


async def test_a_stop_that_cancels_ends_runs_and_reports_them(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, runs='on_shutdown = "cancel"'
        )
        with running(config) as daemon:
            await start(daemon, hub)
            daemon.process.send_signal(signal.SIGTERM)
            [finish] = await hub.until_finished("job-1")
            code = daemon.process.wait(20)

    assert code == 0
    assert finish["result_status"] == "aborted"
