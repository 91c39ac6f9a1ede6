"""A daemon whose runs are isolated: what they are given, what is refused, and what is left of them."""

import os
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.engines.local.secrets import SecretReader
from dispatchd.agent.engines.local.walls import Walls
from dispatchd.linux.landlock import able
from dispatchd.redaction.known_secrets import KnownSecrets
from support.control import call
from support.daemon import running_daemon
from support.daemon import write_config as write
from support.endpoint import SECRET, endpoint

pytestmark = pytest.mark.skipif(able().abi == 0, reason="needs Landlock")

JOB = {"id": "j", "dag_name": "it"}

write_config = partial(write, isolation="sandbox")


async def test_a_run_has_a_home_and_temporary_files_of_its_own_until_it_has_ended(
    tmp_path: Path,
) -> None:
    script = 'touch "$HOME/in-home" "$TMPDIR/in-tmp"; readlink -f "$HOME" "$TMPDIR"'
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/sh", "-c", script]})
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            (finish,) = await hub.until_finished("j")

    attempt = daemon.state / "runs/j/attempt-1"
    assert finish["result_status"] == "succeeded"
    assert (attempt / "output.log").read_text().split() == [
        str(attempt / "run/home"),
        str(attempt / "run/tmp"),
    ]
    assert sorted(each.name for each in (attempt / "run").iterdir()) == [
        "outputs",
        "summary.md",
    ]
    assert list((daemon.state / "t").iterdir()) == []


async def test_without_isolation_a_run_has_the_home_of_the_daemon(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", 'echo "$HOME,$TMPDIR,"; ls "$STATE/jobs"']},
            limits=f'isolation = "none"\nenv = {{ STATE = "{tmp_path}/state" }}',
        )
        async with running_daemon(config, env={"HOME": "/home/of-it"}) as daemon:
            hub.hand_out(JOB)
            (finish,) = await hub.until_finished("j")

    assert finish["result_status"] == "succeeded"
    output = (daemon.state / "runs/j/attempt-1/output.log").read_text()
    assert output.split() == ["/home/of-it,,", "j.json"]


async def test_paths_of_a_workflow_are_open_and_a_secret_below_them_is_not(
    tmp_path: Path,
) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    cache.mkdir()
    (data / "input").write_text("input\n")
    script = f"cat data/input ../nothing {data}/input; echo x >{data}/x; echo x >{cache}/x; cat {tmp_path}/secret"
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", script]},
            limits='read_paths = ["."]\nwrite_paths = ["cache"]',
        )
        async with running_daemon(config) as daemon:
            hub.hand_out(JOB)
            await hub.until_finished("j")

    output = (daemon.state / "runs/j/attempt-1/output.log").read_text()
    assert "input\n" in output
    assert (cache / "x").exists()
    assert not (data / "x").exists()
    assert SECRET not in output


@pytest.mark.parametrize(
    ("script", "limits", "is_hinted"),
    [
        ("touch /etc/x", "", True),
        ("yes | head -n 9000; touch /tmp/x", "", True),
        ("echo wrong; exit 1", "", False),
        ("touch /etc/x; exit 0", "", False),
        ("touch /etc/x", "report_output = false", False),
    ],
)
async def test_a_run_that_met_its_wall_says_which_keys_open_more(
    tmp_path: Path, *, script: str, is_hinted: bool, limits: str
) -> None:
    async with endpoint() as hub:
        workflows = {"it": ["/bin/sh", "-c", script]}
        config = write_config(tmp_path, hub.url, workflows, limits=limits)
        async with running_daemon(config):
            hub.hand_out(JOB)
            (finish,) = await hub.until_finished("j")

    assert ("read_paths" in finish["result_summary"]) == is_hinted


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ('isolation = "none"', "isolation"),
        pytest.param(
            "",
            "as root",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="as root only"),
        ),
    ],
)
async def test_the_code_of_a_fork_does_not_run_where_nothing_holds_it(
    tmp_path: Path, options: str, reason: str
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["true"]}, limits=options)
        async with running_daemon(config) as daemon:
            hub.hand_out({**JOB, "from_fork": True})
            hub.hand_out({"id": "k", "dag_name": "it"})
            (refused,) = await hub.until_finished("j")
            (other,) = await hub.until_finished("k")

    assert refused["result_status"] == "rejected"
    assert "fork" in refused["result_summary"]
    assert reason in refused["result_summary"]
    assert not (daemon.state / "runs/j/attempt-1").exists()
    assert other["result_status"] == "succeeded"


