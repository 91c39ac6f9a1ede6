"""A bug report tells what is to be known, from whatever state the machine is in, and no secret in any form."""

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from attrs import evolve, frozen

from dispatchd import __version__
from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.store.jobs import JobStore
from dispatchd.agent.store.runs import Runs
from dispatchd.protocol.job import Job
from dispatchd.protocol.outcome import Outcome, Verdict
from support import daemon_process
from support.cli import Done, command, dispatchd
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import SECRET, endpoint
from support.records import NOW

# Each command is a process of its own.
pytestmark = pytest.mark.host

NOWHERE = "http://127.0.0.1:9"
OF_FILE = "key/of+file=\"quoted\" 'ünd'"
OF_ENV_TABLE = 'value \\ of the "env" table'
OF_VARIABLE = "value-of-a-variable"
OF_PROXY = "proxy?password&that-is-long"
OF_CLAIM = "claim-token-0123456789"
OF_PAYLOAD = "what-somebody-wrote-in-an-issue"
OF_OUTPUT = "what-a-run-wrote"
PLANTED = [SECRET, OF_FILE, OF_ENV_TABLE, OF_VARIABLE, OF_PROXY, OF_CLAIM]


def shown(secret: str) -> list[str]:
    """Return what must not be seen of a secret: each form as others would write it."""
    plain = base64.b64encode(secret.encode()).decode().rstrip("=")
    return [
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        plain,
        plain.replace("+", "-").replace("/", "_"),
    ]


def everything(secrets: list[str]) -> str:
    """Return a line of a log that has every form of some secrets."""
    return json.dumps({"event": "leak", "body": [shown(each) for each in secrets]})


@frozen
class Report:
    code: int
    out: str
    err: str
    file: Path

    @property
    def members(self) -> dict[str, str]:
        """What is inside: name to text."""
        with tarfile.open(self.file) as tar:
            found = {}
            for each in tar.getmembers():
                content = tar.extractfile(each)
                assert content is not None
                found[each.name] = content.read().decode()
        return found

    @property
    def readme(self) -> str:
        return self.members["dispatchd-bug-report/README.txt"]

    def __getitem__(self, name: str) -> Any:
        return json.loads(self.members[f"dispatchd-bug-report/{name}.json"])


def words_of(config: Path, file: Path, *words: str) -> tuple[str, ...]:
    return ("bug-report", "--config", str(config), "--output", str(file), *words)


def report_of(done: Done, file: Path) -> Report:
    assert "Traceback" not in done.stderr, done.stderr
    return Report(done.returncode, done.stdout, done.stderr, file)


def report(config: Path, *words: str, **env: str) -> Report:
    """Return a report; what it asks of others are processes of their own."""
    file = config.parent / "report.tar.gz"
    done = dispatchd(*words_of(config, file, *words), cwd=config.parent, env=env)
    return report_of(done, file)


async def report_beside(config: Path, **env: str) -> Report:
    """Return a report while a hub or a daemon of this test goes on."""
    file = config.parent / "report.tar.gz"
    return report_of(await command(*words_of(config, file), env=env), file)


def add(config: Path, text: str) -> None:
    with config.open("a") as file:
        file.write(text)


def put(config: Path, *records: TrackedJob) -> None:
    store, _ = JobStore.open(config.parent / "state")
    for each in records:
        store.put(each)
    store.close()


def ended(job_id: str, summary: str) -> TrackedJob:
    return evolve(
        TrackedJob.received(Job(id=job_id, claim_token=OF_CLAIM), now=NOW),
        phase=Phase.HISTORY,
        verdict=Verdict(outcome=Outcome.FAILED, summary=summary),
    )


def journal_of(folder: Path, text: str) -> str:
    """Make a journalctl that has some lines, and return the PATH that finds it."""
    (folder / "bin").mkdir()
    (folder / "lines").write_text(text)
    tool = folder / "bin" / "journalctl"
    tool.write_text(f"#!/bin/sh\ncat {folder}/lines\n")
    tool.chmod(0o755)
    return f"{folder}/bin:{os.environ['PATH']}"


