"""`dispatchd hub github setup` with a browser on its machine: one redirect counts, and strangers on the port change nothing."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event

import httpx
import pytest
from attrs import define

from support.github import app_key
from support.github_app import APP_ID, CODE, GithubApp, github_app, press
from support.other_user import USER
from support.patience import PATIENCE_S, killed_if_late

CONFIG = """
[github]
public_url = "https://hub.example"
api_url = "URL"
[[github.rules]]
name = "tests"
workflow = "ci"
repositories = ["octo/hello"]
events = ["pull_request", "push"]
"""


@define
class Setup:
    """A running call: the address of its page, and of its redirect."""

    process: subprocess.Popen[str]
    page_url: str

    @property
    def url(self) -> str:
        return self.page_url.rpartition("/")[0]

    def redirect(self, **query: str) -> int:
        return httpx.get(f"{self.url}/", params=query, trust_env=False).status_code

    def ends(self) -> tuple[int, str]:
        """Return the exit code, and what was printed."""
        said, complained = self.process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in said + complained
        return self.process.returncode, said + complained


@pytest.fixture
def github() -> Iterator[GithubApp]:
    with github_app(app_key()) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, github: GithubApp) -> Path:
    (tmp_path / "hub.toml").write_text(CONFIG.replace("URL", github.url))
    return tmp_path


@contextmanager
def setup(folder: Path, *options: str) -> Iterator[Setup]:
    unset = {"DISPATCHD_HUB_CONFIG", "DISPATCHD_CONFIG"}
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "dispatchd", "hub", "github", "setup", *options],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in unset},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            with killed_if_late(process):
                lines = iter(process.stdout.readline, "")
                found = [
                    re.fullmatch(r"  (http://127\S+)\n", line)
                    for line in lines_to(lines)
                ]
                yield Setup(process, next(each[1] for each in found if each))
        finally:
            process.kill()


def lines_to(lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines up to the last one before the wait."""
    for line in lines:
        yield line
        if line.startswith("For a browser on another machine"):
            return


def first_line(browser: socket.socket) -> str:
    """Return the first line of an answer; empty if the port was closed before."""
    with suppress(ConnectionError):
        return browser.makefile("rb").readline().decode().strip()
    return ""


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def state_of(that: Setup) -> str:
    page = httpx.get(that.page_url, trust_env=False).text
    [state] = re.findall(r"\?state=([\w-]+)", page)
    return str(state)


def test_a_browser_makes_the_app_and_it_is_checked(
    folder: Path, github: GithubApp
) -> None:
    with setup(folder, "--organization", "octo") as that:
        page = press(that.page_url)
        code, said = that.ends()

    assert code == 0, said
    assert page.status_code == 200
    assert "You can close this window" in page.text
    assert page.headers["cache-control"] == "no-store"
    assert github.manifest["name"] == "dispatchd-octo"
    assert github.requests[0][1] == "/organizations/octo/settings/apps/new"
    assert "GitHub has made the App dispatchd-octo." in said
    assert f"ok      app           dispatchd-octo ({APP_ID})" in said
    assert CODE not in said
    drop_in = folder / "hub.toml.d" / "50-github-app.toml"
    assert f"app_id = {APP_ID}\n" in drop_in.read_text()
    assert (folder / "github-app.pem").read_text().strip() == github.key.strip()


def test_strangers_on_the_port_change_nothing(folder: Path, github: GithubApp) -> None:
    with setup(folder) as that, ExitStack() as silent:
        port = int(that.url.rpartition(":")[2])
        for _ in range(50):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"\x16\x03\x01\x00" + b"A" * 70_000 + b"\n")
        state = state_of(that)
        refused = [
            that.redirect(code="stranger", state="wrong"),
            that.redirect(code="stranger", state=""),
            that.redirect(code="stranger"),
            that.redirect(code="stranger", state=state + "x"),
            that.redirect(state=state),
            that.redirect(code="a b/../c", state=state),
            httpx.get(f"{that.url}/?code=stranger&code=x&state={state}").status_code,
            httpx.get(f"{that.url}/other?code=stranger&state={state}").status_code,
            httpx.get(that.url).status_code,
        ]
        posted = httpx.post(f"{that.url}/?code=stranger&state={state}").status_code
        assert github.requests == []
        press(that.page_url)
        code, said = that.ends()

    assert refused == [404] * len(refused)
    assert posted == 501
    assert code == 0, said


def test_of_many_redirects_at_once_one_counts(folder: Path, github: GithubApp) -> None:
    github.codes = {CODE}
    with setup(folder) as that:
        port, state = int(that.url.rpartition(":")[2]), state_of(that)
        request = f"GET /?code={CODE}&state={state} HTTP/1.0\r\n\r\n".encode()
        with ExitStack() as opened:
            browsers = [
                opened.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(8)
            ]
            for browser in browsers:
                browser.sendall(request)
            replies = [first_line(browser) for browser in browsers]
        code, said = that.ends()

    assert code == 0, said
    assert replies.count("HTTP/1.0 200 OK") == 1, replies
    conversions = [path for _, path, _ in github.requests if "conversions" in path]
    assert len(conversions) == 1


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (
            (404, '{"message": "Not Found"}'),
            os.EX_USAGE,
            "it counts once, and for an hour",
        ),
        ((503, "{}"), os.EX_UNAVAILABLE, "The code is good for an hour: --code"),
    ],
)
def test_a_code_that_github_refuses_leaves_nothing(
    folder: Path, github: GithubApp, fault: tuple[int, str], code: int, words: str
) -> None:
    path = f"/app-manifests/{CODE}/conversions"
    github.faults[path] = fault
    with setup(folder) as that:
        press(that.page_url)
        ended, said = that.ends()

    assert ended == code
    assert words in said
    assert names(folder) == {"hub.toml"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_waits_leaves_nothing(
    folder: Path, github: GithubApp, number: signal.Signals
) -> None:
    with setup(folder) as that:
        that.process.send_signal(number)
        code, said = that.ends()

    assert code == 128 + number, said
    assert names(folder) == {"hub.toml"}
    assert github.requests == []


def test_a_signal_while_github_is_asked_leaves_nothing(
    folder: Path, github: GithubApp
) -> None:
    github.gate = Event()
    with setup(folder) as that:
        press(that.page_url)
        assert github.asked.wait(PATIENCE_S)
        during = names(folder)
        that.process.send_signal(signal.SIGTERM)
        code, said = that.ends()
        github.gate.set()

    assert "github-app.pem" in during
    assert code == 128 + signal.SIGTERM, said
    assert names(folder) == {"hub.toml"}


def test_nobody_at_the_browser_is_one_line(folder: Path) -> None:
    with setup(folder, "--timeout", "1s") as that:
        code, said = that.ends()

    assert code == os.EX_UNAVAILABLE
    [line] = said.splitlines()
    assert line.endswith("no browser came back from GitHub within 1 s; call this again")
    assert names(folder) == {"hub.toml"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act for another user")
def test_what_root_makes_is_the_hubs_own(folder: Path) -> None:
    for path in (folder, folder / "hub.toml"):
        os.chown(path, USER, USER)
    for path in (folder, *folder.parents):
        if path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)

    with setup(folder) as that:
        press(that.page_url)
        code, said = that.ends()

    assert code == 0, said
    made = [
        *folder.glob("github-*"),
        *folder.glob("hub.toml.d/*"),
        folder / "hub.toml.d",
    ]
    assert len(made) == 5
    assert {path.stat().st_uid for path in made} == {USER}
