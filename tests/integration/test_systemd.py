"""The unit under a real systemd, booted for these tests: what an admin does at 2 a.m."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.chains import CHAINS
from support.clock import within
from support.endpoint import SECRET, Endpoint, endpoint
from support.nspawn import UNITS, Machine, booted
from support.until import until

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(300),
]

WAITS = "while ! [ -e go ]; do sleep 0.1; done; "
RUNS = 20


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot one machine for all tests: a few seconds, and each test has its own state."""
    folder = tmp_path_factory.mktemp("machine")
    with booted(folder) as found:
        store = found.folder / "credstore"
        (store / "dispatchd.machine-secret").write_text(SECRET)
        (store / "dispatchd.deploy").write_text("deploy-key-of-a-workflow")
        yield found


@pytest.fixture(autouse=True)
def clean(machine: Machine) -> Iterator[None]:
    """Leave nothing of a test to the next one."""
    since = machine.now()
    yield
    # Shown by pytest if the test has failed.
    print(machine.journal(since)[-6000:])
    machine.run_now("systemctl", "stop", "dispatchd", check=False)
    machine.run_now("pkill", "-KILL", "-u", "dispatchd", check=False)
    machine.run_now("rm", "-rf", "/var/lib/dispatchd", "/var/cache/dispatchd")
    for each in (machine.folder / "drop-ins").iterdir():
        each.unlink()
    machine.run_now("systemctl", "daemon-reload")
    machine.run_now("systemctl", "reset-failed")


def configure(machine: Machine, hub: Endpoint, workflows: str, runs: str = "") -> Path:
    file = machine.etc / "config.toml"
    file.write_text(f"""
[cloud]
url = "{hub.url}"
license_id = "lic-test"
server_id = "srv-test"
secret_credential = "machine-secret"
hold_s = 1
poll_interval_s = 1
[store]
min_free_mib = 0
[runs]
{runs}
{workflows}
""")
    file.chmod(0o644)
    return file


def workflow(name: str, script: str, more: str = "") -> str:
    return f'[workflows.{name}]\ncommand = ["/bin/sh", "-c", {json.dumps(script)}]\n{more}\n'


async def drop_in(machine: Machine, text: str) -> None:
    (machine.folder / "drop-ins" / "test.conf").write_text(f"[Service]\n{text}\n")
    await machine.run("systemctl", "daemon-reload")


async def start(machine: Machine) -> dict[str, str]:
    await machine.run("systemctl", "start", "dispatchd")
    return await machine.shown("ActiveState", "MainPID", "StatusText", "NRestarts")


async def state(machine: Machine, path: str) -> str:
    return (await machine.run("cat", f"/var/lib/dispatchd/{path}")).stdout


async def let_go(machine: Machine, job_id: str) -> None:
    await machine.run("touch", f"/var/lib/dispatchd/runs/{job_id}/workspace/go")


async def status(machine: Machine, *options: str) -> Any:
    """Return what `dispatchd status` says; its exit code is about how things stand."""
    said = await machine.dispatchd("status", "--json", *options, check=False)
    return json.loads(said.stdout)


async def until_running(machine: Machine, count: int) -> None:
    async def all_run() -> bool:
        found: int = (await status(machine))["jobs"]["running"]
        return found == count

    # Another machine's state: nothing announces it here.
    await until(all_run, within_s=60)


