"""The code of a fork runs without any secret of the machine's owner, and is told so."""

from pathlib import Path

import pytest

from support.daemon import DaemonHere, running_daemon
from support.endpoint import endpoint
from support.git_server import git_server
from support.secret_run import configure, environment

VALUE = "correct-horse-battery-staple"
GIT_TOKEN = "token-of-the-installation-0815"
JOB = {"id": "j", "dag_name": "it"}
SECRETS = 'secrets = { KEY = "key" }\n'
RETRIED = "max_retries = 1\n"


def withheld(daemon: DaemonHere) -> list[tuple[int, list[str]]]:
    """Return the attempts for which the log says that secrets were withheld, and which."""
    return [
        (line["attempt"], line["names"])
        for line in daemon.log()
        if line["event"] == "secrets_withheld"
    ]


async def test_the_code_of_a_fork_gets_no_secrets(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, "env; kill -9 $$", SECRETS + RETRIED)
        async with running_daemon(config, env={"KEY_OF_THE_DAEMON": VALUE}) as daemon:
            hub.hand_out({**JOB, "from_fork": True})
            await hub.until_finished("j")

    for number in (1, 2):
        env = environment(daemon, number)
        assert env["DISPATCHD_FROM_FORK"] == "true"
        assert not env.keys() & {"KEY", "DISPATCHD_SECRETS"}
        assert VALUE not in str(env)
    assert withheld(daemon) == [(1, ["KEY"]), (2, ["KEY"])]


@pytest.mark.parametrize("word", [False, None])
async def test_any_other_job_gets_its_secrets(tmp_path: Path, word: object) -> None:
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, "env", SECRETS)
        async with running_daemon(config, env={"KEY_OF_THE_DAEMON": VALUE}) as daemon:
            hub.hand_out({**JOB, "from_fork": word})
            await hub.until_finished("j")

    env = environment(daemon)
    assert (env["KEY"], env["DISPATCHD_SECRETS"]) == (VALUE, "KEY")
    assert "DISPATCHD_FROM_FORK" not in env
    assert withheld(daemon) == []


async def test_a_job_that_does_not_say_clearly_whether_it_is_a_forks_is_rejected(
    tmp_path: Path,
) -> None:
    async with (
        endpoint() as hub,
        running_daemon(configure(tmp_path, hub.url, "env", SECRETS)) as daemon,
    ):
        hub.hand_out({**JOB, "from_fork": "true"})
        (finish,) = await hub.until_finished("j")

    assert finish["result_status"] == "rejected"
    assert "$.from_fork" in finish["result_summary"]
    assert not (daemon.state / "runs/j/attempt-1").exists()


async def test_a_job_without_secrets_to_withhold_says_nothing_of_them(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = configure(tmp_path, hub.url, "env", "")
        async with running_daemon(config) as daemon:
            hub.hand_out({**JOB, "from_fork": True})
            await hub.until_finished("j")

    assert environment(daemon)["DISPATCHD_FROM_FORK"] == "true"
    assert withheld(daemon) == []


async def test_the_code_of_a_fork_is_cloned_with_a_token_that_it_never_sees(
    tmp_path: Path,
) -> None:
    with git_server(tmp_path / "served", token=GIT_TOKEN) as forge:
        sha = forge.create("o/r")[-1]
        options = (
            f'checkout = true\ncheckout_url = "{forge.url}"\ncheckout_secret = "key"\n'
        )
        async with endpoint() as hub:
            config = configure(tmp_path, hub.url, "cat README.md; env", options)
            env = {"KEY_OF_THE_DAEMON": GIT_TOKEN}
            async with running_daemon(config, env=env) as daemon:
                job = {**JOB, "from_fork": True, "repository_name": "o/r", "sha": sha}
                hub.hand_out(job)
                (finish,) = await hub.until_finished("j")

    assert finish["result_status"] == "succeeded", finish
    output = (daemon.state / "runs/j/attempt-1/output.log").read_text()
    assert output.startswith("version ")
    assert GIT_TOKEN not in output
