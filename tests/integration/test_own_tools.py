"""What the daemon itself needs for a run is its own, whatever a workflow puts into its environment."""

import json
import shutil
from pathlib import Path

import pytest

from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.torture import few

HOSTILE = {
    "PATH without /bin": {"PATH": "/opt/toolchain/bin"},
    "PATH empty": {"PATH": ""},
    "PATH with another mv": {"PATH": "{folder}"},
    "a start file of a shell": {"ENV": "{folder}/gone", "BASH_ENV": "{folder}/gone"},
    "functions": {
        "BASH_FUNC_echo%%": "() { exit 9; }",
        "BASH_FUNC_read%%": "() { exit 9; }",
    },
    "a library that isn't there": {"LD_PRELOAD": "/opt/gone.so"},
    "a shell that only reads": {"SHELLOPTS": "noexec", "POSIXLY_CORRECT": "1"},
    "another separator": {"IFS": "/ed", "CDPATH": "/tmp", "PWD": "/tmp"},
    "variables of the shim": {"attempt": "/gone", "code": "7"},
    "what a shell owns": {"UID": "12", "PPID": "x", "OPTIND": "y"},
    "quotes": {"TEXT": "'\"$(exit 3)`exit 3`\\ \n* %s", "n": "*"},
}

SHELLS = {"UID", "PPID", "OPTIND", "PWD", "SHELLOPTS", "POSIXLY_CORRECT"}
"""Variables that some shells own."""


@pytest.fixture(params=few(HOSTILE, 5))
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    given = HOSTILE[request.param]
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("mv", "echo", "sh", "env"):
        (folder / name).write_text("#!/bin/sh\nexit 8\n")
        (folder / name).chmod(0o755)
    return {name: text.replace("{folder}", str(folder)) for name, text in given.items()}


def toml(env: dict[str, str]) -> str:
    pairs = (f"{json.dumps(name)} = {json.dumps(text)}" for name, text in env.items())
    return f"env = {{ {', '.join(pairs)} }}"


async def test_an_outcome_and_an_environment_are_the_commands(
    tmp_path: Path, env: dict[str, str]
) -> None:
    commands = {"well": ["/usr/bin/env", "-0"], "badly": ["/bin/false"]}
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, commands, limits=toml(env))
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "w", "dag_name": "well"})
            well = (await hub.until_finished("w"))[0]
            hub.hand_out({"id": "b", "dag_name": "badly"})
            badly = (await hub.until_finished("b"))[0]
    output = daemon.state / "runs/w/attempt-1/output.log"
    given = dict(
        pair.split("=", 1) for pair in output.read_text().split("\0") if "=" in pair
    )

    assert well["result_status"] == "succeeded", well
    assert "exit code 1" in badly["result_summary"]
    theirs = {name for name in env if name.isidentifier()} - SHELLS
    assert {name: given.get(name) for name in theirs} == {
        name: env[name] for name in theirs
    }
    assert not [name for name in given if name.startswith("DISPATCHD_GIVEN")]


async def test_a_headless_run_does_not_hang_on_tools_of_those_names_in_its_path(
    tmp_path: Path,
) -> None:
    """It runs once, and its result and its exit code are read; none of the tools is called."""
    tools, calls, runs = (tmp_path / name for name in ("tools", "calls", "runs"))
    tools.mkdir()
    for name in ("mv", "sh", "sleep", "cat", "rm", "python3"):
        (tools / name).write_text(f'#!/bin/sh\necho "$0 $*" >>{calls}\nexit 8\n')
        (tools / name).chmod(0o755)
    result = {"status": "success", "summary": "ok", "exit_reason": "completed"}
    text = json.dumps({"contract_version": "1", **result})
    script = f"echo ran >>{runs}; printf %s '{text}' >\"$5\""
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", script, "it"]},
            limits=f'contract = "headless"\n{toml({"PATH": str(tools)})}',
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            (finished,) = await hub.until_finished("j")

    assert finished["result_status"] == "succeeded", finished["result_summary"]
    assert finished["result_summary"].startswith("ok")
    assert runs.read_text() == "ran\n"
    assert (daemon.state / "runs/j/attempt-1/exit").read_text() == "0\n"
    assert not calls.exists()


@pytest.mark.parametrize("shell", ["dash", "bash"])
async def test_a_command_that_ends_by_a_signal_is_judged_so(
    tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    command = [str(shutil.which(shell)), "-c", "kill -TERM $$"]
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": command}, limits='env = { PATH = "" }'
        )
        async with running_daemon(config):
            hub.hand_out({"id": "j", "dag_name": "it"})
            finished = (await hub.until_finished("j"))[0]

    assert "SIGTERM" in finished["result_summary"]


async def test_secrets_of_a_run_are_known_again_under_a_path_without_bin(
    tmp_path: Path,
) -> None:
    key = tmp_path / "key"
    key.write_text("a-value-that-nobody-may-see")
    script = 'while [ ! -e go ]; do /bin/sleep 0.05; done; echo "has $KEY"'
    limits = 'env = { PATH = "/opt/toolchain" }\nsecrets = { KEY = "key" }'
    async with endpoint() as hub:
        config = write_config(
            tmp_path, hub.url, {"it": ["/bin/sh", "-c", script]}, limits=limits
        )
        with config.open("a") as file:
            file.write('[secrets.key]\nfile = "key"\n')
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it"})
            await daemon.until_logged("job_attempt_started")
            await daemon.stop()
            key.write_text("another-value-by-now")
            daemon.log_file.unlink()
            daemon.start()
            await daemon.until_logged("daemon_ready")
            (daemon.state / "runs/j/workspace/go").touch()
            finished = (await hub.until_finished("j"))[0]

    assert finished["result_status"] == "succeeded"
    assert "has [redacted]" in finished["result_output"]
