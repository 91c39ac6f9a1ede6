"""The agent inside of another program: as docs/vendor.md has it, and what it leaves of that program as it was."""

import signal
import sys
from pathlib import Path

import pytest
from anyio import to_thread

from support.daemon import write_config
from support.endpoint import SECRET, endpoint
from support.hub import Hub
from support.until import until
from support.vendor import NAME, acme, running, write_programs

# Each command is a process of its own.
pytestmark = pytest.mark.host

SLOW = ["/bin/sh", "-c", "until [ -e go ]; do sleep 0.05; done"]


def program(folder: Path, text: str) -> tuple[str, str]:
    """Write a program, and return its command."""
    file = folder / "program.py"
    file.write_text(text)
    return sys.executable, str(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "machine"
    folder.mkdir()
    write_programs(folder)
    return folder


async def test_the_program_of_the_page_runs_jobs_and_stops_in_order(
    folder: Path, server: Hub
) -> None:
    config = write_config(folder, server.url, {"it": ["/bin/echo", SECRET]})
    with running(config, sys.executable, "acme_service.py") as service:
        await service.until_logged("daemon_ready")
        await server.submit({"id": "j", "dag_name": "it"})
        result = await server.result("j")
        shown = await to_thread.run_sync(
            lambda: acme(folder, "jobs", "--config", str(config))
        )
        code = await to_thread.run_sync(service.stop)

    assert result["result_status"] == "succeeded"
    assert "succeeded" in shown.stdout, shown
    assert code == 0
    assert ("stopping", "SIGTERM") in [
        (line.get("event"), line.get("signal")) for line in service.log()
    ]
    assert service.log()[-1]["event"] == "daemon_stopped"


def test_the_program_of_the_page_says_what_is_wrong(folder: Path) -> None:
    config = folder / "config.toml"
    config.write_text('[cloud]\nurl = "http://127.0.0.1:9"\n[rus]\n')
    with running(config, sys.executable, "acme_service.py") as service:
        code = service.process.wait(60)

    assert code == 1
    said = service.log_file.read_text()
    assert said.startswith("acme: ")
    assert "rus" in said
    assert "Traceback" not in said


async def test_a_run_survives_a_cancelled_agent_and_is_reported_by_the_next(
    folder: Path, server: Hub
) -> None:
    config = write_config(folder, server.url, {"it": SLOW})
    with running(config, sys.executable, "acme_service.py") as service:
        await service.until_logged("daemon_ready")
        await server.submit({"id": "j", "dag_name": "it"})
        await service.until_logged("job_attempt_started")
        assert await to_thread.run_sync(service.stop) == 0
    assert service.log()[-1]["left_running"] == 1
    (service.state / "runs/j/workspace/go").touch()

    with running(config, str(folder / NAME), "run", "--config", str(config)) as again:
        result = await server.result("j")
        assert await to_thread.run_sync(again.stop) == 0

    assert result["result_status"] == "succeeded"


HOST = """
import logging, os, signal, sys, tomllib
import anyio, structlog
from dispatchd.agent import Agent

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
lines = []
structlog.configure(
    processors=[lambda _logger, _method, event: lines.append(event["event"]) or ""],
    logger_factory=structlog.ReturnLoggerFactory(),
)

def settings():
    handlers = [signal.getsignal(number) for number in NUMBERS]
    return handlers, structlog.get_config(), logging.root.handlers[:], os.getcwd()

async def host():
    with open("config.toml", "rb") as file:
        tables = tomllib.load(file)
    os.mkdir("elsewhere")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Agent(tables).run)
        os.chdir("elsewhere")
        before = settings()
        while not os.path.exists("../stop"):
            await anyio.sleep(0.02)
        assert settings() == before
        tasks.cancel_scope.cancel()
    assert settings() == before
    print("the host continues after", lines[-1], flush=True)
    await anyio.sleep(0)

anyio.run(host)
"""


async def test_tables_are_a_configuration_and_the_host_stays_as_it_was(
    folder: Path, server: Hub
) -> None:
    config = write_config(folder, server.url, {"it": ["/bin/true"]})
    with running(config, *program(folder, HOST)) as host:
        await server.submit({"id": "j", "dag_name": "it"})
        result = await server.result("j")
        (folder / "stop").touch()
        code = await to_thread.run_sync(lambda: host.process.wait(60))

    assert result["result_status"] == "succeeded"
    assert host.log_file.read_text() == "the host continues after daemon_stopped\n"
    assert code == 0


BROKEN = """
import sys
import anyio
from dispatchd.agent import Agent
from dispatchd.errors import ConfigError, UserError

tables = {"cloud": {"url": "http://127.0.0.1:9"}, "store": {"folder": sys.argv[1]}}
for wrong in ({**tables, "rus": {}}, tables, {"cloud": {"url": "ftp://a"}}):
    try:
        anyio.run(Agent(wrong, folder="/srv/acme").run)
    except ConfigError as error:
        print(error, error.exit_code)
try:
    own = {"license_id": "l", "server_id": "s", "secret_file": sys.argv[2]}
    cloud = {**tables["cloud"], **own}
    anyio.run(Agent({**tables, "cloud": cloud}).run)
except UserError as error:
    print(type(error).__name__, error.exit_code)
"""


def test_its_errors_are_alone_and_name_the_key(folder: Path) -> None:
    config = write_config(folder, "http://127.0.0.1:9", {})
    # Something else is in the place of the state folder.
    (folder / "state").touch()
    command = program(folder, BROKEN)
    words = (str(folder / "state"), str(folder / "secret"))
    with running(config, *command, *words) as host:
        assert host.process.wait(60) == 0

    lines = host.log_file.read_text().splitlines()
    assert all(line.startswith("/srv/acme/(configuration): ") for line in lines[:-1])
    assert [line.rpartition(" ")[2] for line in lines[:-1]] == ["78"] * 3
    assert "rus" in lines[0]
    assert "license.public_keys" in lines[1]
    assert "cloud.url" in lines[2]
    assert lines[3] == "PathTaken 73"


MAIN = """
from dispatchd.agent import Agent

Agent("config.toml").main()
print("it has returned", flush=True)
"""


async def test_in_the_foreground_it_heeds_signals_and_returns(
    folder: Path,
) -> None:
    async with endpoint() as server:
        config = write_config(folder, server.url, {"it": ["/bin/true"]})
        with running(config, *program(folder, MAIN)) as agent:
            await agent.until_logged("daemon_ready")
            text = config.read_text()
            config.write_text(f'{text}\n[workflows.more]\ncommand = ["/bin/true"]\n')
            agent.process.send_signal(signal.SIGHUP)
            await agent.until_logged("reloaded", workflows=["it", "more"])
            agents = {request.headers["user-agent"] for request in server.requests}
            code = await to_thread.run_sync(agent.stop)

    assert code == 0
    assert agent.log()[-2]["event"] == "daemon_stopped"
    assert agent.log()[-1] == {"text": "it has returned"}
    assert all(each.startswith("dispatchd/") for each in agents)


REDACTED = """
import anyio, structlog
from dispatchd.agent import Agent

async def host():
    agent = Agent("config.toml")
    render = structlog.processors.JSONRenderer(default=str)
    structlog.configure(processors=[render, agent.redact])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.run)
        while True:
            structlog.get_logger().info("said", text="SECRET")
            await anyio.sleep(0.05)

anyio.run(host)
"""


async def test_secrets_are_taken_out_of_the_hosts_lines(folder: Path) -> None:
    async with endpoint() as server:
        config = write_config(folder, server.url, {})
        host = program(folder, REDACTED.replace("SECRET", SECRET))
        with running(config, *host) as agent:
            await agent.until_logged("said", text="[redacted]")
            await until(lambda: server.requests)
