"""Bubblewrap and containers: what encloses a run holds, and the run starts, stops and ends as any other."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from attrs import evolve

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.isolation import Isolation, Network, PullPolicy
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local import bubblewrap
from dispatchd.agent.engines.local.podman import name_of
from dispatchd.errors import SpawnFailed
from dispatchd.protocol.outcome import Exit
from support.control import call
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.images import IMAGE, podman
from support.until import in_time, until
from support.walls import ATTEMPTS, EVERYDAY, OWN, Scene, new_scene, tried

pytestmark = pytest.mark.host


@pytest.fixture
def scene() -> Iterator[Scene]:
    # Not below /tmp, of which a run has its own.
    with new_scene(Path.home()) as made:
        yield made


@pytest.fixture(params=[Isolation.BUBBLEWRAP, Isolation.CONTAINER])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    found: Isolation = request.param
    if found is Isolation.CONTAINER:
        request.getfixturevalue("image")
    else:
        problem = bubblewrap.problem(os.environ["PATH"])
        if problem:
            pytest.skip(problem)
    return found


def enclosed(scene: Scene, isolation: Isolation, script: str, **env: str) -> Launch:
    image = IMAGE if isolation is Isolation.CONTAINER else ""
    ready = scene.launch("mine", script, isolation, **env)
    return evolve(ready, image=image, pull=PullPolicy.NEVER)


def alive(marker: str) -> list[str]:
    """Return the processes with something in their command line."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = each.read_text()
        except OSError:
            continue
        if marker in line and "pytest" not in line:
            found.append(line.replace("\0", " "))
    return found


async def test_a_run_in_bubblewrap_reaches_nothing_of_the_daemon_nor_of_other_runs(
    scene: Scene,
) -> None:
    if problem := bubblewrap.problem(os.environ["PATH"]):
        pytest.skip(problem)
    well, output = await tried(scene, ATTEMPTS, Isolation.BUBBLEWRAP)

    assert well - OWN[Isolation.BUBBLEWRAP] == {
        "connect to an abstract socket of the daemon"
    }, output
    assert not list(Path("/tmp").glob("left-by-a-run-*"))  # where it must not be
    assert not list(Path("/dev/shm").glob("left-by-a-run-*"))  # likewise
    assert (scene.folder / "state/jobs/known.json").read_text() == "known"


KEYS = """
import ctypes, errno, sys
from pathlib import Path
sys.path[:0] = {path!r}
import anyio
from dispatchd.agent.domain.isolation import Isolation
from support.walls import new_scene, tried, ATTEMPTS
c = ctypes.CDLL(None, use_errno=True)
assert c.syscall(250, 1, None) > 0
assert c.syscall(248, b"user", b"of-the-daemon", b"x", 1, -3) > 0
name = "leave a key in the session's keyring"
async def main():
    with new_scene(Path.home()) as scene:
        return await tried(scene, {{name: ATTEMPTS[name]}}, Isolation.BUBBLEWRAP)
well, output = anyio.run(main, backend_options={{"loop_factory": __import__("support.clock").clock.SkippingLoop}})
assert well == {{name}}, output
assert c.syscall(250, 10, -3, b"user", b"of-the-daemon", 0) > 0
assert c.syscall(250, 10, -3, b"user", b"left-by-a-run", 0) < 0
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_a_run_in_bubblewrap_has_a_session_keyring_of_its_own() -> None:
    """The daemon's may hold what others need: a unit has one of its own (KeyringMode=)."""
    if problem := bubblewrap.problem(os.environ["PATH"]):
        pytest.skip(problem)
    source = KEYS.format(path=sys.path)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


async def test_everyday_work_goes_on_in_bubblewrap(scene: Scene) -> None:
    if problem := bubblewrap.problem(os.environ["PATH"]):
        pytest.skip(problem)
    well, output = await tried(scene, EVERYDAY, Isolation.BUBBLEWRAP)

    assert set(EVERYDAY) - well == set(), output


