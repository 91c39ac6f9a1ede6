"""Git reaches repositories by the way that the daemon has: proxy, exceptions, CAs, client certificate."""

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from attrs import define, field

from dispatchd.agent.domain.launch import Checkout
from dispatchd.agent.engines.local.checkout import check_out, try_way
from dispatchd.agent.engines.local.git_way import GitWay
from dispatchd.errors import WorkspaceFailed
from support.certificates import Authority, server_context
from support.cli import command
from support.daemon import running_daemon, write_config
from support.endpoint import Endpoint, endpoint
from support.git_server import GitServer, git_server
from support.proxy import Proxy, proxy

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
    assert {each.target.split("/")[2] for each in way.requests} == {
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


@define
class Renewable:
    """What a machine's git needs to reach a server by TLS and a proxy: all of it is replaced at once."""

    folder: Path
    proxy: Proxy
    context: ssl.SSLContext = field(
        factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    )
    """The git server's: a client meets the newest certificate, and shows one of the newest authority."""
    rounds: int = 0

    def replace(self) -> None:
        """Issue all anew, and put the machine's files in place, as a tool that renews them does."""
        self.rounds += 1
        servers = Authority(self.folder / f"servers-{self.rounds}")
        machines = Authority(self.folder / f"machines-{self.rounds}")
        newest = server_context(servers.issue(HOST), clients=machines)
        self.context.verify_mode = newest.verify_mode
        self.context.sni_callback = lambda connection, *_: setattr(
            connection, "context", newest
        )
        self.proxy.credentials = f"robot:{self.rounds}"
        self._put("ca.pem", servers.pem)
        self._put("machine.pem", machines.issue(name="machine").read_bytes())
        self._put("login", self.proxy.credentials.encode())

    def _put(self, name: str, content: bytes) -> None:
        aside = self.folder / "aside"
        aside.write_bytes(content)
        aside.replace(self.folder / name)


@pytest.fixture
async def renewable(tmp_path: Path) -> AsyncIterator[tuple[Renewable, Endpoint, Path]]:
    """What can be replaced, the endpoint, and the configuration of the machine."""
    async with endpoint() as hub, proxy() as there:
        way = Renewable(tmp_path, there)
        way.replace()
        with git_server(tmp_path / "served", tls=way.context) as server:
            server.create("o/r")
            url = f"https://{HOST}:{server.port}"
            config = write_config(
                tmp_path,
                hub.url,
                {"build": ["/bin/ls"]},
                cloud='client_cert_file = "machine.pem"',
                limits=f'checkout = true\ncheckout_url = "{url}"',
            )
            with config.open("a") as file:
                file.write(
                    f'[checkout]\nca_file = "ca.pem"\nproxy = "{there.url}"\n'
                    'proxy_credentials_file = "login"\n'
                )
            yield way, hub, config


async def test_each_checkout_reads_anew_what_its_way_needs(
    renewable: tuple[Renewable, Endpoint, Path],
) -> None:
    way, hub, config = renewable
    async with running_daemon(config):
        for job_id in ("first", "second"):
            hub.hand_out({"id": job_id, "dag_name": "build", "repository_name": "o/r"})
            (finished,) = await hub.until_finished(job_id)
            assert finished["result_status"] == "succeeded", finished
            way.replace()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("ca.pem", "certificate"), ("machine.pem", ""), ("login", "407")],
)
async def test_the_doctor_goes_the_way_of_a_checkout(
    renewable: tuple[Renewable, Endpoint, Path], name: str, complaint: str
) -> None:
    way, _, config = renewable
    old = (way.folder / name).read_bytes()

    async def said() -> str:
        done = await command("doctor", "--config", str(config))
        return next(
            line for line in done.stdout.splitlines() if line.split()[1] == "checkout"
        )

    assert f"git reaches https://{HOST}" in await said()
    way.replace()
    assert f"git reaches https://{HOST}" in await said()
    (way.folder / name).write_bytes(old)
    refused = await said()
    assert f"git doesn't reach https://{HOST}" in refused
    assert complaint in refused
    assert "robot:" not in refused


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