async def test_an_owner_may_let_the_code_of_forks_run_without(tmp_path: Path) -> None:
    options = 'isolation = "none"\nforks_without_isolation = true'
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["true"]}, limits=options)
        async with running_daemon(config):
            hub.hand_out({**JOB, "from_fork": True})
            (finish,) = await hub.until_finished("j")

    assert finish["result_status"] == "succeeded"


async def test_modes_that_a_run_takes_from_the_daemon_s_folders_are_given_back(
    tmp_path: Path,
) -> None:
    """The wall doesn't hold chmod(2); for a daemon that isn't root this would be the end of everything."""
    taken = '"$S" "$S/jobs" "$S/history" "$S/runs" "$S/runs/other" "$S/runs/j"'
    script = f"""
        chmod 0 {taken}
        for i in $(seq 600); do
            test "$(stat -c %a {taken} | sort -u)" = 700 && exit 0
            sleep 0.05
        done
        exit 1
    """
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", script], "other": ["true"]},
            limits=f'env = {{ S = "{tmp_path}/state" }}',
        )
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "other", "dag_name": "other"})
            await hub.until_finished("other")
            hub.hand_out(JOB)
            (finish,) = await hub.until_finished("j")
            await daemon.until_logged("folder_modes_restored")

    assert finish["result_status"] == "succeeded"


async def test_the_status_says_what_the_sandbox_is_here(tmp_path: Path) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["true"]})
        async with running_daemon(config) as daemon:
            status = await call(daemon, "GET", "/v1/status")

    assert status["isolation"].startswith(f"sandbox (Landlock {able().abi}")


async def test_a_home_of_the_workflow_is_kept_for_its_next_run_and_not_for_a_fork(
    tmp_path: Path,
) -> None:
    script = 'cat "$HOME/kept"; echo "from $DISPATCHD_RUN_ID" >"$HOME/kept"'
    limits = 'home = "workflow"\nforks_without_isolation = true'
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", script], "other": ["/bin/sh", "-c", script]},
            limits=limits,
        )
        async with running_daemon(config) as daemon:
            for job in (
                {"id": "one", "dag_name": "it"},
                {"id": "fork", "dag_name": "it", "from_fork": True},
                {"id": "other", "dag_name": "other"},
                {"id": "two", "dag_name": "it"},
            ):
                hub.hand_out(job)
                await hub.until_finished(str(job["id"]))

    def output(job_id: str) -> str:
        return (daemon.state / f"runs/{job_id}/attempt-1/output.log").read_text()

    assert output("two") == "from one\n"
    assert all("No such file" in output(each) for each in ("one", "fork", "other"))
    assert (daemon.state / "homes/it/kept").read_text() == "from two\n"


def test_an_isolation_that_could_not_be_had_for_a_moment_is_tried_again(
    tmp_path: Path,
) -> None:
    bwrap, now = tmp_path / "bwrap", [100.0]
    bwrap.write_text("#!/bin/sh\necho 'no namespaces now' >&2\nexit 1\n")
    bwrap.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    made = LocalEngine(
        SecretReader(environment=environment),
        KnownSecrets(),
        Walls.here(environment, ()),
        now=lambda: now[0],
    )
    with closing(made) as local:
        assert "no namespaces now" in local.blocked_reason(Isolation.BUBBLEWRAP)
        bwrap.write_text("#!/bin/sh\nexit 0\n")
        assert "no namespaces now" in local.blocked_reason(Isolation.BUBBLEWRAP)
        now[0] += 61
        assert local.blocked_reason(Isolation.BUBBLEWRAP) == ""
