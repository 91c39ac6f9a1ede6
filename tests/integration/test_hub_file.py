"""A hub whose database's file goes away under it says so, and takes nothing that would be gone with its process."""

import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from dispatchd.concurrency.bug_fence import BugFence
from dispatchd.errors import ConfigError, NotReachable
from dispatchd.hub.init import init
from dispatchd.hub.storage.sole_server import SoleServer, sole_server
from support import hub_process
from support.cli import command, dispatchd
from support.hub import hub
from support.until import until

JOB = {"id": "late", "dag_name": "it"}


def _moved(file: Path) -> None:
    file.rename(file.with_name("aside.db"))


def _replaced(file: Path) -> None:
    shutil.copy(file, file.with_name("copy.db"))
    file.rename(file.with_name("aside.db"))
    file.with_name("copy.db").rename(file)


def _made_anew(file: Path) -> None:
    file.rename(file.with_name("aside.db"))
    file.touch()


@pytest.mark.parametrize("lose", [_moved, _replaced, _made_anew])
async def test_nothing_is_taken_while_the_file_is_another_one(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    async with hub(tmp_path / "hub") as server:
        await server.submit({"id": "j", "dag_name": "it"})
        file = server.folder / "hub.db"
        lose(file)
        refused = await server.http.post("/api/v1/jobs", json=JOB)
        ready = await server.http.get("/readyz")
        said = server.log_file.read_text()
        # It is the old one that counts.
        file.with_name("aside.db").replace(file)
        again = await server.http.post("/api/v1/jobs", json=JOB)
        shown = await server.http.get("/api/v1/jobs/j")

    assert (refused.status_code, ready.status_code) == (503, 503)
    assert f"{file} was removed or replaced: put it back, or restart" in said
    assert (again.status_code, shown.status_code) == (201, 200)


@pytest.mark.parametrize("lose", [_moved, _made_anew])
@pytest.mark.parametrize(
    "words",
    [("serve",), ("backup", "night"), ("restore", "night"), ("keys", "rotate", "page")],
)
def test_no_command_makes_a_database_in_the_place_of_a_lost_one(
    tmp_path: Path, lose: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    made = init(
        tmp_path / "hub",
        listen="127.0.0.1:0",
        database_url="sqlite:///hub.db",
        license_id="self-hosted",
    )
    file = tmp_path / "hub" / "hub.db"
    lose(file)
    before = sorted(tmp_path.rglob("*"))

    said = dispatchd("hub", *words, "--config", str(made.settings.file), cwd=tmp_path)

    assert said.returncode == os.EX_UNAVAILABLE, said.stderr
    [complaint] = said.stderr.splitlines()
    assert f"open the database sqlite:///{file}: " in complaint
    assert "(dispatchd hub init) and restore a backup" in complaint
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_second_hub_on_one_file_is_refused(tmp_path: Path) -> None:
    """It would not hear of what the first one takes, and its machines would wait for their next poll."""
    async with hub_process.hub(tmp_path / "hub") as first:
        other = tmp_path / "other"
        other.mkdir()
        text = (first.folder / "hub.toml").read_text()
        where = f'"sqlite:///{first.folder}/hub.db"'
        moved = text.replace('"sqlite:///hub.db"', where)
        (other / "hub.toml").write_text(moved.replace(f":{first.port}", ":0"))
        said = await command("hub", "serve", "--config", str(other / "hub.toml"))
        # Commands that look, and a start after a kill, are not refused.
        backup = str(tmp_path / "backup")
        looked = await command(
            "hub", "backup", backup, "--config", str(other / "hub.toml")
        )
        first.kill()
        await first.start()
        ready = await first.http.get("/readyz")

    assert said.returncode == os.EX_UNAVAILABLE
    assert said.stderr.count("dispatchd: ") == 1
    assert "another hub process does; several need PostgreSQL" in said.stderr
    assert (looked.returncode, ready.status_code) == (0, 200)


@pytest.mark.parametrize(
    "where",
    [
        *(">&-", "| true"),
        *(
            pytest.param(each, marks=pytest.mark.torture)
            for each in (">/dev/full", "| sleep 30")
        ),
    ],
)
async def test_a_hub_that_cannot_say_that_it_is_ready_is_ready(
    tmp_path: Path, where: str
) -> None:
    wrapper = ("/bin/sh", "-c", f'exec "$@" {where}', "sh")
    if where.startswith("|"):
        if shutil.which("bash") is None:
            pytest.skip("needs bash")
        # The hub itself, and not a shell that waits for it.
        wrapper = ("/bin/bash", "-c", f'exec "$@" > >({where[1:]})', "bash")
    async with hub_process.hub(tmp_path / "hub", wrapper=wrapper) as server:
        await server.submit({"id": "j", "dag_name": "it"})
        code = await anyio.to_thread.run_sync(server.stop)

    assert code == 0


async def test_a_hub_outlives_a_hangup(tmp_path: Path) -> None:
    async with hub_process.hub(tmp_path / "hub") as server:
        os.kill(server.process.pid, signal.SIGHUP)
        await until(lambda: "hangup_ignored" in server.log_file.read_text(), 30)
        ready = await server.http.get("/readyz")
        code = await anyio.to_thread.run_sync(server.stop)

    assert (ready.status_code, code) == (200, 0)


@pytest.mark.parametrize("port", ["65536", "99999"])
def test_a_port_that_is_none_is_no_other_one(tmp_path: Path, port: str) -> None:
    with pytest.raises(ConfigError, match="must have a port up to 65535"):
        init(
            tmp_path / "hub",
            listen=f"127.0.0.1:{port}",
            database_url="sqlite:///hub.db",
            license_id="self-hosted",
        )


@pytest.mark.parametrize("host", ["x" * 300, "a..b", "192.0.2.1"])
def test_an_address_that_cannot_be_listened_at_is_one_line(
    tmp_path: Path, host: str
) -> None:
    made = init(
        tmp_path,
        listen=f"{host}:0",
        database_url="sqlite:///hub.db",
        license_id="self-hosted",
    )
    said = dispatchd("hub", "serve", "--config", str(made.settings.file))

    lines = [line for line in said.stderr.splitlines() if line.startswith("dispatchd:")]
    assert said.returncode == os.EX_UNAVAILABLE
    assert len(lines) == 1
    assert f"cannot listen on {host} port 0" in lines[0]
    assert "Traceback" not in said.stderr


async def test_a_removed_lock_is_taken_again(tmp_path: Path) -> None:
    """Seen: after `rm hub.db.lock` a second hub started, and the jobs of one waited beside the polls of the other."""
    file = f"{tmp_path}/hub.db"
    with capture_logs() as logs, sole_server(file) as lock:
        assert lock is not None
        async with keeping(lock):
            Path(f"{file}.lock").unlink()
            await until(lambda: bool(logs))
            with pytest.raises(NotReachable, match="another hub process does"):
                SoleServer.of(file)
        assert not lock.is_lost
    assert [entry["event"] for entry in logs] == ["lock_taken_again"]
    SoleServer.of(file).close()


async def test_of_two_hubs_on_one_file_the_first_stops(tmp_path: Path) -> None:
    file, stopped = f"{tmp_path}/hub.db", anyio.Event()

    async def serve() -> None:
        with sole_server(file) as lock:
            assert lock is not None
            Path(f"{file}.lock").unlink()
            second = SoleServer.of(file)
            async with keeping(lock, stopped.set):
                await stopped.wait()
            second.close()

    with capture_logs() as logs, pytest.raises(NotReachable, match=r"removed .*lock"):
        await serve()
    assert [entry["event"] for entry in logs] == ["another_hub_serves"]


@asynccontextmanager
async def keeping(
    lock: SoleServer, stop: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lock.keep, BugFence(), stop, 0.05)
        yield
        tasks.cancel_scope.cancel()


async def test_a_change_of_many_pages_needs_no_further_file(tmp_path: Path) -> None:
    """Seen: SQLite wanted a file in /var/tmp for the journal of a savepoint, and the hub had no descriptor left."""
    script = """
import os, resource, sys
from sqlalchemy import text
from dispatchd.hub.storage.database import Database
database = Database.open(sys.argv[1])
database.connect()
def filled(db):
    db.execute(text("CREATE TABLE pages (text TEXT)"))
    rows = [{"text": "x" * 900} for _ in range(400)]
    db.execute(text("INSERT INTO pages VALUES (:text)"), rows)
database.write(filled)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
database.write(lambda db: db.execute(text("UPDATE pages SET text = text || 'y'")))
os._exit(42)
"""
    done = await anyio.run_process(
        [sys.executable, "-c", script, f"sqlite:///{tmp_path}/hub.db"], check=False
    )

    assert (done.returncode, done.stderr) == (42, b"")
