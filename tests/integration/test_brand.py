"""A program under a vendor's name, made as docs/vendor.md says: what people, the endpoint and the machine see of it."""

import gzip
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio import to_thread

from dispatchd import __version__
from support.daemon import write_config
from support.endpoint import endpoint
from support.servers import Reply, Request, http_server
from support.torture import few
from support.until import until
from support.vendor import NAME, acme, running, write_programs

# Each command is a process of its own.
pytestmark = pytest.mark.host

PRINT_ENV = ["/bin/sh", "-c", "env >env; printenv DISPATCHD_JOB_ID"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_programs(tmp_path)
    return tmp_path


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A collector of traces, and what it is sent."""
    taken: list[bytes] = []

    def answer(request: Request) -> Reply:
        zipped = request.headers.get("content-encoding") == "gzip"
        taken.append(gzip.decompress(request.body) if zipped else request.body)
        return Reply(200)

    with http_server(answer) as port:
        yield f"http://127.0.0.1:{port}/v1/traces", taken


def test_people_see_its_name(folder: Path) -> None:
    version = acme(folder, "--version")
    general = acme(folder, "--help")
    hub = acme(folder, "hub", "token", "add", "--help")
    join = acme(folder, "join", "--help")
    mistyped = acme(folder, "statsu")
    unknown = acme(folder, "run")
    not_running = acme(folder, "status", ACME_CONFIG=str(folder / "config.toml"))
    (folder / "config.toml").touch()
    nobody = acme(folder, "status", ACME_CONFIG=str(folder / "config.toml"))

    assert version.stdout == f"acme-agent, on dispatchd {__version__}\n"
    assert general.stdout.startswith("Usage: acme-agent ")
    assert hub.stdout.startswith("Usage: acme-agent hub token add ")
    assert "`acme-agent hub machine add`" in join.stdout
    for done in (mistyped, unknown, not_running, nobody):
        assert done.stderr.startswith("acme-agent: "), done
    assert "/etc/acme-agent/config.toml" in unknown.stderr
    assert "start it with `acme-agent run`" in nobody.stderr
    every = (version, general, hub, join, mistyped, unknown, not_running, nobody)
    for done in every[1:]:
        assert "dispatchd" not in done.stdout + done.stderr.replace(str(folder), "")


@pytest.mark.parametrize("command", ["run", "hub submit", "service install"])
def test_each_help_is_under_its_name(folder: Path, command: str) -> None:
    shown = acme(folder, *command.split(), "--help").stdout

    assert f"Usage: acme-agent {command}" in shown
    assert "dispatchd" not in shown


async def test_the_endpoint_and_the_machine_see_its_name(
    folder: Path, collector: tuple[str, list[bytes]]
) -> None:
    url, traces = collector
    async with endpoint() as server:
        config = write_config(
            folder, server.url, {"it": PRINT_ENV}, store="min_free_mib = 0"
        )
        text = config.read_text()
        config.write_text(f'{text}\n[telemetry]\notlp_url = "{url}"\n')
        env = {"ACME_CONFIG": str(config), "DISPATCHD_CONFIG": "/nonexistent"}
        with running(config, str(folder / NAME), "run", env=env) as program:
            server.hand_out({"id": "j", "dag_name": "it"})
            await server.until(lambda seen: "j" in seen.finished)
            await until(lambda: traces)
            shown = await to_thread.run_sync(
                lambda: acme(folder, "status", "--json", **env)
            )
            code = await to_thread.run_sync(program.stop)
        agents = {request.headers["user-agent"] for request in server.requests}

    state = folder / "home/.local/state/acme-agent"
    assert (code, shown.returncode) == (0, 0), shown.stderr
    assert json.loads(shown.stdout)["ready"] is True
    assert agents == {"acme-agent/3.1"}
    assert {path.name for path in state.parent.iterdir()} == {"acme-agent"}
    assert b"acme-agent" in traces[0]
    # What a command gets is the contract's, on every machine.
    ran = (state / "runs/j/workspace/env").read_text()
    assert "DISPATCHD_JOB_ID=j\n" in ran
    assert "ACME" not in ran


def licensed(folder: Path) -> Path:
    """Configure a machine whose identity comes from a license, which it hasn't."""
    assert acme(folder, "license", "keygen", "vendor.key").returncode == 0
    config = folder / "config.toml"
    config.write_text(
        '[cloud]\nurl = "http://127.0.0.1:9"\n[store]\nfolder = "state"\n'
        '[license]\npublic_keys = ["vendor.key.pub"]\n'
    )
    return config


@pytest.mark.parametrize(
    ("name", "source"),
    few(
        [
            ("LICENSE", "ACME_LICENSE"),
            ("LICENSE_KEY", "ACME_LICENSE_KEY"),
            ("LICENSE_FILE", "license file"),
        ],
        1,
    ),
)
def test_a_license_is_looked_for_under_its_prefix(
    folder: Path, name: str, source: str
) -> None:
    words = ("license", "--config", str(licensed(folder)))
    issued = acme(folder, "license", "issue", "--key-file", "vendor.key").stdout.strip()
    (folder / "license").write_text(issued)
    value = str(folder / "license") if name == "LICENSE_FILE" else issued

    theirs = acme(folder, *words, **{f"DISPATCHD_{name}": value})
    ours = acme(folder, *words, **{f"ACME_{name}": value})

    assert "run `acme-agent activate`" in theirs.stdout, theirs
    assert re.search(rf"^source +{source}$", ours.stdout, re.MULTILINE), ours
    assert "DISPATCHD" not in ours.stdout + theirs.stdout


def test_a_hub_is_looked_for_under_its_prefix(folder: Path) -> None:
    address = {"HUB_URL": "http://127.0.0.1:9", "HUB_TOKEN": "t"}
    for prefix, found in (("DISPATCHD", False), ("ACME", True)):
        env = {f"{prefix}_{name}": value for name, value in address.items()}
        done = acme(folder, "hub", "jobs", **env)
        assert ("no hub answers at http://127.0.0.1:9" in done.stderr) is found, done
        env = {f"{prefix}_HUB_CONFIG": "/nonexistent/hub.toml"}
        done = acme(folder, "hub", "jobs", **env)
        assert ("/nonexistent/hub.toml" in done.stderr) is found, done


async def test_a_log_names_its_commands(folder: Path) -> None:
    config = licensed(folder)
    command = (str(folder / NAME), "run", "--config", str(config))
    with running(config, *command) as program:
        await until(lambda: b"activate" in program.log_file.read_bytes())
        code = await to_thread.run_sync(program.stop)

    text = program.log_file.read_text()
    assert code == 0
    assert "`acme-agent activate`" in text
    assert "dispatchd activate" not in text


def test_a_service_has_its_name_everywhere(folder: Path) -> None:
    root = folder / "root"
    program = ("--program", "/opt/acme/dispatchd/bin/acme-agent")
    where = ("--root", str(root))
    for more in ((), ("--name", "one"), ("--hub",)):
        done = acme(folder, "service", "install", *where, *program, *more)
        assert done.returncode == 0, done.stderr
        assert "dispatchd" not in done.stdout.replace(program[1], "")
    files = {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file()
    }
    unit = files["etc/systemd/system/acme-agent.service"]

    assert {
        f"etc/systemd/system/acme-agent{kind}.service" for kind in ("@", "-hub")
    } | {
        "etc/acme-agent/config.toml",
        "etc/acme-agent/one.toml",
        "etc/sysusers.d/acme-agent.conf",
        "etc/tmpfiles.d/acme-agent.conf",
    } <= files.keys()
    for line in (
        f"ExecStart={program[1]} run --config /etc/acme-agent/config.toml",
        "User=acme-agent",
        "StateDirectory=acme-agent",
        "RuntimeDirectory=acme-agent",
        "LoadCredential=machine-secret:acme-agent.machine-secret",
        "BindPaths=%C/acme-agent/tmp:/tmp %C/acme-agent/tmp:/var/tmp",
    ):
        assert f"\n{line}\n" in unit
    assert re.match(r"# acme-agent \S+ wrote this; ", unit)
    for name, text in files.items():
        assert "dispatchd" not in name
        # Metrics, anchors of the runbook, labels of Prometheus and the name of a DAG are others'.
        left = re.sub(
            r'dispatchd_\w+|#dispatchd\w+|job="dispatchd[\w-]*"|dag = "dispatchd"',
            "",
            text.replace(program[1], ""),
        )
        assert "dispatchd" not in left, name
        assert "DISPATCHD_" not in text, name

    for more in (("--name", "one"), (), ("--hub",)):
        done = acme(folder, "service", "uninstall", *where, "--yes", *more)
        assert done.returncode == 0, done.stderr
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_bug_report_asks_the_program_itself(folder: Path) -> None:
    config = folder / "config.toml"
    config.touch()
    journal = folder / "bin" / "journalctl"
    journal.parent.mkdir()
    journal.write_text('#!/bin/sh\necho "$@"\n')
    journal.chmod(0o755)
    path = f"{journal.parent}:{os.environ['PATH']}"
    words = ("bug-report", "--output", "r.tar.gz")
    done = acme(folder, *words, ACME_CONFIG=str(config), PATH=path)
    assert done.returncode == 0, done.stderr

    said = {}
    with tarfile.open(folder / "r.tar.gz") as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            said[member.name] = file.read().decode()

    assert {name.partition("/")[0] for name in said} == {"acme-agent-bug-report"}
    assert "`acme-agent run`" in said["acme-agent-bug-report/status.json"]
    assert "--unit=acme-agent.service" in said["acme-agent-bug-report/journal.json"]
    assert "Made by `acme-agent bug-report`" in "".join(said.values())


def test_a_shell_completes_it(folder: Path) -> None:
    script = acme(folder, "completion", "bash").stdout
    words = {"COMP_WORDS": "acme-agent sta", "COMP_CWORD": "1"}
    done = acme(folder, _ACME_AGENT_COMPLETE="bash_complete", **words)

    assert "_ACME_AGENT_COMPLETE=bash_complete" in script
    assert "complete -o nosort -F _acme_agent_completion acme-agent" in script
    assert "plain,status" in done.stdout, done
