"""What a stop does to runs is the owner's choice: leave them alive, wait for them, or end them."""

import signal
from pathlib import Path

import anyio

from support.clock import within
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import Endpoint, endpoint

WAITS = ["/bin/sh", "-c", "while ! [ -e go ]; do sleep 0.05; done; exit 4"]


async def start(daemon: DaemonHere, hub: Endpoint) -> None:
    hub.hand_out({"id": "job-1", "dag_name": "it"})
    await daemon.until_logged("job_attempt_started")


def let_go(daemon: DaemonHere) -> None:
    (daemon.state / "runs" / "job-1" / "workspace" / "go").touch()


async def test_a_stop_that_drains_waits_for_runs_and_reports_them(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, runs='on_shutdown = "drain"'
        )
        async with running_daemon(config) as daemon:
            await start(daemon, hub)
            daemon.send(signal.SIGTERM)
            await daemon.until_logged("stopping")
            let_go(daemon)
            [finish] = await hub.until_finished("job-1")
            await daemon.until_ended()

    assert "exit code 4" in finish["result_summary"]


async def test_what_waits_for_a_slot_does_not_start_while_a_stop_waits_for_runs(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, runs='on_shutdown = "drain"\nslots = 1'
        )
        async with running_daemon(config) as daemon:
            await start(daemon, hub)
            hub.hand_out({"id": "job-2", "dag_name": "it"})
            await daemon.until_logged("job_accept_confirmed", job_id="job-2")
            daemon.send(signal.SIGTERM)
            await daemon.until_logged("stopping")
            let_go(daemon)
            await daemon.until_ended()

        assert not (daemon.state / "runs/job-2/attempt-1").exists()
        assert [*hub.finished] == ["job-1"]


async def test_a_stop_that_drains_asks_for_time_and_takes_a_second_signal(
    tmp_path: Path,
) -> None:
    address = tmp_path / "notify"
    async with (
        await anyio.create_unix_datagram_socket(local_path=address) as manager,
        endpoint() as hub,
    ):
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, runs='on_shutdown = "drain"'
        )
        env = {"NOTIFY_SOCKET": str(address)}
        async with running_daemon(config, env=env) as daemon:
            await start(daemon, hub)
            daemon.send(signal.SIGTERM)
            with within(20):
                while b"EXTEND_TIMEOUT_USEC" not in (await manager.receive())[0]:
                    pass
            daemon.send(signal.SIGTERM)
            await daemon.until_ended()
        assert hub.finished == {}
        daemon.log_file.unlink()
        async with running_daemon(config) as daemon:
            let_go(daemon)
            [finish] = await hub.until_finished("job-1")

    assert "exit code 4" in finish["result_summary"]


async def test_a_stop_that_cancels_ends_runs_and_reports_them(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": WAITS}, runs='on_shutdown = "cancel"'
        )
        async with running_daemon(config) as daemon:
            await start(daemon, hub)
            daemon.send(signal.SIGTERM)
            [finish] = await hub.until_finished("job-1")
            await daemon.until_ended()

    assert finish["result_status"] == "aborted"
