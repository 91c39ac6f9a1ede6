"""Every command in surroundings where much goes wrong: no traceback, and a table goes on where a row can't be shown.

Which commands there are comes from the command line itself.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import click
import pytest
from anyio import to_thread
from attrs import define, field, frozen

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.store.jobs import JobStore
from dispatchd.cli.main import cli, main
from dispatchd.protocol.job import Job
from support.cli import Done, command, dispatchd, dispatchd_process
from support.daemon import write_config
from support.hub import HubHere, hub
from support.logs import own_log
from support.records import NOW
from support.torture import few

ROCKET, HALF = "déploy-🚀", "half-\ud83d"
NOWHERE: Final = "http://127.0.0.1:9"

UNTIL_A_SIGNAL: Final = {"run", "demo", "quickstart", "hub serve", "hub watch"}
"""Commands that serve or follow; their log has a test of its own."""

ARGUMENTS: Final = {
    "job": [HALF],
    "file": ["job.json"],
    "files": [],
    "folder": ["new-hub"],
    "name": ["some"],
    "delivery": ["some"],
    "guids": ["some"],
    "shell": ["bash"],
    "workflow": ["docs"],
    "url": [NOWHERE],
    "key": ["dhub1.wrong"],
}
OPTIONS: Final = {
    "license issue": ["--key-file", "/dev/null"],
    "conformance": ["--key-file", "/dev/null", "--submit-command", "false"],
    "block": ["--reason", "x"],
    "hub resolve": ["--retry"],
    "hub token add": ["--scope", "read"],
    "service install": ["--dry-run", "--program", "/usr/bin/dispatchd"],
    "service uninstall": ["--dry-run"],
}


def commands() -> dict[str, click.Command]:
    """Return every command that ends by itself, by its words."""
    context, found = click.Context(cli), {}
    pending: list[tuple[tuple[str, ...], click.Command]] = [((), cli)]
    while pending:
        words, each = pending.pop()
        if isinstance(each, click.Group):
            names = [(*words, name) for name in each.list_commands(context)]
            below = [(name, each.get_command(context, name[-1])) for name in names]
            pending += [(name, sub) for name, sub in below if sub is not None]
        else:
            found[" ".join(words)] = each
    return {words: found[words] for words in sorted(set(found) - UNTIL_A_SIGNAL)}


COMMANDS: Final = commands()


@define
class Screen:
    """A stdout or stderr of some encoding that is kept, or of a device."""

    encoding: str = "utf-8"
    device: str = ""
    file: io.TextIOWrapper = field(init=False)
    _bytes: io.BytesIO = field(factory=io.BytesIO, init=False)

    def __attrs_post_init__(self) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC
        device = os.open(self.device, flags) if self.device else None
        under = self._bytes if device is None else os.fdopen(device, "wb")
        self.file = io.TextIOWrapper(under, encoding=self.encoding)

    @property
    def text(self) -> str:
        self.file.flush()
        # click takes ASCII for a mistake, and writes UTF-8.
        encoding = "utf-8" if self.encoding == "ascii" else self.encoding
        return self._bytes.getvalue().decode(encoding)

    def close(self) -> None:
        with suppress(OSError):
            self.file.close()


@frozen
class Place:
    """A machine and a hub that have jobs whose names no terminal of old can show."""

    folder: Path
    config: Path
    hub: HubHere

    def words(self, name: str, each: click.Command) -> list[str]:
        """Return a command line that could do something."""
        arguments = [
            word
            for param in each.params
            if isinstance(param, click.Argument)
            for word in ARGUMENTS[str(param.name)]
        ]
        arguments = [
            str(self.folder / word) if word in {"job.json", "new-hub"} else word
            for word in arguments
        ]
        file = self.hub.folder / "hub.toml" if name.startswith("hub") else self.config
        takes_file = any(param.name == "config_file" for param in each.params)
        config = ["--config", str(file)] if takes_file else []
        return [*name.split(), *config, *OPTIONS.get(name, []), "--", *arguments]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    config = write_config(tmp_path / "machine", NOWHERE, {"it": ["/bin/true"]})
    store, _ = JobStore.open(tmp_path / "machine" / "state")
    for job_id in (HALF, "aa", ROCKET):
        job = Job(id=job_id, workflow=ROCKET)
        store.put(TrackedJob.received(job, now=NOW))
    store.close()
    (tmp_path / "job.json").write_text(json.dumps({"dag_name": ROCKET}))
    async with hub(tmp_path / "hub") as server:
        await server.submit({"dag_name": ROCKET})
        await server.submit({"dag_name": "last"})
        yield Place(tmp_path, config, server)


@contextmanager
def surrounded(out: Screen, err: Screen) -> Iterator[None]:
    before = sys.stdout, sys.stderr, sys.stdin, Path.cwd()
    sys.stdout, sys.stderr, sys.stdin = out.file, err.file, io.StringIO()
    try:
        with own_log():
            yield
    finally:
        sys.stdout, sys.stderr, sys.stdin, cwd = before
        os.chdir(cwd)


def run(words: list[str], out: Screen, err: Screen, cwd: str = "/") -> int:
    """Run a command in this process, and return its exit code; anything else that it raises fails the test."""
    with surrounded(out, err):
        os.chdir(cwd)
        if cwd != "/":
            Path(cwd).rmdir()
        with pytest.raises(SystemExit) as stop:
            main(words)
    code = stop.value.code
    assert isinstance(code, int), words
    return code


@pytest.mark.parametrize("encoding", few(["ascii", "latin-1"], 1))
async def test_each_command_shows_what_its_terminal_can(
    place: Place, encoding: str
) -> None:
    for name, each in COMMANDS.items():
        out, err = Screen(encoding), Screen(encoding)
        words = place.words(name, each)

        code = await to_thread.run_sync(run, words, out, err)

        assert code in {0, 1, 2, 64, 66, 69, 73, 74, 77, 78}, (words, err.text)
        assert "Traceback" not in err.text, words
        assert len(err.text.splitlines()) <= 3, (words, err.text)


async def test_each_command_says_in_one_line_that_its_output_has_no_room(
    place: Place,
) -> None:
    for name, each in COMMANDS.items():
        out, err = Screen(device="/dev/full"), Screen()
        words = place.words(name, each)

        code = await to_thread.run_sync(run, words, out, err)

        out.close()
        assert code > 0 or not err.text, words
        assert "Traceback" not in err.text, words
        assert len(err.text.splitlines()) <= 3, (words, err.text)
        if name in {"jobs", "hub jobs", "show", "completion"}:
            wanted = "dispatchd: cannot write the output: No space left on device"
            assert err.text.splitlines()[-1] == wanted, words
            assert code == os.EX_IOERR


async def test_each_command_works_or_says_why_where_its_folder_is_gone(
    place: Place,
) -> None:
    for name, each in COMMANDS.items():
        out, err = Screen(), Screen()
        (place.folder / "gone").mkdir()
        words = place.words(name, each)

        code = await to_thread.run_sync(
            run, words, out, err, str(place.folder / "gone")
        )

        assert "Traceback" not in err.text, words
        assert "current folder" not in err.text, (words, err.text)
        if name in {"jobs", "show", "hub jobs", "hub machines", "config check"}:
            assert code == 0, (words, err.text)


def test_a_command_that_needs_its_folder_says_that_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    out, err = Screen(), Screen()

    code = run(["hub", "jobs"], out, err, str(tmp_path / "gone"))

    assert code == os.EX_NOINPUT
    assert err.text == (
        "dispatchd: the current folder has been deleted: change to another one (cd)\n"
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", ["half-\\ud83d", "aa", ROCKET]),
        ("latin-1", ["half-\\ud83d", "aa", "déploy-\\U0001f680"]),
    ],
)
async def test_a_table_goes_on_behind_what_cannot_be_shown(
    place: Place, encoding: str, shown: list[str]
) -> None:
    out, err = Screen(encoding), Screen(encoding)

    code = await to_thread.run_sync(
        run, ["jobs", "--config", str(place.config)], out, err
    )

    assert code == 0, err.text
    lines = out.text.splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == sorted(shown)


async def test_the_hubs_table_goes_on_behind_what_cannot_be_shown(place: Place) -> None:
    out, err = Screen("latin-1"), Screen("latin-1")
    config = str(place.hub.folder / "hub.toml")

    code = await to_thread.run_sync(run, ["hub", "jobs", "--config", config], out, err)

    assert code == 0, err.text
    assert "déploy-\\U0001f680" in out.text
    assert "last" in out.text


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
async def test_json_stays_json_on_each_terminal(place: Place, encoding: str) -> None:
    out, err = Screen(encoding), Screen(encoding)

    await to_thread.run_sync(
        run, ["jobs", "--json", "--config", str(place.config)], out, err
    )

    assert {each["job"]["id"] for each in json.loads(out.text)} == {HALF, "aa", ROCKET}


async def test_what_cannot_be_taken_is_the_hubs_to_say(place: Place) -> None:
    (place.folder / "job.json").write_text(json.dumps({"id": HALF, "dag_name": "it"}))
    config = str(place.hub.folder / "hub.toml")

    said = await command(
        "hub", "submit", str(place.folder / "job.json"), "--config", config
    )

    assert "no hub answers" not in said.stderr
    assert said.returncode in {0, os.EX_USAGE}


@pytest.mark.parametrize(
    "words", [[], ["config"], ["hub"], ["hub", "machine"], ["hub", "github"]], ids=str
)
def test_a_bare_group_prints_its_help(words: list[str]) -> None:
    said = dispatchd(*words)

    assert said.returncode == 0
    assert said.stdout.startswith("Usage: dispatchd")
    assert "\n\nOptions:\n" in said.stdout
    assert said.stdout.count(":\n  ") >= 2
    assert said.stderr == ""


@pytest.mark.parametrize("words", [["jobs"], ["status"]], ids=str)
def test_a_broken_file_keeps_nobody_from_asking(
    tmp_path: Path, words: list[str]
) -> None:
    config = write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})
    store, _ = JobStore.open(tmp_path / "state")
    store.put(TrackedJob.received(Job(id="job-1", workflow="it"), now=NOW))
    store.close()
    with config.open("a") as file:
        file.write("\n[workflows.next\ncommand = \n")

    said = dispatchd(*words, "--config", str(config))

    assert "job-1" in said.stdout or "1 pending_accept" in said.stdout
    assert "must be TOML" in said.stderr.splitlines()[0]
    assert said.returncode == (0 if words == ["jobs"] else os.EX_UNAVAILABLE)


@pytest.mark.parametrize(
    "text", ["[cloud\n", '[cloud]\nurl = "http://127.0.0.1:9"\n'], ids=["toml", "keys"]
)
def test_a_refusal_of_the_configuration_is_json_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)

    said = dispatchd(
        "config", "check", "--json", "--config", str(tmp_path / "config.toml")
    )

    assert said.returncode == os.EX_CONFIG
    found = json.loads(said.stdout)
    assert found["problems"]
    for problem in found["problems"]:
        assert problem["file"] == str(tmp_path / "config.toml")
        assert problem["expected"]


NO_TOML = {
    "digits": "x = " + "9" * 5_000,
    "lists": "x = " + "[" * 5_000 + "]" * 5_000,
    "tables": "x = " + "{a=" * 5_000 + "1" + "}" * 5_000,
}


@pytest.mark.parametrize("text", NO_TOML.values(), ids=NO_TOML.keys())
def test_a_text_that_the_parser_gives_up_is_a_mistake_in_it(
    tmp_path: Path, text: str
) -> None:
    config = write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})
    hub_config = tmp_path / "hub.toml"
    for file in (config, hub_config):
        with file.open("a") as opened:
            opened.write(f"\n{text}\n")

    checked = dispatchd("config", "check", "--config", str(config))
    hub = dispatchd("hub", "serve", "--config", str(hub_config))
    status = dispatchd("status", "--config", str(config))

    for said in (checked, hub):
        assert said.returncode == os.EX_CONFIG
        assert said.stderr.count("\n") == 1
        assert "must be TOML" in said.stderr
    assert status.returncode == os.EX_UNAVAILABLE
    assert "Traceback" not in status.stderr


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('[metrics]\nlisten = "127.0.0.1:99999"', "metrics.listen"),
        ('[metrics]\nlisten = "[::1]:65536"', "metrics.listen"),
        ('[telemetry]\notlp_url = "http://[::1"', "telemetry.otlp_url"),
        ('[telemetry]\notlp_url = "http://h:port/"', "telemetry.otlp_url"),
        ('[telemetry]\notlp_url = "http://h:99999/"', "telemetry.otlp_url"),
    ],
)
def test_an_address_that_cannot_be_used_is_a_mistake_with_its_key(
    tmp_path: Path, table: str, key: str
) -> None:
    config = write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})
    with config.open("a") as file:
        file.write(f"\n{table}\n")

    for words in (("config", "check"), ("run",)):
        said = dispatchd(*words, "--config", str(config))
        assert said.returncode == os.EX_CONFIG
        assert said.stderr.count("\n") == 1
        assert f": {key}: must " in said.stderr


def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    config = write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())

    assert dispatchd("config", "check", "--config", str(config)).returncode == 0


async def test_a_prune_of_everything_asks(place: Place) -> None:
    words = ["hub", "prune", "--config", str(place.hub.folder / "hub.toml")]

    asked = await command(*words, "--days", "0")
    agreed = await command(*words, "--days", "0", "--yes")
    some = await command(*words, "--days", "1")

    assert asked.returncode == os.EX_USAGE
    assert asked.stderr == (
        "dispatchd: cannot prune everything: nobody can be asked; say --yes\n"
    )
    assert [agreed.returncode, some.returncode] == [0, 0]


@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- 2>&-", "2>/dev/full"])
def test_a_closed_stream_is_no_reason_to_fail(tmp_path: Path, closed: str) -> None:
    config = write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})
    JobStore.open(tmp_path / "state")[0].close()

    done = _shell(f'"{sys.executable}" -m dispatchd jobs --config "{config}" {closed}')

    assert done.returncode == 0
    assert done.stderr == ""


def _shell(line: str) -> Done:
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60
    )


def test_an_argument_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, NOWHERE, {"it": ["/bin/true"]})
    JobStore.open(tmp_path / "state")[0].close()

    said = dispatchd_process("show", "\udcff", "--config", str(config))

    assert said.returncode == os.EX_USAGE
    assert len(said.stderr.splitlines()) == 1