async def test_it_starts_is_ready_and_works_as_a_user_without_privileges(
    machine: Machine,
) -> None:
    async with endpoint() as hub:
        configure(machine, hub, workflow("it", "id -un; grep CapEff /proc/self/status"))
        shown = await start(machine)
        # READY has come when that returns, so the socket answers at once.
        told = await status(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        [finish] = await hub.until_finished("job-1")
        words = await until(partial(text_with, machine, "last pull"))
        later = await machine.shown("ActiveState", "MainPID")

    assert shown["ActiveState"] == later["ActiveState"] == "active"
    assert shown["StatusText"].startswith("pulling; 0 running, 0 waiting")
    assert str(told["pid"]) == shown["MainPID"] == later["MainPID"]
    assert finish["result_status"] == "succeeded"
    assert finish["result_output"].split() == ["dispatchd", "CapEff:", "0" * 16]
    assert re.match(r"pulling; \d running, \d waiting; last pull \d+ s ago", words)
    assert hub.calls("pull")[0].body["heartbeat_secret"] == SECRET


async def status_text(machine: Machine) -> str:
    return (await machine.shown("StatusText"))["StatusText"]


async def text_with(machine: Machine, words: str) -> str:
    """Return the unit's status text if it has some words, else nothing."""
    found = await status_text(machine)
    return found if words in found else ""


async def test_the_watchdog_replaces_a_daemon_that_hangs_and_runs_do_not_notice(
    machine: Machine,
) -> None:
    async with endpoint() as hub:
        configure(machine, hub, workflow("it", WAITS))
        await drop_in(machine, "WatchdogSec=3")
        before = await start(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        await until_running(machine, 1)
        await machine.run("kill", "-STOP", before["MainPID"])
        after = await machine.until({"NRestarts": "1", "ActiveState": "active"})
        await let_go(machine, "job-1")
        [finish] = await hub.until_finished("job-1")

    assert after["MainPID"] != before["MainPID"]
    assert finish["result_status"] == "succeeded"
    assert "watchdog timeout" in machine.journal().lower()


async def test_a_reload_takes_a_good_configuration_and_refuses_a_bad_one(
    machine: Machine,
) -> None:
    async with endpoint() as hub:
        configure(machine, hub, workflow("old", "exit 0"))
        before = await start(machine)
        file = configure(machine, hub, workflow("new", "exit 0"))
        await machine.run("systemctl", "reload", "dispatchd")
        hub.hand_out({"id": "job-1", "dag_name": "new"})
        [finish] = await hub.until_finished("job-1")
        file.write_text(file.read_text().replace("hold_s = 1", "hold_s = -1"))
        refused = await machine.run("systemctl", "reload", "dispatchd", check=False)
        hub.hand_out({"id": "job-2", "dag_name": "new"})
        [again] = await hub.until_finished("job-2")
        after = await machine.until({"ActiveState": "active"})
        warned = (await status(machine))["warnings"]

    assert finish["result_status"] == again["result_status"] == "succeeded"
    assert refused.returncode != 0
    assert "cloud.hold_s" in warned[0]
    assert "cloud.hold_s" in machine.journal()
    assert after["MainPID"] == before["MainPID"]


async def test_a_restart_leaves_20_runs_alive_and_reports_their_exit_codes(
    machine: Machine,
) -> None:
    async with endpoint() as hub:
        script = (
            'while ! [ -e go ]; do sleep 0.1; done; exit "${DISPATCHD_JOB_ID#job-}"'
        )
        configure(machine, hub, workflow("it", script), f"slots = {RUNS}")
        before = await start(machine)
        for number in range(RUNS):
            hub.hand_out({"id": f"job-{number}", "dag_name": "it"})
        await until_running(machine, RUNS)
        await machine.run("systemctl", "restart", "dispatchd")
        after = await machine.until({"ActiveState": "active"})
        for number in range(RUNS):
            await let_go(machine, f"job-{number}")
        finishes = await hub.until_finished(*(f"job-{n}" for n in range(RUNS)))

    assert after["MainPID"] != before["MainPID"]
    assert finishes[0]["result_status"] == "succeeded"
    for number, finish in enumerate(finishes[1:], start=1):
        assert f"exit code {number} " in finish["result_summary"]


async def test_a_stop_takes_seconds_and_leaves_runs_alive(machine: Machine) -> None:
    async with endpoint() as hub:
        configure(machine, hub, workflow("it", WAITS))
        await start(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        await until_running(machine, 1)
        with within(15):
            await machine.run("systemctl", "stop", "dispatchd")
        stopped = await machine.shown("ActiveState", "Result")
        await let_go(machine, "job-1")
        await start(machine)
        [finish] = await hub.until_finished("job-1")

    assert stopped == {"ActiveState": "inactive", "Result": "success"}
    assert finish["result_status"] == "succeeded"


async def test_a_drain_lasts_over_a_restart_of_the_service(machine: Machine) -> None:
    # Without held polls: one that outlived its daemon would take the job with it.
    async with endpoint(holds=False) as hub:
        configure(machine, hub, workflow("it", "exit 0"))
        await start(machine)
        await hub.until(lambda e: bool(e.calls("pull")))
        await machine.dispatchd("drain", "--reason", "new kernel")
        polls = len(hub.calls("pull"))
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        await machine.run("systemctl", "restart", "dispatchd")
        words = await status_text(machine)
        told = await status(machine)
        after = len(hub.calls("pull"))
        await machine.dispatchd("resume")
        await hub.until_finished("job-1")

    assert words.startswith("draining; ")
    assert told["intake"]["reason"] == "new kernel"
    assert after == polls


async def test_secrets_come_from_the_credential_store_and_stay_out_of_the_log(
    machine: Machine,
) -> None:
    async with endpoint() as hub:
        more = (
            'secrets = { DEPLOY = "deploy" }\n[secrets.deploy]\ncredential = "deploy"'
        )
        configure(machine, hub, workflow("it", 'echo "<$DEPLOY>"', more))
        await drop_in(machine, "LoadCredential=deploy:dispatchd.deploy")
        await start(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        [finish] = await hub.until_finished("job-1")

    assert finish["result_output"] == "<[redacted]>\n"
    assert (
        await state(machine, "runs/job-1/attempt-1/output.log")
        == "<deploy-key-of-a-workflow>\n"
    )
    assert "deploy-key" not in machine.journal()
    assert SECRET not in machine.journal()


FORBIDDEN = {
    "touch /etc/dispatchd/x": "Read-only file system",
    "touch /opt/x": "Read-only file system",
    "touch /usr/x": "Read-only file system",
    "ls /root": "Permission denied",
    "cat /etc/credstore/dispatchd.deploy": "Permission denied",
    "touch it; chmod u+s it": "Operation not permitted",
    "unshare -r true": "Operation not permitted",
    "mknod it b 1 1": "Operation not permitted|Permission denied",
    "echo 1 >/proc/sys/kernel/panic": "Read-only file system",
    "kill -0 1": "Operation not permitted|No such process",
}


async def test_a_run_cant_do_what_the_unit_doesnt_allow(machine: Machine) -> None:
    jobs = {f"job-{number}": each for number, each in enumerate(FORBIDDEN)}
    workflows = [workflow(job, attempt) for job, attempt in jobs.items()]
    async with endpoint() as hub:
        configure(machine, hub, "".join(workflows))
        await start(machine)
        for job in jobs:
            hub.hand_out({"id": job, "dag_name": job})
        await hub.until_finished(*jobs, within_s=60)

    for job, attempt in jobs.items():
        assert hub.finished[job]["result_status"] == "failed", attempt
        said = hub.finished[job]["result_output"]
        assert re.search(FORBIDDEN[attempt], said), attempt


OPEN = 'isolation = "none"'
"""Without its wall a run meets what the unit alone holds."""


async def test_a_place_for_everybody_is_closed_to_runs_until_a_drop_in_opens_it(
    machine: Machine,
) -> None:
    await machine.run("chmod", "1777", "/srv")
    # Without held polls: one that outlived its daemon would take the job with it.
    async with endpoint(holds=False) as hub:
        configure(machine, hub, workflow("it", "touch /srv/$DISPATCHD_JOB_ID", OPEN))
        await start(machine)
        hub.hand_out({"id": "closed", "dag_name": "it"})
        [closed] = await hub.until_finished("closed")
        await drop_in(machine, "ReadWritePaths=/srv")
        await machine.run("systemctl", "restart", "dispatchd")
        hub.hand_out({"id": "open", "dag_name": "it"})
        [opened] = await hub.until_finished("open")

    assert "Read-only file system" in closed["result_output"]
    assert opened["result_status"] == "succeeded"


async def test_a_restart_takes_nothing_from_a_live_run(machine: Machine) -> None:
    """Neither its temporary files and shared memory, nor the secrecy of what it was given."""
    script = f"""
echo kept >/tmp/it && echo kept >/var/tmp/it2 && echo kept >/dev/shm/it && ipcmk -M 4096
{WAITS}
cat /tmp/it /var/tmp/it2 /dev/shm/it && echo more >>/tmp/it
ipcs -m | grep -c 4096
echo "<$DEPLOY>"
"""
    more = f'{OPEN}\nsecrets = {{ DEPLOY = "deploy" }}\n[secrets.deploy]\ncredential = "deploy"'
    async with endpoint() as hub:
        configure(machine, hub, workflow("it", script, more))
        await drop_in(machine, "LoadCredential=deploy:dispatchd.deploy")
        await start(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        await until_running(machine, 1)
        file = machine.folder / "credstore" / "dispatchd.deploy"
        given = file.read_text()
        file.write_text("another-key-by-now")
        try:
            await machine.run("systemctl", "restart", "dispatchd")
            await let_go(machine, "job-1")
            [finish] = await hub.until_finished("job-1")
        finally:
            file.write_text(given)

    output = finish["result_output"].splitlines()[1:]
    assert output == ["kept", "kept", "kept", "1", "<[redacted]>"]
    assert given not in str(finish)


async def test_what_a_run_leaves_behind_is_ended_by_its_control_group(
    machine: Machine,
) -> None:
    script = "setsid env -i sleep 300 >/dev/null 2>&1 & sleep 0.2"
    async with endpoint() as hub:
        configure(machine, hub, workflow("it", script))
        await start(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        [finish] = await hub.until_finished("job-1")
        left = await machine.run("pgrep", "-u", "dispatchd", "sleep", check=False)
        told = await status(machine)

    assert left.stdout == ""
    assert "left behind" in finish["result_summary"]
    assert re.search(r"It took [\d.]+ s of CPU", finish["result_summary"])
    assert told["containment"].startswith("control groups")


async def test_a_run_has_none_of_the_precedence_that_the_unit_gives_the_daemon(
    machine: Machine,
) -> None:
    async with endpoint() as hub:
        script = "nice; cat /proc/self/oom_score_adj; umask"
        configure(machine, hub, workflow("it", script))
        shown = await start(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        [finish] = await hub.until_finished("job-1")
        # Its OOMScoreAdjust= needs a privilege that not every container has.
        own = await machine.run("ps", "-o", "ni=", "-p", shown["MainPID"])

    assert own.stdout.strip() == "-5"
    assert finish["result_output"].split() == ["0", "0", "0022"]


async def test_a_bad_configuration_stops_the_service_and_nothing_else_does(
    machine: Machine,
) -> None:
    async with endpoint() as hub:
        file = configure(machine, hub, workflow("it", "exit 0"))
        good = file.read_text()
        file.write_text("[cloud]\nurl = 5\n")
        refused = await machine.run("systemctl", "start", "dispatchd", check=False)
        await machine.until({"ActiveState": "failed", "ExecMainStatus": "78"})
        file.write_text(good)
        # Quickly, so that systemd's usual limit of 5 starts within 10 s would be met.
        await drop_in(machine, "RestartSec=100ms")
        killed = await start(machine)
        for number in range(1, 8):
            await machine.run("kill", "-KILL", killed["MainPID"])
            wanted = {"NRestarts": str(number), "ActiveState": "active"}
            killed = await machine.until(wanted)

    assert refused.returncode != 0
    assert "cloud.url" in machine.journal()


async def test_an_instance_has_its_own_configuration_state_and_socket(
    machine: Machine,
) -> None:
    unit, own = "dispatchd@build", "/etc/dispatchd/build.toml"
    async with endpoint() as hub, endpoint() as other:
        file = configure(machine, hub, workflow("it", "pwd; echo $HOME >$HOME/it"))
        (machine.etc / "build.toml").write_text(file.read_text())
        (machine.folder / "credstore" / "dispatchd.build.machine-secret").write_text(
            SECRET
        )
        configure(machine, other, "")
        try:
            await start(machine)
            await machine.run("systemctl", "start", unit)
            # What the one service leaves must not be what the instance has.
            await machine.run("systemctl", "stop", "dispatchd")
            hub.hand_out({"id": "job-1", "dag_name": "it"})
            [finish] = await hub.until_finished("job-1")
            told = await status(machine, "--config", own)
        finally:
            await machine.run("systemctl", "stop", unit, check=False)

    assert finish["result_output"] == "/var/lib/dispatchd-build/runs/job-1/workspace\n"
    assert told["state_folder"] == "/var/lib/dispatchd-build"


async def test_members_of_the_group_may_steer_and_others_may_not(
    machine: Machine,
) -> None:
    async def ask_as(groups: str) -> subprocess.CompletedProcess[str]:
        words = ["setpriv", "--reuid=daemon", "--regid=daemon", "--reset-env", groups]
        program = "/opt/dispatchd/bin/dispatchd"
        return await machine.run(*words, program, "status", check=False)

    async with endpoint() as hub:
        configure(machine, hub, workflow("it", "exit 0"))
        await start(machine)
        member = await ask_as("--groups=dispatchd")
        stranger = await ask_as("--clear-groups")

    assert hub.url in member.stdout
    assert stranger.returncode == os.EX_UNAVAILABLE
    assert "join the group" in stranger.stderr


async def test_the_hub_is_made_started_used_and_stopped_as_a_service(
    machine: Machine,
) -> None:
    user = ("--reuid=dispatchd-hub", "--regid=dispatchd-hub", "--clear-groups")
    as_hub = ("setpriv", *user, "--reset-env", "/opt/dispatchd/bin/dispatchd")
    folder = "/var/lib/dispatchd-hub"
    await machine.run(*as_hub, "hub", "init", folder, "--listen", "127.0.0.1:18484")
    await machine.run("systemctl", "start", "dispatchd-hub")
    found = await machine.shown("StatusText", "User", unit="dispatchd-hub")
    config = ("--config", f"{folder}/hub.toml")
    added = await machine.run(*as_hub, "hub", "machine", "add", "build-1", *config)
    listed = await machine.run(*as_hub, "hub", "machines", *config)
    await machine.run("systemctl", "restart", "dispatchd-hub")
    again = await machine.run(*as_hub, "hub", "machines", *config)
    await machine.run("systemctl", "stop", "dispatchd-hub")
    stopped = await machine.shown("Result", "ExecMainStatus", unit="dispatchd-hub")
    mode = await machine.run("stat", "-c", "%a %U", folder, f"{folder}/hub.db")

    assert found == {"StatusText": "answering", "User": "dispatchd-hub"}
    assert "dhub_enrol_" in added.stdout
    assert "build-1" in listed.stdout
    assert again.stdout == listed.stdout
    assert stopped == {"Result": "success", "ExecMainStatus": "0"}
    assert mode.stdout.split() == ["700", "dispatchd-hub", "600", "dispatchd-hub"]


APART = """
    tried() { if eval "$2" >/dev/null 2>&1; then echo "$1: possible"; else echo "$1: denied"; fi; }
    daemon=${GITHUB_REF##*/}
    tried records 'ls /var/lib/dispatchd/jobs'
    tried credentials 'ls /run/credentials/dispatchd.service/'
    tried token 'cat /run/dispatchd/control.token'
    tried trace "/usr/bin/python3 -c 'import ctypes; exit(ctypes.CDLL(None).ptrace(0x4206, $daemon, 0, 0) != 0)'"
    tried environment "cat /proc/$daemon/environ"
    tried signal "kill -0 $daemon"
    tried exit 'echo 0 >"$DISPATCHD_ATTEMPT_FOLDER/exit"'
    tried group 'mkdir /sys/fs/cgroup/system.slice/dispatchd.service/mine'
    tried leftover 'touch /tmp/left /var/tmp/left'
    tried own 'touch own "$HOME/own" "$TMPDIR/own"'
    tried programs 'git --version'
"""


async def possible(machine: Machine, options: str, script: str = APART) -> set[str]:
    """Return what a run of the unit could do, of what it has tried."""
    async with endpoint() as hub:
        configure(machine, hub, workflow("it", script, options))
        shown = await start(machine)
        ref = f"refs/heads/{shown['MainPID']}"
        hub.hand_out({"id": "job-1", "dag_name": "it", "ref": ref})
        [finish] = await hub.until_finished("job-1")
    assert finish["result_status"] == "succeeded", finish
    said = dict(line.split(": ") for line in finish["result_output"].splitlines())
    assert len(said) == script.count("tried ")
    return {name for name, word in said.items() if word == "possible"}


async def test_a_run_in_the_sandbox_is_kept_apart_in_the_unit(machine: Machine) -> None:
    assert await possible(machine, "") == {"own", "programs"}


async def test_a_run_without_isolation_cannot_look_into_the_daemon(
    machine: Machine,
) -> None:
    could = await possible(machine, OPEN)

    assert "records" in could
    assert not could & {"trace", "environment"}


async def test_a_run_in_bubblewrap_is_kept_apart_in_the_unit_with_its_drop_in(
    machine: Machine,
) -> None:
    if not Path("/usr/bin/bwrap").exists():
        pytest.skip("needs bubblewrap")
    name = "isolation-bubblewrap.conf"
    shipped = UNITS / "dispatchd.service.d" / name
    (machine.folder / "drop-ins" / name).write_text(shipped.read_text())
    await machine.run("systemctl", "daemon-reload")

    # Its /tmp is its own.
    assert await possible(machine, 'isolation = "bubblewrap"') == {
        *("own", "programs", "leftover")
    }
    left = await machine.run("ls", "/var/cache/dispatchd/tmp")
    assert "left" not in left.stdout


async def test_doctor_names_the_drop_in_that_is_missing(machine: Machine) -> None:
    async with endpoint() as hub:
        options = 'isolation = "bubblewrap"'
        configure(machine, hub, workflow("it", "true", options))
        await start(machine)
        told = await status(machine)
        # As root and outside of the unit, where bubblewrap works.
        found = await machine.dispatchd("doctor", check=False)

    assert any("isolation-bubblewrap.conf" in each for each in told["warnings"]), told
    assert "isolation-bubblewrap.conf" in found.stdout, found


CONTAINER = 'isolation = "container"\nimage = "localhost/probe"\npull = "never"'

IMPORT = """
    export HOME=/var/lib/dispatchd XDG_RUNTIME_DIR=/run/dispatchd
    mkdir -p root/bin root/lib root/proc && cp /bin/busybox root/bin
    for each in sh ls cat kill mkdir touch id hostname sleep; do ln -s busybox root/bin/$each; done
    tar --owner=0 --group=0 -cf root.tar -C root . && podman import root.tar localhost/probe
"""
"""Makes an image with one program, in the daemon's own store: without isolation a run can."""

IN_A_CONTAINER = """
    tried() { if eval "$2" >/dev/null 2>&1; then echo "$1: possible"; else echo "$1: denied"; fi; }
    daemon=${GITHUB_REF##*/}
    tried records 'ls /var/lib/dispatchd/jobs'
    tried images 'ls /var/lib/dispatchd/.local'
    tried programs 'ls /opt/dispatchd'
    tried credentials 'ls /run/credentials/dispatchd.service/'
    tried token 'cat /run/dispatchd/control.token'
    tried socket 'ls /run/dispatchd'
    tried environment "cat /proc/$daemon/environ"
    tried signal "kill -0 $daemon"
    tried exit 'echo 0 >"$DISPATCHD_ATTEMPT_FOLDER/exit"'
    tried group 'mkdir /sys/fs/cgroup/mine || mkdir /sys/fs/cgroup/system.slice/dispatchd.service/mine'
    tried kernel 'echo 1 >/proc/sys/kernel/panic'
    tried hostname 'hostname other'
    tried tun 'cat /dev/net/tun'
    tried root 'touch /bin/mine'
    tried leftover 'touch /tmp/left'
    tried own 'touch own "$HOME/own" "$TMPDIR/own"'
    tried network 'cat /sys/class/net/tap0/address'
"""


async def put_containers_in(machine: Machine) -> None:
    """Let the unit run containers, with its drop-in and an image; skip, with the reason, where it can't."""
    needed = ("podman", "crun", "slirp4netns", "busybox")
    if missing := [each for each in needed if shutil.which(each) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    name = "isolation-container.conf"
    shipped = UNITS / "dispatchd.service.d" / name
    (machine.folder / "drop-ins" / name).write_text(shipped.read_text())
    await machine.run("systemctl", "daemon-reload")
    # As Debian's golang-github-containers-common and udev have it.
    policy = '{"default": [{"type": "insecureAcceptAnything"}]}'
    making = f"mkdir -p /etc/containers && echo '{policy}' >/etc/containers/policy.json"
    await machine.run("sh", "-c", f"{making} && chmod 0666 /dev/net/tun")
    async with endpoint(holds=False) as hub:
        configure(machine, hub, workflow("import", IMPORT, OPEN))
        await start(machine)
        hub.hand_out({"id": "import", "dag_name": "import"})
        [finish] = await hub.until_finished("import", within_s=60)
        assert finish["result_status"] == "succeeded", finish
        await machine.run("systemctl", "stop", "dispatchd")


async def test_a_run_in_a_container_is_kept_apart_in_the_unit_with_its_drop_in(
    machine: Machine,
) -> None:
    await put_containers_in(machine)

    assert await possible(machine, CONTAINER, IN_A_CONTAINER) == {
        *("own", "leftover", "network")
    }
    left = await machine.run("ls", "/var/cache/dispatchd/tmp")
    assert "left" not in left.stdout


async def has_begun(machine: Machine, job_id: str) -> bool:
    file = f"/var/lib/dispatchd/runs/{job_id}/workspace/begun"
    return (await machine.run("test", "-e", file, check=False)).returncode == 0


async def test_a_run_in_a_container_outlives_a_stop_of_the_unit(
    machine: Machine,
) -> None:
    await put_containers_in(machine)
    async with endpoint(holds=False) as hub:
        script = f"id -u; touch begun; {WAITS} exit 7"
        configure(machine, hub, workflow("it", script, CONTAINER), "slots = 2")
        await start(machine)
        hub.hand_out({"id": "job-1", "dag_name": "it"})
        await until_running(machine, 1)
        await machine.run("systemctl", "stop", "dispatchd")
        await start(machine)
        hub.hand_out({"id": "job-2", "dag_name": "it"})
        await until_running(machine, 2)
        for job in ("job-1", "job-2"):
            await until(partial(has_begun, machine, job), within_s=60)
            await let_go(machine, job)
        finishes = await hub.until_finished("job-1", "job-2", within_s=60)
        told = await status(machine)
        made = "/var/lib/dispatchd/runs/job-1/workspace/begun"
        owner = await machine.run("stat", "-c", "%U", made)

    for finish in finishes:
        assert finish["result_output"] == "0\n"
        assert "exit code 7 " in finish["result_summary"]
    assert owner.stdout == "dispatchd\n"
    assert not [each for each in told["warnings"] if "podman" in each]


@pytest.mark.parametrize("in_force", ["", "isolation-bubblewrap.conf"])
async def test_status_names_the_drop_in_that_containers_miss(
    machine: Machine, in_force: str
) -> None:
    if shutil.which("podman") is None:
        pytest.skip("needs podman")
    if in_force:
        shipped = UNITS / "dispatchd.service.d" / in_force
        (machine.folder / "drop-ins" / in_force).write_text(shipped.read_text())
        await machine.run("systemctl", "daemon-reload")
    async with endpoint() as hub:
        configure(machine, hub, workflow("it", "true", CONTAINER))
        await start(machine)
        told = await status(machine)

    assert any("isolation-container.conf" in each for each in told["warnings"]), told


CHAINS_OF_THE_UNIT = (
    *(
        "git with a submodule",
        "make -j",
        "node and npm",
        "ssh-agent",
        "gpg",
        "Unix sockets",
    ),
    *("venv and pip install from a folder", "postgres started by the run", "qemu-user"),
    *(
        "strace of a child",
        "gdb",
        "cc -fsanitize=address",
        "script, on a pseudoterminal",
    ),
    *("multiprocessing of Python (locks, queues, shared memory)", "tmux", "Xvfb"),
)
"""Those that need nothing of /etc, which is empty on this machine."""


async def test_tool_chains_work_in_the_unit(machine: Machine) -> None:
    # As the alternatives of /etc would have it.
    cc = 'mkdir bin && ln -s "$(command -v gcc)" bin/cc && PATH="$PWD/bin:$PATH"'
    jobs = {
        f"job-{number}": CHAINS[name]
        for number, name in enumerate(CHAINS_OF_THE_UNIT)
        if all(map(shutil.which, CHAINS[name].needs))
    }
    workflows = (
        workflow(
            job, f"set -eu\n{cc}\nPYTHON=/usr/bin/python3\n{chain.script}", chain.keys
        )
        for job, chain in jobs.items()
    )
    async with endpoint() as hub:
        configure(machine, hub, "".join(workflows))
        await start(machine)
        for job in jobs:
            hub.hand_out({"id": job, "dag_name": job})
        await hub.until_finished(*jobs, within_s=240)

    failed = {
        job: (jobs[job].script, finish["result_output"])
        for job, finish in hub.finished.items()
        if finish["result_status"] != "succeeded"
    }
    assert not failed
