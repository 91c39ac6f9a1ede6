"""`dispatchd service` under a real systemd: on a machine that has nothing but the program."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.endpoint import SECRET, endpoint
from support.hub_process import hub as hub_process
from support.nspawn import Machine, booted
from support.torture import lasting_port

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

PROGRAM = ("--program", "/opt/dispatchd/bin/dispatchd")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    with booted(folder, bare=True) as found:
        yield found


async def put(machine: Machine, path: str, text: str) -> None:
    await machine.run("sh", "-c", 'printf %s "$1" >"$2"', "sh", text, path)


async def test_a_daemon_is_installed_works_and_leaves_nothing(machine: Machine) -> None:
    installed = await machine.dispatchd("service", "install", *PROGRAM)
    assert "ran           systemctl daemon-reload" in installed.stdout
    early = await machine.dispatchd(
        "service", "install", "--now", *PROGRAM, check=False
    )
    assert (early.returncode, "cloud" in early.stderr) == (78, True), early
    async with endpoint() as hub:
        await put(machine, "/etc/credstore/dispatchd.machine-secret", SECRET)
        config = f"""
[cloud]
url = "{hub.url}"
license_id = "lic-test"
server_id = "srv-test"
secret_credential = "machine-secret"
hold_s = 1
[store]
min_free_mib = 0
[workflows.hello]
command = ["/bin/sh", "-c", "id -un"]
"""
        await put(machine, "/etc/dispatchd/config.toml", config)
        started = await machine.dispatchd("service", "install", "--now", *PROGRAM)
        hub.hand_out({"id": "job-1", "dag_name": "hello"})
        [finish] = await hub.until_finished("job-1", within_s=60)
        shown = await machine.shown("ActiveState", "UnitFileState")
        removed = await machine.dispatchd("service", "uninstall", "--yes")
    after = await machine.shown("ActiveState", "LoadState")
    left = await machine.run(
        *("find", "/etc/dispatchd", "/var/lib/dispatchd", "/var/cache/dispatchd"),
        *("/etc/systemd/system/dispatchd.service", "/etc/sysusers.d/dispatchd.conf"),
        *("-type", "f"),
        check=False,
    )

    assert "ran           systemctl enable --now dispatchd.service" in started.stdout
    assert shown == {"ActiveState": "active", "UnitFileState": "enabled"}
    assert finish["result_output"].split() == ["dispatchd"]
    assert "deleted       /var/lib/dispatchd" in removed.stdout
    assert after == {"ActiveState": "inactive", "LoadState": "not-found"}
    assert left.stdout == ""


async def test_a_hub_is_installed_and_keeps_its_state_if_told_so(
    machine: Machine,
) -> None:
    await machine.dispatchd("service", "install", "--hub", *PROGRAM)
    as_hub = ("setpriv", "--reuid=dispatchd-hub", "--regid=dispatchd-hub")
    program = (*as_hub, "--clear-groups", "/opt/dispatchd/bin/dispatchd")
    await machine.run(
        *program,
        "hub",
        "init",
        "--listen",
        f"127.0.0.1:{lasting_port()}",
        "/var/lib/dispatchd-hub",
    )
    await machine.dispatchd("service", "install", "--hub", "--now", *PROGRAM)
    added = await machine.run(*program, "hub", "machine", "add", "build-1", "--json")
    assert json.loads(added.stdout)["name"] == "build-1"

    await machine.dispatchd("service", "uninstall", "--hub", "--keep-state")

    assert (await machine.shown("ActiveState", unit="dispatchd-hub"))[
        "ActiveState"
    ] == "inactive"
    await machine.run("test", "-f", "/var/lib/dispatchd-hub/hub.db")
    await machine.run("test", "!", "-e", "/etc/systemd/system/dispatchd-hub.service")


async def test_two_commands_make_a_service_of_a_hubs_machine(
    machine: Machine, tmp_path: Path
) -> None:
    async with hub_process(tmp_path / "hub") as server:
        added = (
            await server.http.post("/api/v1/machines", json={"name": "box"})
        ).json()

        await machine.dispatchd("join", server.url, added["join_key"])
        await machine.dispatchd("service", "install", "--now", *PROGRAM)

        await server.submit({"id": "j", "dag_name": "hello"})
        job = await server.result("j")
        joined = await machine.run(
            *("stat", "-c", "%U", "/var/lib/dispatchd/activation.json")
        )
        # The service's user has the state now, and root joins once more.
        rotated = (await server.http.post("/api/v1/machines/box/rotate")).json()
        await machine.dispatchd("join", server.url, rotated["join_key"])
        again = await machine.run(
            *("stat", "-c", "%U %n", "/var/lib/dispatchd/activation.json"),
            *("/etc/dispatchd/config.toml.d/50-join.toml",),
        )
        await machine.dispatchd("service", "uninstall", "--yes")

    assert job["state"] == "succeeded"
    assert str(job["result_output"]).startswith("hello from")
    assert joined.stdout == "dispatchd\n"
    assert again.stdout.split()[::2] == ["dispatchd", "root"]
