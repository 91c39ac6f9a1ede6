"""A surprise in a round of any loop ends nothing: the loop is named, and its next round works.

Which loops there are is read from the code (`support/loops.py`), so that a new one has to be broken here too.
"""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typing_extensions import override

from support.certificates import Authority
from support.checks import ChecksHub, checks_hub
from support.clock import advance
from support.control import call
from support.daemon import DaemonHere, running_daemon, write_config
from support.endpoint import endpoint
from support.github import INSTALLATION
from support.github_api import github_api
from support.hub import NO_TLS, HubHere, hub
from support.licenses import KEY, Issuer, config_lines
from support.loops import FaultyFence, loops_of
from support.until import in_time, until

WATCHDOG_S = 40
TLS = {"tls"}
"""The loop of a hub that speaks TLS itself, which is broken in a test of its own."""


def daemon_loops() -> set[str]:
    return loops_of("", without=("hub", "cli"))


def hub_loops() -> set[str]:
    return loops_of("hub") - TLS


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a program whose service manager has a watchdog."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        yield {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(WATCHDOG_S * 10**6)}


async def test_no_fault_in_a_round_ends_the_daemon(
    tmp_path: Path, manager: dict[str, str]
) -> None:
    bugs, issuer, loops = FaultyFence(), Issuer(), daemon_loops()
    job = {
        "dag_name": "it",
        "claim_token": "t",
        "lease_seconds": 60,
        "extensions": ["claim", "lease", "heartbeat", "capabilities"],
    }
    async with endpoint() as hub:
        hub.script = issuer.answer
        config = _licensed(tmp_path / "machine", hub.url, issuer)
        async with running_daemon(config, bugs=bugs, env=manager) as daemon:
            await _until_all_worked(bugs, {"prune", "supervision"})
            hub.hand_out({"id": "one", **job})
            await _in_time(lambda: ("traces", False) in bugs.broken)
            hub.hand_out({"id": "two", **job})
            await _in_time(lambda: hub.calls("finish", "two"))
            # One connection meets the fault of the loop that takes it, and is taken by the next round.
            await call(daemon, "GET", "/v1/status")
            await call(daemon, "GET", "/v1/status")
            await _metrics_of(daemon)
            metrics = await _metrics_of(daemon)
            (daemon.state / "jobs").chmod(0o700)
            await _until_all_worked(bugs, loops)
            status = await call(daemon, "GET", "/v1/status")
            assert set(bugs.met) >= loops
            assert all("injected" in each["exception"] for each in _logged(daemon))
            assert status["ready"], status["problems"]

    (finish,) = hub.calls("finish", "two")
    assert finish.body["result_status"] == "succeeded"
    assert 'dispatchd_bugs_total{loop="prune"} 1.0' in metrics


async def test_a_loop_that_goes_on_failing_is_named(tmp_path: Path) -> None:
    bugs = Stubborn()
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        with config.open("a") as file:
            file.write('[metrics]\nlisten = "127.0.0.1:0"\n')
        async with running_daemon(config, bugs=bugs) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await hub.until_finished("j")
            status = await call(daemon, "GET", "/v1/status")
            metrics = await _metrics_of(daemon)

    assert status["problems"] == [
        "prune has met a bug and is tried again; the log has details (Injected)"
    ]
    assert not status["ready"]
    assert "dispatchd_loops_failing 1.0" in metrics


async def test_no_fault_in_a_round_ends_the_hub(
    tmp_path: Path, manager: dict[str, str]
) -> None:
    bugs = FaultyFence()
    async with _github_hub(tmp_path, bugs, manager) as hub:
        await _break_all(hub, bugs, hub_loops() - {"listener"})
        ready = (await hub.server.http.get("/readyz")).json()
        metrics = (await hub.server.http.get("/metrics")).text

    assert ready == {"message": "ready", "bugs": []}
    assert 'dispatchd_hub_bugs_total{loop="expiry"} 1.0' in metrics