@pytest.mark.usefixtures("image")
async def test_a_container_has_nothing_of_the_machine_but_the_run_s_own(
    scene: Scene,
) -> None:
    script = """
        ls "$STATE"; cat "$SECRETS/other"; ls "$RUN"; touch /bin/x; cat /proc/$DAEMON/environ
        echo own >"$FILES/outputs"; echo x >f; cat "$EVENT"; echo x >"$EVENT"; echo t >"$TMPDIR/t"
        touch "$DISPATCHD_ATTEMPT_FOLDER/exit"
        exit 7
    """
    ready = enclosed(scene, Isolation.CONTAINER, script)
    code, output = await scene.run(ready)

    assert code == 7, output
    assert "known" not in output
    assert "fine" not in output
    assert output.count("Read-only file system") >= 2
    assert "{}" in output
    assert (ready.files / "outputs").read_text() == "own\n"
    assert (ready.workspace / "f").read_text() == "x\n"
    assert (ready.temporary / "t").read_text() == "t\n"
    assert (ready.workspace.parent / "event.json").read_text() == "{}"
    assert (ready.workspace / "f").stat().st_uid == os.geteuid()


async def test_the_exit_code_and_the_environment_are_the_command_s(
    scene: Scene, isolation: Isolation
) -> None:
    text = 'two\nlines, with "quotes"'
    script = (
        'test "$TEXT" = "$(printf "%s" "$TEXT")" && echo "$TEXT $HOME $TMPDIR"; exit 41'
    )
    code, output = await scene.run(enclosed(scene, isolation, script, TEXT=text))

    assert code == 41, output
    assert f"{text} " in output
    assert output.endswith("/home /tmp\n")


async def test_no_value_of_the_environment_is_an_argument_of_a_program(
    scene: Scene, isolation: Isolation
) -> None:
    secret = "s3cret-of-a-run"
    ready = enclosed(
        scene, isolation, "echo up; while sleep 0.1; do :; done", KEY=secret
    )
    process = await scene.start(ready)
    await until(lambda: "up" in ready.output_file.read_text(), 60, "a command")

    assert alive(ready.run_id)
    assert not alive(secret)
    await scene.local.stop(process, 10)


async def test_a_stop_lets_the_command_clean_up(
    scene: Scene, isolation: Isolation
) -> None:
    script = "trap 'echo cleaned; exit 5' TERM; echo up; while :; do sleep 0.1; done"
    ready = enclosed(scene, isolation, script)
    process = await scene.start(ready)
    await until(lambda: "up" in ready.output_file.read_text(), 60, "a command")

    forced = await scene.local.stop(process, 30)

    assert not forced
    assert await scene.local.observe(process, ready.folder) == Exit(code=5)
    assert "cleaned" in ready.output_file.read_text()


async def test_nothing_is_left_of_a_run_that_has_to_be_killed(
    scene: Scene, isolation: Isolation
) -> None:
    nap = f"{os.getpid()}.5"
    script = f"trap '' TERM; (trap '' TERM; setsid sleep {nap}) & sleep {nap} & echo up; while :; do sleep 0.1; done"
    ready = enclosed(scene, isolation, script)
    process = await scene.start(ready)
    await until(lambda: "up" in ready.output_file.read_text(), 60, "a command")
    await until(lambda: len(alive(nap)) >= 1, 60, "its children")

    assert await scene.local.stop(process, 0.1)
    await scene.local.observe(process, ready.folder)
    cleared = await scene.local.clear(process, ready.folder)

    assert cleared.survivors == ()
    await until(lambda: not alive(f"sleep\0{nap}"), 30, "their end")
    if isolation is Isolation.CONTAINER:
        assert podman("container", "exists", name_of(ready.folder)).returncode == 1