def configured(folder: Path) -> Path:
    return write_config(folder, NOWHERE, {"it": ["/bin/true"]})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return configured(tmp_path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a machine that has secrets wherever they can be."""
    folder = tmp_path_factory.mktemp("planted")
    config = configured(folder)
    (folder / "key").write_text(OF_FILE + "\n")
    (folder / "proxy").write_text(f"user:{OF_PROXY}\n")
    change = 'secret_file = "secret"\nproxy_credentials_file = "proxy"'
    text = config.read_text().replace('secret_file = "secret"', change)
    config.write_text(text)
    add(
        config,
        f"""
env = {{ API = {json.dumps(OF_ENV_TABLE)}, SHORT = "hm" }}
secrets = {{ KEY = "key", OTHER = "other" }}
[secrets.key]
file = "key"
[secrets.other]
env = "OF_THE_DAEMON"
""",
    )
    leaks = everything(PLANTED)
    job = Job(id="job-1", workflow="it", actor=OF_FILE, claim_token=OF_CLAIM)
    put(config, TrackedJob.received(job, now=NOW), ended("job-2", leaks))
    runs = Runs.open(folder / "state")
    runs.create("job-2", payload=json.dumps(OF_PAYLOAD), headers="null")
    attempt = runs.prepare_attempt("job-2", 1)
    (attempt / "output.log").write_text(OF_OUTPUT)
    (folder / "state" / "quarantine" / f"{OF_VARIABLE}.json").touch()
    path = journal_of(folder, f"before\n{leaks}\nafter\n")
    return report(config, "--json", PATH=path, OF_THE_DAEMON=OF_VARIABLE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a machine without a daemon, with past jobs, and with files where it is called that mislead."""
    folder = tmp_path_factory.mktemp("plain")
    config = configured(folder)
    past = (
        evolve(ended(f"job-{n:02}", ""), changed_at=NOW + timedelta(seconds=n))
        for n in range(25)
    )
    put(config, *past)
    (folder / "dispatchd").mkdir()
    (folder / "dispatchd" / "__init__.py").write_text("raise SystemExit(9)")
    (folder / "json.py").write_text("raise SystemExit(9)")
    return report(config)


@pytest.mark.parametrize("secret", [*PLANTED, OF_PAYLOAD, OF_OUTPUT])
def test_no_secret_is_in_it_in_any_form(planted: Report, secret: str) -> None:
    for name, text in planted.members.items():
        for form in shown(secret):
            assert form not in text, name


def test_what_is_around_the_secrets_is_in_it(planted: Report) -> None:
    assert planted.code == 0, planted.err
    assert planted["config"]["content"]["workflows"]["it"]["command"] == ["/bin/true"]
    assert planted["config"]["content"]["workflows"]["it"]["env"] == {
        "API": "[redacted]",
        "SHORT": "[redacted]",
    }
    assert planted["journal"]["said"].startswith("before\n")
    assert planted["journal"]["said"].endswith("\nafter\n")
    assert [each["job"]["id"] for each in planted["records"]["said"]] == [
        "job-1",
        "job-2",
    ]
    assert planted["status"]["said"]["jobs"]["pending_accept"] == 1
    assert planted["store"]["quarantine"] == ["[redacted].json"]
    assert planted["store"]["history"] == 1
    assert planted["store"]["free_bytes"] > 0
    assert "doctor" not in planted["doctor"]["complaints"]
    assert planted["doctor"]["said"].splitlines()[0].startswith("ok")
    assert f"dispatchd {__version__}, Python {sys.version[:6]}" in planted.readme


def test_the_newest_records_are_in_it(plain: Report) -> None:
    assert [each["job"]["id"] for each in plain["records"]["said"]] == [
        f"job-{n:02}" for n in range(24, 4, -1)
    ]


def test_it_says_where_the_file_is_and_that_it_is_to_be_looked_at(
    plain: Report,
) -> None:
    assert plain.code == 0
    where, advice = plain.out.splitlines()
    assert where == str(plain.file)
    assert "look at it before you send it" in advice
    assert plain.err == ""
    assert stat.S_IMODE(plain.file.stat().st_mode) == 0o600


def test_without_a_daemon_it_says_so(plain: Report) -> None:
    assert "no daemon is running" in plain["status"]["complaints"]
    assert plain["status"]["exit_code"] == os.EX_UNAVAILABLE


def test_a_folder_of_the_same_name_where_it_is_called_is_not_run(plain: Report) -> None:
    assert (plain.file.parent / "dispatchd").is_dir()
    assert plain["status"]["exit_code"] == os.EX_UNAVAILABLE
    assert plain["config-check"]["exit_code"] == 0


def test_its_members_are_the_same_each_time_and_printed_as_json_on_request(
    plain: Report, planted: Report
) -> None:
    assert list(planted.members) == list(plain.members)
    assert all(each.startswith("dispatchd-bug-report/") for each in planted.members)
    assert json.loads(planted.out) == {
        "file": str(planted.file),
        "members": [name.rpartition("/")[2] for name in planted.members],
    }


def test_a_file_that_is_there_stays_as_it_is(config: Path) -> None:
    file = config.parent / "report.tar.gz"
    file.write_text("mine")

    done = report(config)

    assert done.code == os.EX_CANTCREAT
    [line] = done.err.splitlines()
    assert line == f"dispatchd: cannot write {file}: File exists; try another name"
    assert file.read_text() == "mine"


@pytest.mark.torture
def test_a_link_to_nowhere_is_not_followed(config: Path) -> None:
    (config.parent / "report.tar.gz").symlink_to(config.parent / "elsewhere")

    assert report(config).code == os.EX_CANTCREAT
    assert not (config.parent / "elsewhere").exists()


async def test_a_stuck_daemon_keeps_nothing_back(config: Path) -> None:
    async with endpoint() as hub:
        config.write_text(config.read_text().replace(NOWHERE, hub.url))
        put(config, ended("job-1", "it has failed"))
        async with daemon_process.running_daemon(config) as daemon:
            daemon.process.send_signal(signal.SIGSTOP)
            stuck = await report_beside(config)
            daemon.process.send_signal(signal.SIGCONT)

    assert "doesn't answer" in stuck["status"]["complaints"]
    assert [each["job"]["id"] for each in stuck["records"]["said"]] == ["job-1"]


async def test_the_status_of_a_daemon_is_in_it_and_no_secret_that_only_a_command_has(
    config: Path,
) -> None:
    secret = "printed-by-a-command"
    (config.parent / "given").write_text(secret)
    add(
        config,
        f"""
[secrets.printed]
command = ["cat", "{config.parent}/given"]
[workflows.wait]
command = ["/bin/sh", "-c", "echo started; exec sleep 600"]
secrets = {{ KEY = "printed" }}
""",
    )
    path = journal_of(config.parent, f"before {everything([secret])} after")
    async with endpoint() as hub:
        config.write_text(config.read_text().replace(NOWHERE, hub.url))
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "wait"})
            await daemon.until_logged("job_attempt_started")
            found = await report_beside(config, PATH=path)
            await call(daemon, "POST", "/v1/jobs/job-1/cancel", {})
            await hub.until_finished("job-1")

    assert found["status"]["said"]["pid"] == os.getpid()
    said = found["journal"]["said"]
    assert said.startswith("before ")
    assert all(form not in said for form in shown(secret))
    assert "secrets.printed.command" in found.readme
    assert "secrets.printed.command" in found.err


