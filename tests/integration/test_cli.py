"""The command line: one clear line for every mistake, the right exit code, JSON on request."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.streams.text import TextReceiveStream

from support.cli import command as run
from support.cli import dispatchd, dispatchd_process
from support.clock import within
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.fixtures import ROOT

CONTRACTS = Path(__file__).parents[2] / "contracts" / "schemas"

GOOD = {"it": ["/bin/sh", "-c", "echo hello"]}
URL = "http://127.0.0.1:9"


def change(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


BAD = {
    "an unknown key": (
        "[runs]",
        "[runs]\nslot = 3",
        "runs.slot: unknown key; did you mean slots?",
    ),
    "a wrong type": (
        "[runs]",
        '[runs]\nslots = "3"',
        "runs.slots: must be a whole number, not a string",
    ),
    "out of range": ("[runs]", "[runs]\nslots = 0", "runs.slots: must be 1 or more"),
    "a missing key": (
        'license_id = "lic-test"',
        "",
        "cloud.license_id: is required with server_id and secret_file",
    ),
    "a missing secret": (
        'secret_file = "secret"',
        'secret_file = "none"',
        "cloud.secret_file: must be a file",
    ),
    "not a URL": (
        f'url = "{URL}"',
        'url = "hub.example"',
        "cloud.url: must",
    ),
    "no such command": (
        '"/bin/sh"',
        '"./build.sh"',
        "workflows.it.command: must start with a program that exists",
    ),
    "not on PATH": (
        '"/bin/sh"',
        '"no-such-tool"',
        "workflows.it.command: must start with a program on PATH",
    ),
    "an empty command": (
        '["/bin/sh", "-c", "echo hello"]',
        "[]",
        "workflows.it.command: must not be empty",
    ),
    "a duplicate": (
        "[log]",
        '[workflows.it]\ncommand = ["true"]\n[log]',
        "workflows.it: must be declared once",
    ),
    "an unknown secret": (
        "[log]",
        '[secrets.a]\nenv = "A"\n[workflows.x]\ncommand = ["true"]\nsecrets = { KEY = "b" }\n[log]',
        "workflows.x.secrets.KEY: must name a secret of the table [secrets]; known are: a",
    ),
    "an unknown secret for git": (
        "[log]",
        '[workflows.x]\ncommand = ["true"]\ncheckout = true\ncheckout_secret = "b"\n[log]',
        "workflows.x.checkout_secret: must name a secret of the table [secrets]; known are: none",
    ),
    "a token from two sources": (
        "[log]",
        '[secrets.a]\nenv = "A"\n[workflows.x]\ncommand = ["true"]\nsecrets = { GH_TOKEN = "a" }\ngithub_token = { contents = "read" }\n[log]',
        "workflows.x.secrets.GH_TOKEN: must not stand beside github_token, which sets that variable",
    ),
    "a permission of no kind": (
        "[log]",
        '[workflows.x]\ncommand = ["true"]\ngithub_token = { contents = "admin" }\n[log]',
        "workflows.x.github_token.contents: must be one of: read, write",
    ),
    "a secret from two sources": (
        "[log]",
        '[secrets.a]\nenv = "A"\nfile = "b"\n[log]',
        "secrets.a: must name exactly one of file, credential, env, command",
    ),
    "an artifact outside": (
        "[log]",
        '[workflows.x]\ncommand = ["true"]\nrequired_artifacts = ["../a"]\n[log]',
        "workflows.x.required_artifacts[0]: must be a path relative to the workspace",
    ),
    "an address with a password": (
        "[log]",
        '[workflows.x]\ncommand = ["true"]\ncheckout_url = "https://u:p@h/"\n[log]',
        "workflows.x.checkout_url: must be a URL",
    ),
    "not TOML": ("[log]", "[log", "must be TOML"),
}


@pytest.mark.parametrize("mistake", BAD)
@pytest.mark.parametrize(
    "command", [("config", "check"), ("run",)], ids=["check", "run"]
)
def test_a_bad_config_gets_one_line_with_file_key_and_expectation(
    tmp_path: Path, mistake: str, command: tuple[str, ...]
) -> None:
    old, new, words = BAD[mistake]
    config = write_config(tmp_path, URL, GOOD)
    change(config, old, new)

    result = dispatchd(*command, "--config", str(config))

    assert result.returncode == os.EX_CONFIG
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"dispatchd: {config}: ")
    assert words in lines[0]


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    config = write_config(tmp_path, URL, GOOD)
    change(config, "[runs]", "[runs]\nslots = 0\nqueue_ahead = -1")
    change(config, 'license_id = "lic-test"', "")

    result = dispatchd("config", "check", "--config", str(config))

    assert len(result.stderr.splitlines()) == 3


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    result = dispatchd("run", "--config", str(tmp_path / "none.toml"))

    assert result.returncode == os.EX_CONFIG
    assert result.stderr.splitlines() == [
        f"dispatchd: {tmp_path}/none.toml: cannot be read: No such file or directory; name another file with --config"
    ]


def test_a_good_config_is_confirmed(tmp_path: Path) -> None:
    config = write_config(tmp_path, URL, GOOD)

    text = dispatchd("config", "check", "--config", str(config))
    as_json = dispatchd("config", "check", "--json", "--config", str(config))

    assert (text.returncode, as_json.returncode) == (0, 0)
    assert "is good; workflows: it" in text.stdout
    assert json.loads(as_json.stdout)["workflows"] == ["it"]


def test_the_example_config_is_good_and_names_every_option(tmp_path: Path) -> None:
    from dispatchd.protocol.published.schemas import schema

    example = Path(__file__).parents[2] / "config.example.toml"
    text = example.read_text()
    config = tmp_path / "config.toml"
    config.write_text(text)
    (tmp_path / "machine-secret").write_text("x" * 20)
    for name in ("build.sh", "agent.py"):
        script = tmp_path / "workflows" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text("#!/bin/sh\n")

    result = dispatchd("config", "check", "--config", str(config))

    assert result.returncode == 0, result.stderr
    for table, content in schema("config")["properties"].items():
        options = (
            content.get("properties") or content["additionalProperties"]["properties"]
        )
        assert f"[{table}" in text
        # An example shows no earlier name of an option.
        for option in options.keys() - {"report_output"}:
            assert f"{option} =" in text, f"{table}.{option}"


BLANK = (
    *((name, "") for name in ("show", "logs", "cancel", "replay")),
    ("block", "", "--reason", "x"),
    ("resolve", " ", "--fail"),
    *(("hub", name, "") for name in ("show", "cancel", "requeue", "redeliver")),
    *(("hub", "machine", name, "") for name in ("add", "revoke")),
    ("hub", "token", "add", ""),
)
"""Commands about something whose name is blank."""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nonsense",), os.EX_USAGE, "no command 'nonsense'"),
        (("run", "--nonsense"), os.EX_USAGE, "No such option"),
        (("show",), os.EX_USAGE, "Missing argument"),
        # As from a script's variable that isn't set.
        *((each, os.EX_USAGE, "it is empty") for each in BLANK),
        (("hub", "machine", "add"), os.EX_USAGE, "NAME"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_usage_error(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = dispatchd(*arguments)

    assert result.returncode == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("config", "check"), 0),
        (("nonsense",), os.EX_USAGE),
        (("status",), os.EX_UNAVAILABLE),
        (("config", "check", "--config", "none.toml"), os.EX_CONFIG),
    ],
)
def test_a_process_ends_with_the_code_and_without_a_traceback(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    config = write_config(tmp_path, URL, GOOD)

    done = dispatchd_process(*words, env={"DISPATCHD_CONFIG": str(config)})

    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (code != 0)


@pytest.mark.parametrize("words", [("jobs",), ("--help",)])
def test_a_reader_that_has_gone_is_no_error(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    config = write_config(tmp_path, URL, GOOD)
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(
        [sys.executable, "-m", "dispatchd", *words],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
        env={**os.environ, "DISPATCHD_CONFIG": str(config)},
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (0, b"")


def test_commands_on_an_empty_folder_say_so(tmp_path: Path) -> None:
    config = str(write_config(tmp_path, URL, GOOD))

    assert "No jobs" in dispatchd("jobs", "--config", config).stdout
    assert json.loads(dispatchd("jobs", "--json", "--config", config).stdout) == []
    for command in (("show", "x"), ("logs", "x")):
        result = dispatchd(*command, "--config", config)
        assert result.returncode == os.EX_USAGE
        assert "cannot find a job 'x'" in result.stderr
    assert dispatchd("status", "--config", config).returncode == os.EX_UNAVAILABLE


@pytest.mark.parametrize("only", [(), ("--attempt", "1")])
async def test_followed_logs_go_on_with_the_next_attempt_unless_one_is_named(
    tmp_path: Path, only: tuple[str, ...]
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f'echo "attempt $DISPATCHD_ATTEMPT"; read _ <{gate}; exit 2'
    async with endpoint() as hub:
        config = write_config(
            tmp_path / "machine",
            hub.url,
            {"it": ["/bin/sh", "-c", script]},
            runs="retry_wait_s = 0.1",
            limits='contract = "headless"\nmax_retries = 1',
        )
        words = ["logs", "-f", "job-1", *only, "--config", str(config)]
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started")
            async with await anyio.open_process(
                [sys.executable, "-m", "dispatchd", *words], stderr=subprocess.PIPE
            ) as logs:
                assert logs.stdout is not None
                assert logs.stderr is not None
                seen = await logs.stdout.receive()
                for number in (1, 2):
                    await daemon.until_logged("job_attempt_started", attempt=number)
                    await to_thread.run_sync(gate.write_text, "go\n")
                await hub.until_finished("job-1")
                seen += b"".join([chunk async for chunk in logs.stdout])
                said = b"".join([chunk async for chunk in logs.stderr])

    assert logs.returncode == 0
    if only:
        assert (seen, said) == (b"attempt 1\n", b"")
    else:
        assert seen == b"attempt 1\nattempt 2\n"
        assert said == b"dispatchd: attempt 2 of job job-1:\n"


async def test_jobs_show_logs_and_status_tell_what_happened(tmp_path: Path) -> None:
    async with endpoint() as hub:
        path = write_config(tmp_path, hub.url, GOOD)
        config = str(path)
        async with running_daemon(path) as daemon:
            hub.hand_out(
                {
                    "id": "job-1",
                    "dag_name": "it",
                    "repository_name": "o/r",
                    "pull_request_number": 7,
                    "claim_token": "very-secret",
                    "lease_seconds": 60,
                }
            )
            await daemon.until_logged("job_finish_acknowledged")
            here = await run("status", "--json", "--config", config)

    status = json.loads(here.stdout)
    jobs = dispatchd("jobs", "--config", config).stdout
    shown: dict[str, Any] = json.loads(
        dispatchd("show", "job", "--json", "--config", config).stdout
    )
    assert "job-1" in jobs
    assert "succeeded" in jobs
    assert shown["verdict"]["outcome"] == "succeeded"
    assert (
        "finish_acknowledged -> history"
        in dispatchd("show", "job-1", "--config", config).stdout
    )
    link = "https://github.com/o/r/pull/7"
    assert shown["link"] == link
    assert link in dispatchd("show", "job-1", "--config", config).stdout
    assert dispatchd("logs", "job-1", "--config", config).stdout == "hello\n"
    assert dispatchd("logs", "-f", "job-1", "--config", config).stdout == "hello\n"
    assert (
        json.loads(dispatchd("logs", "--json", "job-1", "--config", config).stdout)[
            "output"
        ]
        == "hello\n"
    )
    assert status["endpoint"]["state"] == "ok"
    assert status["ready"] is True
    for command in (
        ("jobs",),
        ("jobs", "--json"),
        ("show", "job-1"),
        ("show", "job-1", "--json"),
    ):
        assert "very-secret" not in dispatchd(*command, "--config", config).stdout
    assert "very-secret" not in daemon.log_file.read_text()
    alone = dispatchd("status", "--config", config)
    assert "not running" in alone.stdout
    assert "no daemon is running" in alone.stderr
    assert alone.returncode == os.EX_UNAVAILABLE


@pytest.mark.parametrize(
    ("said", "server"),
    [
        ("https://git.corp.example/o/r", "git.corp.example"),
        ("https://evil.example/o/r", "github.com"),
    ],
)
async def test_a_job_leads_to_a_server_that_the_machine_knows(
    tmp_path: Path, said: str, server: str
) -> None:
    payload = {"repository": {"html_url": said}}
    job = {"id": "j", "dag_name": "it", "repository_name": "o/r", "payload": payload}
    async with endpoint() as hub:
        path = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        with path.open("a") as file:
            other = 'checkout_url = "https://git.corp.example"'
            file.write(f'[workflows.other]\ncommand = ["/bin/true"]\n{other}\n')
        async with running_daemon(path):
            hub.hand_out({**job, "sha": "c0ffee"})
            await hub.until_finished("j")
    shown = json.loads(dispatchd("show", "j", "--json", "--config", str(path)).stdout)

    assert shown["link"] == f"https://{server}/o/r/commit/c0ffee"


async def test_nothing_that_a_job_or_its_run_says_acts_on_the_terminal(
    tmp_path: Path,
) -> None:
    evil = "\x1b]0;PWNED\x07\x1b[2J\u202e\n"
    said = r"\033]0;PWNED\007\033[2J\033[31mred\033[0m\n"
    job = {
        "id": f"esc{evil}",
        "dag_name": "it",
        "repository_name": f"r{evil}x",
        "actor_login": evil,
        "ref": f"b{evil}",
    }
    async with endpoint() as hub:
        script = f"printf '{said}'"
        path = write_config(tmp_path, hub.url, {"it": ["/bin/sh", "-c", script]})
        config = str(path)
        async with running_daemon(path) as daemon:
            hub.hand_out(job)
            await daemon.until_logged("job_finish_acknowledged")

    listed = dispatchd("jobs", "--config", config).stdout
    shown = dispatchd("show", "esc", "--config", config).stdout
    replayed = dispatchd_process("replay", "esc", "--config", config).stdout
    log = dispatchd("logs", "esc", "--config", config).stdout

    for text in (listed, shown, log, replayed):
        assert not {"\x07", "\u202e"} & {*text}
        assert "\x1b[2J" not in text
        assert r"\x1b]0;PWNED\x07\x1b[2J" in text
    assert len(listed.splitlines()) == 2
    assert log == r"\x1b]0;PWNED\x07\x1b[2J" + "\x1b[31mred\x1b[0m\n"
    raw = dispatchd("logs", "--raw", "esc", "--config", config).stdout
    assert raw == "\x1b]0;PWNED\x07\x1b[2J\x1b[31mred\x1b[0m\n"
    again = dispatchd_process("replay", "--raw", "esc", "--config", config).stdout
    assert raw in again
    document = json.loads(dispatchd("show", "esc", "--json", "--config", config).stdout)
    assert document["job"]["id"] == job["id"]


def test_explain_names_workflow_and_parameters_without_running(tmp_path: Path) -> None:
    config = str(write_config(tmp_path, URL, GOOD))
    payload = str(ROOT / "github-webhooks" / "pull_request" / "00-opened.json")

    text = dispatchd("explain", "--event", "pull_request", payload, "--config", config)
    found = json.loads(
        dispatchd(
            "explain", "--json", "--event", "pull_request", payload, "--config", config
        ).stdout
    )

    assert "workflow it would run: /bin/sh -c echo hello" in text.stdout
    assert found["parameters"]["GITHUB_PR_NUMBER"] == "2"
    assert found["rejected"] is None
    assert 'GITHUB_PR_NUMBER="2"' in found["runtime_parameters"]
    assert not (tmp_path / "state").exists()


def test_explain_takes_a_dispatch_job_and_names_its_flaws(tmp_path: Path) -> None:
    config = str(write_config(tmp_path, URL, GOOD))
    job = tmp_path / "job.json"
    for document, words in (
        ({"id": "a", "dag_name": "nope"}, "no workflow called 'nope'"),
        ({"id": "a", "dag_name": "it", "sha": 1}, "$.sha"),
    ):
        job.write_text(json.dumps(document))
        assert words in dispatchd("explain", str(job), "--config", config).stdout

    job.write_text("{")
    result = dispatchd("explain", str(job), "--config", config)
    assert result.returncode == os.EX_USAGE
    assert "must be JSON" in result.stderr


async def test_status_is_shown_anew_until_it_is_interrupted(tmp_path: Path) -> None:
    async with endpoint(holds=False) as hub:
        config = write_config(tmp_path, hub.url, GOOD)
        # Where the tests run SIGINT may be ignored, as under nohup, and so it would be by what they start.
        start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from dispatchd.cli.main import main; main()"
        command = [sys.executable, "-c", start, "status", "--watch"]
        async with await anyio.open_process(
            [*command, "--config", str(config)], stderr=None
        ) as watch:
            assert watch.stdout is not None
            screens = TextReceiveStream(watch.stdout)
            await until_shown(screens, "no daemon is running")
            async with running_daemon(config):
                await until_shown(screens, "daemon      ready")
                await until_shown(screens, "daemon      ready")
            watch.send_signal(signal.SIGINT)
            assert await watch.wait() == 130


async def until_shown(screens: TextReceiveStream, words: str) -> None:
    shown = ""
    with within(20):
        while words not in shown:
            shown += await screens.receive()


@pytest.mark.parametrize(
    ("words", "name"),
    [([], "config.schema.json"), (["--hub"], "hub-config.schema.json")],
)
def test_the_schema_for_an_editor_is_that_of_the_contract(
    words: list[str], name: str
) -> None:
    done = dispatchd("config", "schema", *words)

    assert done.returncode == 0
    assert json.loads(done.stdout) == json.loads((CONTRACTS / name).read_text())