async def test_a_run_without_network_has_none(
    scene: Scene, isolation: Isolation
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"cat /proc/net/tcp; ls /sys/class/net; echo port {port:04X}"
        ready = evolve(enclosed(scene, isolation, script), network=Network.NONE)
        code, output = await scene.run(ready)

    assert code == 0, output
    assert f":{port:04X} " not in output


async def test_a_gate_that_stays_closed_leaves_nothing(
    scene: Scene, isolation: Isolation
) -> None:
    ready = enclosed(scene, isolation, "echo ran")

    async def record(_: ProcessIdentity) -> None:
        raise SpawnFailed(command="x", reason="the disk is full")

    with pytest.raises(SpawnFailed):
        await scene.local.start(ready, record)

    assert ready.output_file.read_text() == ""
    if isolation is Isolation.CONTAINER:
        assert podman("container", "exists", name_of(ready.folder)).returncode == 1


@pytest.mark.usefixtures("image")
async def test_an_image_that_is_not_there_is_a_start_that_fails(
    scene: Scene,
) -> None:
    ready = evolve(
        enclosed(scene, Isolation.CONTAINER, "echo ran"), image="localhost/missing:1"
    )
    with pytest.raises(SpawnFailed, match="no image localhost/missing:1") as never:
        await scene.start(ready)
    assert never.value.refused

    with pytest.raises(SpawnFailed, match="can't be pulled") as missing:
        await scene.start(evolve(ready, pull=PullPolicy.MISSING))
    assert not missing.value.refused


@pytest.mark.usefixtures("image")
async def test_a_run_in_a_container_is_followed_by_the_next_daemon(
    scene: Scene,
) -> None:
    ready = enclosed(scene, Isolation.CONTAINER, "read line <go; exit 9")
    os.mkfifo(ready.workspace / "go")
    process = await scene.start(ready)
    with new_scene() as later:
        async with anyio.create_task_group() as tasks:
            ends: list[object] = []

            async def follow() -> None:
                ends.append(await later.local.observe(process, ready.folder))

            tasks.start_soon(follow)
            await in_time(lambda: _is_open(ready.workspace / "go"))

    assert ends == [Exit(code=9)]


async def _is_open(pipe: Path) -> bool:
    """Write to a pipe if somebody reads it."""
    try:
        fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    os.write(fd, b"go\n")
    os.close(fd)
    return True


async def test_a_job_runs_enclosed_from_its_pull_to_its_report(
    tmp_path: Path, isolation: Isolation
) -> None:
    image = f'image = "{IMAGE}"\n' if isolation is Isolation.CONTAINER else ""
    script = (
        'cat "$GITHUB_EVENT_PATH"; echo "it=done" >>"$GITHUB_OUTPUT"; echo "the key is $KEY";'
        ' ls "$STATE/jobs"; exit 3'
    )
    (tmp_path / "key").write_text("s3cret-of-the-workflow")
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", script]},
            limits=f'isolation = "{isolation}"\n{image}secrets = {{ KEY = "key" }}\n'
            f'env = {{ STATE = "{tmp_path}/state" }}\n[secrets.key]\nfile = "key"',
        )
        names = ("PATH", "HOME", "CONTAINERS_CONF")
        environment = {name: os.environ.get(name, "") for name in names}
        async with running_daemon(config, env=environment) as daemon:
            hub.hand_out({"id": "j", "dag_name": "it", "payload": {"a": 1}})
            (finish,) = await hub.until_finished("j")

    attempt = daemon.state / "runs/j/attempt-1"
    output = (attempt / "output.log").read_text()
    assert (finish["result_status"], finish["result_cause"]) == ("failed", "exit-code")
    assert finish["result_outputs"] == {"it": "done"}
    assert "s3cret-of-the-workflow" in output
    assert "s3cret-of-the-workflow" not in str(finish)
    assert "j.json" not in output
    assert not (attempt / "run/home").exists()


async def test_a_machine_without_bubblewrap_takes_no_jobs_for_it(
    tmp_path: Path,
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"it": ["/bin/sh", "-c", "exit 0"]},
            limits='isolation = "bubblewrap"',
        )
        async with running_daemon(config, env={"PATH": "/nonexistent"}) as daemon:
            await hub.until(lambda e: bool(e.calls("pull")))
            status = await call(daemon, "GET", "/v1/status")

    assert hub.calls("pull")[-1].body["workflows"] == []
    assert any("bubblewrap isn't installed" in each for each in status["warnings"])