@pytest.mark.host
async def test_no_fault_in_a_round_ends_a_hub_that_shares_its_database(
    tmp_path: Path, manager: dict[str, str], postgresql_url: str
) -> None:
    bugs = FaultyFence()
    async with _github_hub(tmp_path, bugs, manager, database_url=postgresql_url) as hub:
        await _break_all(hub, bugs, hub_loops() - {"lock"})


async def test_a_loop_of_the_hub_that_goes_on_failing_is_named(tmp_path: Path) -> None:
    bugs = Stubborn()
    async with _github_hub(tmp_path, bugs, {}) as hub:
        await until(lambda: "prune" in bugs.failing)
        ready = await hub.server.http.get("/readyz")
        metrics = (await hub.server.http.get("/metrics")).text

    assert ready.status_code == 200
    assert ready.json()["bugs"] == [
        "prune has met a bug and is tried again; the log has details (Injected)"
    ]
    assert "dispatchd_hub_loops_failing 1.0" in metrics


async def test_no_fault_in_a_round_ends_a_hub_that_speaks_tls(tmp_path: Path) -> None:
    bugs, folder = FaultyFence(), tmp_path / "hub"
    folder.mkdir()
    issued = Authority(tmp_path / "ca").issue("127.0.0.1")
    (folder / "tls.pem").write_bytes(issued.read_bytes())
    async with hub(folder, keys='tls_cert_file = "tls.pem"', bugs=bugs):
        for _ in range(3):
            await advance(6)
        await _until_all_worked(bugs, TLS)


class Stubborn(FaultyFence):
    """Breaks every round of `prune`, and no other."""

    @override
    def _break(self, loop: str, *, for_item: bool) -> None:
        if loop == "prune":
            self.broken.clear()
            super()._break(loop, for_item=for_item)


@asynccontextmanager
async def _github_hub(
    folder: Path, bugs: FaultyFence, env: dict[str, str], **options: Any
) -> AsyncIterator[ChecksHub[HubHere]]:
    async with (
        github_api() as github,
        checks_hub(
            folder, github, 'ingest = "poll"', bugs=bugs, env=env, **options
        ) as hub,
    ):
        yield hub


async def _break_all(
    hub: ChecksHub[HubHere], bugs: FaultyFence, loops: set[str]
) -> None:
    hub.add("j", installation=INSTALLATION)
    await hub.ring()
    held = await hub.pull()
    await held.accept()
    await hub.finish(held, "succeeded")
    await hub.paid()
    await hub.ring()
    await _until_all_worked(bugs, loops)


async def _until_all_worked(bugs: FaultyFence, loops: set[str]) -> None:
    """Return once each loop has had its fault and a round after it, and none fails any more."""

    def all_worked() -> bool:
        return loops <= bugs.worked_after and not loops & set(bugs.failing)

    try:
        await _in_time(all_worked)
    except AssertionError as error:
        error.add_note(f"{loops - bugs.worked_after} | {bugs.failing} | {bugs.broken}")
        raise


async def _in_time(look: Any) -> None:
    await in_time(look, within_s=60)


def _licensed(folder: Path, url: str, issuer: Issuer) -> Path:
    config = write_config(folder, url, {"it": ["/bin/true"]})
    lines = [
        line
        for line in config.read_text().splitlines()
        if not line.startswith(("license_id", "server_id", "secret_file"))
    ]
    lines += [config_lines(issuer), '[metrics]\nlisten = "127.0.0.1:0"']
    # Nobody answers there, which is no bug.
    lines += ['[telemetry]\notlp_url = "http://127.0.0.1:9/v1/traces"']
    lines += ['[engines.none]\nkind = "slurm"']
    config.write_text("\n".join(lines))
    (folder / "key").write_text(KEY)
    return config


async def _metrics_of(daemon: DaemonHere) -> str:
    served = await daemon.until_logged("metrics_served")
    async with httpx.AsyncClient(verify=NO_TLS, timeout=20) as http:
        reply = await http.get(f"http://127.0.0.1:{served['port']}/metrics")
    return reply.text


def _logged(daemon: DaemonHere) -> list[dict[str, Any]]:
    return [each for each in daemon.log() if each.get("event") == "bug_contained"]
