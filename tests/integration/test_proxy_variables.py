"""One reading of the proxy's variables, for all that goes out."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from anyio import to_thread

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.config.load import FILE
from dispatchd.hub.github.api.transport import Call, transport
from dispatchd.hub.init import init
from dispatchd.network.proxies import environment_proxy
from dispatchd.redaction.known_secrets import KnownSecrets
from support.certificates import Authority, server_context
from support.cli import Done, command
from support.git_server import git_server
from support.hub import Hub
from support.proxy import proxy
from support.torture import few

CLEAN = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"))
"""No variable of whoever runs the tests."""

SOCKS = {"ALL_PROXY": "socks5://127.0.0.1:1080"}


async def jobs(server: Hub, env: Mapping[str, str], *more: str) -> Done:
    return await command(
        "hub", "jobs", "--json", *more, cwd=server.folder, env={**CLEAN, **env}
    )


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_token_for_the_hub_on_this_machine_goes_to_no_proxy(
    server: Hub, variable: str
) -> None:
    async with proxy() as there:
        done = await jobs(server, {variable: there.url})

    assert (done.returncode, there.requests) == (0, []), done.stderr


@pytest.mark.parametrize(
    "env",
    [
        SOCKS,
        {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "localhost,127.0.0.1,[::1]"},
        {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "fd00::/8,:::,[::1]:8080"},
        {"http_proxy": "not a url at all"},
        {"HTTPS_PROXY": "http://127.0.0.1:99999"},
    ],
)
async def test_variables_for_others_do_not_concern_the_hub_on_this_machine(
    server: Hub, env: Mapping[str, str]
) -> None:
    done = await jobs(server, env)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ALL_PROXY", "socks5://user:hunter2@127.0.0.1:1080"),
        ("HTTPS_PROXY", "http://user:hunter2@"),
        ("https_proxy", "http://127.0.0.1:hunter2"),
        ("https_proxy", "http://user:hunter2@proxy..example:3128"),
        ("https_proxy", f"http://user:hunter2@{'p' * 64}.example:3128"),
    ],
)
async def test_a_variable_of_no_use_is_named_in_one_line(
    server: Hub, variable: str, text: str
) -> None:
    url = ("--url", "https://hub.example.org")
    done = await jobs(server, {variable: text}, *url)

    [line] = done.stderr.splitlines()
    assert (done.returncode, variable in line) == (os.EX_CONFIG, True)
    assert "hunter2" not in line


async def test_a_hub_in_clear_on_another_machine_gets_its_token_from_nobody_else(
    server: Hub,
) -> None:
    async with proxy() as there:
        url = ("--url", f"http://hub.corp.example:{server.port}")
        done = await jobs(server, {"HTTP_PROXY": there.url}, *url)

    assert (done.returncode, there.requests) == (os.EX_UNAVAILABLE, [])


async def ask_github(
    url: str, env: Mapping[str, str], ca_file: Path | None = None
) -> None:
    settings = GithubSettings(api_url=url, ca_file=ca_file)
    async with transport(
        settings, now=time.time, known=KnownSecrets(), environment=env
    ) as way:
        await way.send(Call(name="ask", path="meta"), "")


async def test_github_is_reached_through_the_proxy_but_for_what_no_proxy_names(
    tmp_path: Path,
) -> None:
    with git_server(tmp_path) as github:
        github.status = 200
        url = f"http://github.corp.example:{github.port}"
        async with proxy(credentials="me:pass") as there:
            env = {"http_proxy": there.url.replace("//", "//me:pass@")}
            await ask_github(url, env)

    assert [each.credentials for each in there.requests] == ["me:pass"]
    assert environment_proxy(httpx.URL(url), {**env, "NO_PROXY": "[::1]"}) is not None
    for host in ("10.20.30.40", "[fd00::1]", "127.0.0.1", "a.corp"):
        address = httpx.URL(f"https://{host}/api/v3")
        given = {"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8,fd00::/8,.corp"}
        assert environment_proxy(address, given) is None


async def test_a_ca_of_ones_own_counts_beside_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, own = Authority(tmp_path / "system"), Authority(tmp_path / "own", "Own")
    monkeypatch.setenv("SSL_CERT_FILE", str(system.file))
    for authority in (system, own):
        context = server_context(authority.issue("127.0.0.1"))
        with git_server(tmp_path / "served", tls=context) as server:
            server.status = 200
            url = server.url.replace("http:", "https:")
            await ask_github(url, {}, ca_file=own.file)


@pytest.mark.parametrize(
    "env", few([SOCKS, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "[::1]"}], 1)
)
async def test_the_hub_starts_or_names_the_variable(
    tmp_path: Path, env: dict[str, str]
) -> None:
    init(
        tmp_path / "hub",
        listen="127.0.0.1:0",
        database_url="sqlite:///hub.db",
        license_id="lic-test",
    )
    for name in ("token", "hook"):
        (tmp_path / "hub" / name).write_text("x" * 20)
    with (tmp_path / "hub" / FILE).open("a") as file:
        file.write('[github]\ntoken_file = "token"\nwebhook_secret_files = ["hook"]\n')
    process = await to_thread.run_sync(lambda: start(tmp_path / "hub" / FILE, env))
    first = process.stdout.readline() if process.stdout else ""
    if env is not SOCKS:
        process.terminate()
    _, said = await to_thread.run_sync(process.communicate)

    if env is SOCKS:
        assert process.returncode == os.EX_CONFIG, said
        assert said.splitlines()[-1].startswith("dispatchd: the environment: ALL_PROXY")
        assert "Traceback" not in said
    else:
        assert first.startswith("hub ready"), said


def start(config: Path, env: Mapping[str, str]) -> "subprocess.Popen[str]":
    clean = {name: text for name, text in os.environ.items() if name not in CLEAN}
    return subprocess.Popen(
        [sys.executable, "-m", "dispatchd", "hub", "serve", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, **env},
    )
