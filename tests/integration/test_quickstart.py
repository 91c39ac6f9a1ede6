"""`dispatchd quickstart` in a process of its own, as somebody has it in a terminal."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from attrs import define

from dispatchd.cli.begin.installation import Installation
from dispatchd.cli.begin.quickstart import started_hub
from dispatchd.errors import NotReachable
from support.cli import dispatchd
from support.kill_init import kill_init
from support.patience import killed_if_late
from support.torture import lasting_port
from support.until import until

pytestmark = pytest.mark.timeout(600)


@define
class Quickstart:
    """A running call: its lines so far."""

    process: subprocess.Popen[str]
    lines: list[str]

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def until(self, beginning: str) -> str:
        """Return the first line that begins so; its end is waited for with a deadline."""
        assert self.process.stdout is not None
        with killed_if_late(self.process):
            for line in self.process.stdout:
                self.lines.append(line)
                if line.startswith(beginning):
                    return line
        raise AssertionError((beginning, self.text, self.process.wait()))

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        self.rest()
        return self.process.wait(90)

    def rest(self) -> None:
        assert self.process.stdout is not None
        self.lines += self.process.stdout


@contextmanager
def quickstart(folder: Path, **env: str) -> Iterator[Quickstart]:
    # Other tests run at the same time, and the usual port is for one.
    listen = ("--listen", f"127.0.0.1:{lasting_port()}")
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "dispatchd", "quickstart", str(folder), *listen],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder.parent,
        env={**os.environ, "HOME": "/nonexistent", **env},
    ) as process:
        try:
            yield Quickstart(process, [])
        finally:
            if process.poll() is None:
                process.terminate()


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that have to do with a folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (each / "cmdline").read_text(errors="replace").replace("\0", " ")
            where = str((each / "cwd").readlink())
            if str(folder) in words + where and int(each.name) != os.getpid():
                found.append(words)
    return found


def say(line: str) -> str:
    """Run a line that was printed, as a shell would."""
    echoed, _, piped = line.rpartition(" | ")
    text = shlex.split(echoed)[1] if echoed else None
    done = dispatchd(*shlex.split(piped)[1:], text=text)
    assert done.returncode == 0, (line, done)
    return done.stdout


def commands_in(text: str) -> list[str]:
    found = re.findall(r"(?:echo '.*' \| )?dispatchd (?:hub|status|reload) .*", text)
    return [command.replace("NAME", "another").removesuffix("):") for command in found]


def result(folder: Path, job_id: str) -> dict[str, object]:
    """Return a job once it has ended."""
    token = (folder / "hub" / "admin-token").read_text().strip()
    found: dict[str, object] = (
        httpx.get(
            f"{say_url(folder)}/api/v1/jobs/{job_id}?wait=60&until=finished",
            headers={"authorization": f"Bearer {token}"},
            timeout=90,
        )
        .raise_for_status()
        .json()
    )
    return found


def status_of(url: str) -> int:
    return httpx.get(url, timeout=60).status_code


def say_url(folder: Path) -> str:
    [listen] = re.findall('listen = "(.*?)"', (folder / "hub/hub.toml").read_text())
    return f"http://{listen}"


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:0",
        pytest.param("nonsense", marks=pytest.mark.torture),
        pytest.param("127.0.0.1:99999", marks=pytest.mark.torture),
    ],
)
def test_an_address_that_is_none_leaves_a_folder_to_begin_in(
    tmp_path: Path, listen: str
) -> None:
    folder = tmp_path / "it"

    refused = dispatchd("quickstart", str(folder), "--listen", listen)

    assert refused.returncode in {64, 78}
    assert len(refused.stderr.splitlines()) == 1
    Installation(folder).make(f"127.0.0.1:{lasting_port()}")


@pytest.mark.torture(least_s=30)
def test_a_new_hub_whose_port_was_taken_meanwhile_gets_another(tmp_path: Path) -> None:
    """Two calls at once find the same port free."""
    that, port = Installation(tmp_path / "it"), lasting_port()
    that.make(f"127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(NotReachable, match="Address already in use"):
            started_hub(that, may_move=False)
        started_hub(that, may_move=True).stop(signal.SIGTERM)

    assert say_url(that.folder) == that.client.url
    assert not that.client.url.endswith(f":{port}")
    # It ends for another reason: nothing is changed.
    (that.folder / "hub/hub.db").unlink()
    (that.folder / "hub/hub.db").mkdir()
    before = that.hub_file.read_text()
    with pytest.raises(NotReachable):
        started_hub(that, may_move=True)
    assert that.hub_file.read_text() == before


@pytest.mark.host
async def test_a_first_job_runs_and_the_folder_is_an_installation(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "it's here"
    with quickstart(folder, DISPATCHD_HUB_TOKEN="of another hub") as first:
        assert "hello: succeeded after" in first.until("job ")
        assert "hello from" in first.until("         |")
        first.until("Ctrl-C ends both")
        [link] = re.findall(r"http://\S+/login\S+", first.text)
        assert [status_of(link) for _ in range(2)] == [303, 401]

        commands = commands_in(first.text)
        assert len(commands) == 6, commands
        said = {command: say(command) for command in commands}
        [job_id] = [text.strip() for line, text in said.items() if "submit" in line]
        assert result(folder, job_id)["state"] == "succeeded"

        # Whatever runs is ended, and the hub hears of it.
        config = folder / "machine" / "config.toml"
        command = '["sh", "-c", "touch begun; sleep 600"]'
        waits = f"[workflows.waits]\ncommand = {command}\n"
        config.write_text(f"{config.read_text()}\n{waits}")
        [reload] = [line for line in commands if "reload" in line]
        say(reload)
        [submit] = [line for line in commands if "submit" in line]
        waiting = say(submit.replace("hello", "waits")).strip()
        begun = folder / f"machine/state/runs/{waiting}/workspace/begun"
        await until(begun.exists, 60)
        assert first.stop() == 0, first.text
    assert processes_of(folder) == []

    with quickstart(folder) as second:
        second.until("Ctrl-C ends both")
        assert "job " not in second.text
        assert result(folder, waiting)["state"] == "aborted"
        job_id = say(submit).strip()
        assert result(folder, job_id)["state"] == "succeeded"
        assert second.stop(signal.SIGTERM) == 0, second.text
    assert processes_of(folder) == []
    assert "[workflows.waits]" in config.read_text()
    say(f"dispatchd config check --config {shlex.quote(str(config))}")


@pytest.mark.torture
async def test_hub_and_machine_end_with_a_call_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    with quickstart(folder) as first:
        first.until("Ctrl-C ends both")
        first.process.kill()
        first.rest()
    await until(lambda: processes_of(folder) == [], 60)

    with quickstart(folder) as second:
        second.until("Ctrl-C ends both")
        assert second.stop() == 0, second.text
    assert processes_of(folder) == []


def kill(program: str, folder: Path) -> None:
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (each / "cmdline").read_text(errors="replace").replace("\0", " ")
            if program in words and str(folder) in words:
                os.kill(int(each.name), signal.SIGKILL)


def ended_by_the_end_of(program: str, that: Quickstart, folder: Path) -> None:
    """Kill one of both, and require that the other one ends and that it is said."""
    kill(program, folder)
    that.rest()
    assert that.process.wait(90) == 69
    name = "hub" if "hub" in program else "machine"
    assert f"the {name} has ended; see {folder}" in that.text
    assert processes_of(folder) == []


@pytest.mark.torture
def test_a_call_that_was_cut_short_is_completed_and_the_end_of_the_hub_ends_the_machine(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "q"
    with quickstart(folder) as first:
        first.until("Ctrl-C ends both")
        assert first.stop(signal.SIGHUP) == 0
    shutil.rmtree(folder / "machine")

    with quickstart(folder) as second:
        assert "hello: succeeded after" in second.until("job ")
        second.until("Ctrl-C ends both")
        ended_by_the_end_of("hub serve", second, folder)


@pytest.mark.torture
def test_a_call_that_was_killed_while_it_made_the_hub_is_completed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "q"
    kill_init(folder / "hub", 16 * 1024)

    with quickstart(folder) as that:
        assert "hello: succeeded after" in that.until("job ")
        assert that.stop() == 0


@pytest.mark.torture
def test_a_machine_that_ends_before_the_first_job_does_or_later_is_said(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "q"
    with quickstart(folder) as cut_short:
        cut_short.until("hub  ")
        cut_short.process.kill()
        kill("hub serve", folder)
    (folder / "machine" / "hello.sh").write_text(
        '#!/bin/sh\nexec tail -f "$PWD/../event.json"\n'
    )
    with quickstart(folder) as that:
        that.until("machine  ready")
        kill("run --config", folder)
        that.rest()
        assert that.process.wait(90) == 69
    # A run outlives its daemon. If it had not begun, it begins with the next one.
    kill("tail -f", folder)
    (folder / "machine" / "hello.sh").write_text("#!/bin/sh\n")
    assert "the machine has ended; see" in that.text

    with quickstart(folder) as later:
        later.until("Ctrl-C ends both")
        ended_by_the_end_of("run --config", later, folder)

    port = int(say_url(folder).rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), quickstart(folder) as refused:
        refused.rest()
        assert refused.process.wait(60) == 69
    assert (
        f"cannot start the hub: cannot listen on 127.0.0.1 port {port}" in refused.text
    )
    assert processes_of(folder) == []


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "q"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with quickstart(folder) as that:
        that.rest()
        assert that.process.wait(60) == 64
    assert "it has other files in it" in that.text
    assert [file.name for file in folder.iterdir()] == ["thesis.tex"]
