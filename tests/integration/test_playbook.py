"""The playbook of examples/ansible, by Ansible on this machine: a machine of a hub, and nothing to do in a second run."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from anyio import to_thread

from support.hub_process import hub
from support.release import bare_environment, built

pytestmark = [pytest.mark.release, pytest.mark.timeout(600)]

PLAYBOOK = Path(__file__).parents[2] / "examples" / "ansible" / "machines.yml"


@pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="needs Ansible")
async def test_a_host_becomes_a_machine_and_stays_one(tmp_path: Path) -> None:
    bundle = built("*-bundle-*.tar.gz")
    here = "ansible_connection=local ansible_python_interpreter=/usr/bin/python3"
    inventory = tmp_path / "inventory.ini"
    inventory.write_text(
        f"[dispatchd_machines]\nbuild-9 {here}\n[hub]\nlocalhost {here}\n"
    )
    for name in ("hub", "etc", "unpacked"):
        (tmp_path / name).mkdir()

    async with hub(tmp_path / "hub") as server:
        variables = {
            "ansible_become": False,
            "dispatchd_bundle": str(bundle),
            "dispatchd_hub": "localhost",
            "dispatchd_url": server.url,
            "dispatchd_hub_config": str(tmp_path / "hub" / "hub.toml"),
            "dispatchd_service": False,
            "dispatchd_prefix": str(tmp_path / "opt"),
            "dispatchd_unpacked": str(tmp_path / "unpacked"),
            "dispatchd_config": str(tmp_path / "etc" / "config.toml"),
        }

        def run() -> str:
            done = subprocess.run(
                [
                    *("ansible-playbook", "-i", str(inventory), str(PLAYBOOK)),
                    *("-e", json.dumps(variables)),
                ],
                env=bare_environment(tmp_path),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stdout
            return done.stdout

        first = await to_thread.run_sync(run)
        second = await to_thread.run_sync(run)
        machines = (await server.http.get("/api/v1/machines")).json()

    assert "changed=5 " in first
    assert re.search(r"build-9 +: ok=\d+ +changed=0 +unreachable=0 +failed=0", second)
    states = {each["name"]: each["state"] for each in machines["machines"]}
    assert states["build-9"] == "active"
    assert "dhub1." not in first + second
