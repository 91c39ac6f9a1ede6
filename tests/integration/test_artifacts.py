"""Artifacts from a workspace to a person's disk: a real machine, a real hub, the command; killed on both sides."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio

from support import daemon_process, hub_process
from support.cli import command
from support.daemon import write_config
from support.machine import JOBS
from support.until import until

LEAVES = """
mkdir -p dist reports/deep .hidden node_modules
printf wheel >dist/app.whl
printf wheel >dist/same.whl
printf no >dist/notes.txt
printf '<x/>' >reports/deep/unit.xml
: >reports/empty
printf key >reports/.secret
printf key >.hidden/x
ln -s /etc/passwd reports/passwd
ln -s / reports/root
mkfifo reports/pipe
"""
ARTIFACTS = 'artifacts = ["dist/*.whl", "reports/**"]'


def machine(folder: Path, url: str, script: str, limits: str = ARTIFACTS) -> Path:
    commands = {"it": ["/bin/sh", "-c", script]}
    return write_config(folder, url, commands, limits=limits)


async def listed(hub: Any, job_id: str = "j") -> list[dict[str, Any]]:
    reply = await hub.http.get(f"{JOBS}/{job_id}/artifacts")
    assert reply.status_code == 200, reply.text
    rows: list[dict[str, Any]] = reply.json()["artifacts"]
    return rows


async def until_stored(hub: Any, count: int, job_id: str = "j") -> list[dict[str, Any]]:
    with anyio.fail_after(60):
        while True:
            rows = await listed(hub, job_id)
            if [row["state"] for row in rows] == ["stored"] * count:
                return rows
            await anyio.sleep(0.05)


async def test_files_of_a_run_are_listed_and_downloaded(tmp_path: Path) -> None:
    async with hub_process.hub(tmp_path / "hub") as hub:
        config = machine(tmp_path / "machine", hub.url, LEAVES)
        async with daemon_process.running_daemon(config) as daemon:
            await hub.submit({"id": "j", "dag_name": "it"})
            assert (await hub.result("j"))["state"] == "succeeded"
            rows = await until_stored(hub, 4)
            await until(lambda: not [*(daemon.state / "artifacts").iterdir()])
            left_out = await daemon.until_logged("artifacts_left_out")
        options = ("--config", str(hub.folder / "hub.toml"))
        table = await command("hub", "artifacts", "j", *options)
        shown = await command("hub", "show", "j", *options)
        out = tmp_path / "out"
        done = await command("hub", "artifacts", "j", "-o", str(out), *options)
        again = await command("hub", "artifacts", "j", "-o", str(out), *options)
        found = {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file()
        }
        (out / "dist/app.whl").write_text("mine")
        refused = await command("hub", "artifacts", "j", "-o", str(out), *options)

    assert {row["path"]: row["size"] for row in rows} == {
        "dist/app.whl": 5,
        "dist/same.whl": 5,
        "reports/deep/unit.xml": 4,
        "reports/empty": 0,
    }
    assert rows[0]["sha256"] == sha256(b"wheel").hexdigest()
    assert sorted(left_out["reasons"]) == [
        "reports/passwd: it isn't a regular file",
        "reports/pipe: it isn't a regular file",
        "reports/root: it isn't a regular file",
    ]
    # Stored once.
    whole = [*(hub.folder / "artifacts").glob("[0-9a-f][0-9a-f]/*")]
    assert len(whole) == 3
    assert not [*(hub.folder / "artifacts/parts").iterdir()]
    assert table.stdout.splitlines()[0].split() == ["FILE", "BYTES", "SHA-256", "STATE"]
    assert "dist/app.whl" in table.stdout
    assert "\nArtifacts\n4 files\n" in shown.stdout
    assert done.returncode == 0, done.stderr
    assert found == {
        "dist/app.whl": b"wheel",
        "dist/same.whl": b"wheel",
        "reports/deep/unit.xml": b"<x/>",
        "reports/empty": b"",
    }
    assert (again.returncode, again.stdout) == (0, "")
    assert refused.returncode == 64
    assert "dist/app.whl is there already" in refused.stderr
    assert (out / "dist/app.whl").read_text() == "mine"


async def test_kills_on_both_sides_take_nothing_of_an_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    content = os.urandom(24 << 20)
    async with hub_process.hub(tmp_path / "hub") as hub:
        script = f"mkdir dist && cp {folder}/big dist/a.whl && printf b >dist/b.whl"
        config = machine(folder, hub.url, script)
        (folder / "big").write_bytes(content)
        with daemon_process.running(config) as daemon:
            await daemon.until_logged("daemon_ready")
            await hub.submit({"id": "j", "dag_name": "it"})
            assert (await hub.result("j"))["state"] == "succeeded"
            parts = hub.folder / "artifacts/parts"

            def arrived() -> int:
                found = [*parts.iterdir()] if parts.exists() else []
                return sum(each.stat().st_size for each in found)

            await until(lambda: arrived() > 2 << 20)
            daemon.kill()
            before = arrived()
            daemon.start()
            await until(lambda: arrived() > max(before, 8 << 20))
            hub.kill()
            await daemon.until_logged("artifacts_delayed", job_id="j")
            daemon.kill()
            await hub.start()
            daemon.start()
            await until_stored(hub, 2)
            await until(lambda: not [*(daemon.state / "artifacts").iterdir()])
            daemon.stop()
        reply = await hub.http.get(f"{JOBS}/j/artifact", params={"path": "dist/a.whl"})

    assert reply.content == content
    assert before < len(content)
    assert reply.headers["content-disposition"].startswith("attachment")
    assert reply.headers["content-security-policy"].startswith("sandbox")
