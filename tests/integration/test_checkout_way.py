"""Git reaches repositories by the way that the daemon has: proxy, exceptions, CAs, client certificate."""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchd.agent.domain.launch import Checkout
from dispatchd.agent.engine.local.checkout import check_out, try_way
from dispatchd.agent.engine.local.git_way import GitWay
from dispatchd.errors import WorkspaceFailed
from support.certificates import Authority, server_context
from support.daemon import running_daemon, write_config
from support.endpoint import endpoint
from support.git_server import GitServer, git_server
from support.proxy import proxy

HOST = "git.corp.example"
LOGIN = ("robot", "p@ss:w/rd-0815")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "served") as found:
        found.create("o/r")
        yield found


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "proxy-login"
    file.write_text(":".join(LOGIN) + "\n")
    return file


async def clone(tmp_path: Path, url: str, way: GitWay) -> str:
    scratch = tmp_path / "run" / "attempt-1"
    scratch.mkdir(mode=0o700, parents=True)
    workspace = tmp_path / "run" / "workspace"
    checkout = Checkout(url=f"{url}/o/r.git", timeout_s=20)
    env = {"PATH": os.environ["PATH"]}
    await check_out(checkout, workspace, token=None, env=env, scratch=scratch, way=way)
    return (workspace / "README.md").read_text()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_a_checkout_goes_through_the_proxy_of_the_daemon(
    tmp_path: Path, server: GitServer, variable: str
) -> None:
    async with endpoint() as hub, proxy() as way:
        config = write_config(
            tmp_path,
            hub.url,
            {"build": ["/bin/ls"]},
            limits=f'checkout = true\ncheckout_url = "http://{HOST}:{server.port}"',
        )
        async with running_daemon(config, env={variable: way.url}):
            hub.hand_out({"id": "j", "dag_name": "build", "repository_name": "o/r"})
            finished = (await hub.until_finished("j"))[0]

    assert finished["result_status"] == "succeeded", finished
    assert "README.md" in finished["result_output"]
    assert {each.target.split("/")[2] for each in way.asked} == {
        f"{HOST}:{server.port}"
    }


@pytest.mark.parametrize("where", ["checkout", "cloud", "variable"])
async def test_a_proxy_gets_its_credentials_and_nobody_sees_them(
    tmp_path: Path, server: GitServer, credentials: Path, where: str
) -> None:
    seen: list[bytes] = []

    def look() -> None:
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(each.read_bytes())
            except OSError:
                continue

    server.at_request = look
    async with proxy(credentials=":".join(LOGIN)) as there:
        way = {
            "checkout": GitWay(
                proxy=there.url,
                proxy_credentials_file=credentials,
                environment={"NO_PROXY": "*"},
            ),
            "cloud": GitWay(cloud_proxy=there.url, cloud_credentials_file=credentials),
            "variable": GitWay(
                environment={
                    "http_proxy": f"http://robot:p%40ss:w%2Frd-0815@127.0.0.1:{there.port}"
                }
            ),
        }[where]
        text = await clone(tmp_path, f"http://{HOST}:{server.port}", way)

    assert text == "version 3\n"
    assert any(b"ls-remote" in each or b"fetch" in each for each in seen)
    assert not [each for each in seen if b"0815" in each]


async def test_a_proxy_that_refuses_is_named_without_its_credentials(
    tmp_path: Path, server: GitServer, credentials: Path
) -> None:
    async with proxy(credentials="others:only") as there:
        way = GitWay(proxy=there.url, proxy_credentials_file=credentials)
        with pytest.raises(WorkspaceFailed, match="407") as caught:
            await clone(tmp_path, f"http://{HOST}:{server.port}", way)

    assert "0815" not in str(caught.value)


@pytest.mark.parametrize(
    ("way", "url"),
    [
        (GitWay(proxy="none", environment={"http_proxy": "http://127.0.0.1:1"}), ""),
        (
            GitWay(
                cloud_proxy="http://127.0.0.1:1", environment={"NO_PROXY": "corp.test"}
            ),
            "http://git.corp.test/o/r",
        ),
        (
            GitWay(
                environment={"ALL_PROXY": "http://p:1", "no_proxy": "10.0.0.0/8,[::1]"}
            ),
            "http://10.1.2.3/o/r",
        ),
        (GitWay(cloud_proxy="http://127.0.0.1:1"), "http://[::1]/o/r"),
    ],
)
def test_some_ways_have_no_proxy(way: GitWay, url: str) -> None:
    assert way.used_proxy(url or f"http://{HOST}/o/r") is None


async def test_an_authority_of_ones_own_counts_beside_the_systems(
    tmp_path: Path,
) -> None:
    authority, machine = Authority(tmp_path / "ca"), Authority(tmp_path / "machines")
    context = server_context(authority.issue("127.0.0.1"))
    context.load_verify_locations(cafile=machine.file)
    context.verify_mode = ssl.CERT_REQUIRED
    way = GitWay(ca_file=authority.file, client_cert_file=machine.issue(name="machine"))
    with git_server(tmp_path / "served", tls=context) as server:
        server.create("o/r")
        url = server.url.replace("http:", "https:")
        text = await clone(tmp_path, url, way)
        scratch = tmp_path / "run" / "attempt-1"
        settings = way.settings(url, scratch).settings
        bundle = Path(settings["http.sslCAInfo"]).read_text()

    assert text == "version 3\n"
    assert authority.file.read_text().strip() in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 1


async def test_the_doctor_tries_the_way(tmp_path: Path, server: GitServer) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    url, env = f"http://{HOST}:{server.port}", {"PATH": os.environ["PATH"]}

    async def tried(way: GitWay) -> str:
        return await try_way(url, way, env=env, scratch=scratch, within_s=20)

    async with proxy() as there:
        assert await tried(GitWay(proxy=there.url)) == ""
        server.status = 403
        assert await tried(GitWay(proxy=there.url)) == ""
    async with proxy(refuse_with="503 No") as there:
        assert "503" in await tried(GitWay(proxy=there.url))
    assert "resolve" in await tried(GitWay())