def test_a_configuration_that_is_no_toml_is_told_and_not_shown(config: Path) -> None:
    add(config, '\nsecret = "unfinished-secret\n')

    found = report(config)

    assert found.code == 0
    assert found["config-check"]["exit_code"] == os.EX_CONFIG
    assert "must be TOML" in found["config-check"]["complaints"]
    assert "unfinished-secret" not in "".join(found.members.values())


@pytest.mark.torture
def test_what_stands_beside_an_unknown_key_is_left_out(config: Path) -> None:
    secret = "secret-beside-a-typo"
    add(config, f'environments = {{ KEY = "{secret}" }}\n[clod]\nsecret = "{secret}"\n')
    path = journal_of(config.parent, everything([secret]))

    found = report(config, PATH=path)

    assert "environments: unknown key" in found["config-check"]["complaints"]
    assert found["config"]["content"]["clod"] == {"secret": "[redacted]"}
    for text in found.members.values():
        assert all(form not in text for form in shown(secret))


def test_without_a_configuration_it_says_so(tmp_path: Path) -> None:
    found = report(tmp_path / "none.toml")

    assert found.code == 0
    assert "none.toml" in found["config-check"]["complaints"]
    assert "not known where it is" in found["store"]["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give its power up")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_without_permission_it_says_so(config: Path) -> None:
    put(config)
    state, file = config.parent / "state", config.parent / "report.tar.gz"
    state.chmod(0o700)
    os.chown(state, 12345, 12345)
    # Under it root may no more than others.
    powerless = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    program = (*powerless, sys.executable, "-m", "dispatchd")
    try:
        done = subprocess.run(
            [*program, *words_of(config, file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.chown(state, 0, 0)
    found = report_of(done, file)

    assert found.code == 0
    assert "Permission denied" in found["store"]["error"]
    assert "this user" in found["records"]["complaints"]
