"""`dispatchd join`: one key by which hub and machine know each other, and a man in the middle gets nothing."""

import os
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread
from anyio.abc import ByteStream
from attrs import define, field
from typing_extensions import override

from support.certificates import (
    Authority,
    TlsEndpoint,
    self_signed,
    server_context,
    tls_endpoint,
)
from support.cli import Done, command, dispatchd_process
from support.daemon import running_daemon
from support.endpoint import endpoint
from support.hub import Hub, HubHere, hub
from support.hub_process import hub as hub_process
from support.proxy import proxy
from support.servers import tcp_server

MINE = """
# mine
[store]
folder = "state"
min_free_mib = 0
[log]
format = "json"
[workflows.it]
command = ["/bin/true"]
"""
TLS = 'tls_cert_file = "tls.pem"'


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "machine"
    folder.mkdir()
    file = folder / "config.toml"
    file.write_text(MINE)
    return file


async def key_of(http: httpx.AsyncClient, name: str = "build-1") -> str:
    reply = await http.post("/api/v1/machines", json={"name": name})
    assert reply.status_code == 201, reply.text
    key: str = reply.json()["join_key"]
    return key


async def join(config: Path, url: str, key: str, **more: Any) -> Done:
    return await command("join", url, key, "--config", str(config), **more)


def beside(config: Path) -> dict[str, str]:
    folder = config.with_name("config.toml.d")
    return {file.name: file.read_text() for file in folder.glob("*")}


async def test_a_machine_joins_by_one_key_and_works(server: Hub, mine: Path) -> None:
    key = await key_of(server.http)

    done = await join(mine, server.url, key)

    assert done.returncode == 0, done.stderr
    assert f"joined {server.url}: license lic-test" in done.stdout
    assert f"wrote     {mine.parent}/config.toml.d/50-join.toml" in done.stdout
    assert mine.read_text() == MINE
    [text] = beside(mine).values()
    assert key.rpartition(".")[2] not in text
    assert "ca_file" not in text
    async with running_daemon(mine):
        await server.submit({"id": "j", "dag_name": "it"})
        assert (await server.result("j"))["state"] == "succeeded"
    shown = await command("config", "check", "--config", str(mine))
    assert shown.returncode == 0, shown.stderr


async def test_a_machine_without_a_configuration_gets_a_first_one(
    server: Hub, tmp_path: Path
) -> None:
    config = tmp_path / "new" / "config.toml"
    env = {"XDG_STATE_HOME": str(tmp_path)}

    done = await join(config, server.url, await key_of(server.http), env=env)

    assert done.returncode == 0, done.stderr
    assert f"wrote     {config}" in done.stdout
    assert "[workflows.hello]" in config.read_text()
    assert (tmp_path / "dispatchd" / "activation.json").exists()


async def test_a_key_comes_from_a_pipe_too(server: Hub, mine: Path) -> None:
    key = await key_of(server.http)

    done = await command(
        *("join", server.url, "--config", str(mine)), text=f"\ufeff{key}\r\n"
    )

    assert done.returncode == 0, done.stderr


async def test_the_whole_key_can_be_activated_and_the_secret_alone_as_before(
    server: Hub, mine: Path
) -> None:
    key = await key_of(server.http)
    await join(mine, server.url, key)
    words = ("activate", "--config", str(mine))
    for path in ("build-1/rotate", "build-1/rotate"):
        made = (await server.http.post(f"/api/v1/machines/{path}")).json()
        whole = await command(*words, text=made["join_key"])
        again = await command(*words, text=made["enrolment_key"])
        assert (whole.returncode, again.returncode) == (0, 0), again.stderr


async def test_a_self_signed_hub_is_known_by_the_key(
    tmp_path: Path, mine: Path
) -> None:
    folder = tmp_path / "hub"
    self_signed(folder, "127.0.0.1").rename(folder / "tls.pem")
    async with hub_process(folder, keys=TLS) as server:
        added = await command(
            *("hub", "machine", "add", "build-1"),
            *("--config", str(folder / "hub.toml")),
        )
        [line] = [each for each in added.stdout.splitlines() if "join" in each]
        url = f"https://127.0.0.1:{server.port}"
        assert line.startswith("dispatchd join ")

        done = await join(mine, url, line.split()[-1])

        assert done.returncode == 0, done.stderr
        assert set(beside(mine)) == {"50-join.toml", "hub.pem"}
        assert beside(mine)["hub.pem"] in (folder / "tls.pem").read_text()
        async with running_daemon(mine) as daemon:
            await daemon.until_logged("endpoint_answers")


async def key_of_tls(folder: Path, certificate: Path) -> str:
    """Return the key of a hub that has a certificate."""
    folder.mkdir(exist_ok=True)
    (folder / "tls.pem").write_bytes(certificate.read_bytes())
    async with hub(folder, keys=TLS) as server:
        return await of_here(server, folder / "tls.pem")


async def of_here(server: HubHere, certificate: Path) -> str:
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{server.port}",
        headers=server.headers,
        verify=context,
    ) as http:
        return await key_of(http)


async def test_somebody_with_another_certificate_gets_nothing(
    tmp_path: Path, mine: Path
) -> None:
    key = await key_of_tls(tmp_path / "hub", self_signed(tmp_path / "a", "127.0.0.1"))
    other = self_signed(tmp_path / "b", "127.0.0.1")
    async with tls_endpoint(server_context(other)) as middle:
        done = await join(mine, middle.url, key)

    assert done.returncode == 69
    assert "is not the one in the key" in done.stderr
    assert "Nothing was sent" in done.stderr
    assert key.rpartition(".")[2] not in done.stdout + done.stderr
    assert (middle.connections, bytes(middle.received)) == (1, b"")
    assert not mine.with_name("config.toml.d").exists()
    assert mine.read_text() == MINE


@define
class Between(TlsEndpoint):
    """Shows the right certificate at first, and another one from the second connection on."""

    later: ssl.SSLContext = field(kw_only=True)

    @override
    async def connection(self, stream: ByteStream) -> None:
        if self.connections:
            self.context = self.later
        await super().connection(stream)


async def test_somebody_who_comes_between_the_look_and_the_call_gets_nothing(
    tmp_path: Path, mine: Path
) -> None:
    real = self_signed(tmp_path / "a", "127.0.0.1")
    other = self_signed(tmp_path / "b", "127.0.0.1")
    key = await key_of_tls(tmp_path / "hub", real)
    middle = Between(context=server_context(real), later=server_context(other))
    async with tcp_server(middle.connection) as middle.port:
        done = await join(mine, middle.url, key)

    assert done.returncode == 69
    assert "certificate" in done.stderr
    assert middle.connections >= 2
    assert bytes(middle.received) == b""
    assert not mine.with_name("config.toml.d").exists()


async def test_a_pinned_hub_is_not_spoken_to_in_clear(
    tmp_path: Path, mine: Path
) -> None:
    key = await key_of_tls(tmp_path / "hub", self_signed(tmp_path / "a", "127.0.0.1"))
    async with endpoint() as middle:
        done = await join(mine, middle.url, key)

    assert done.returncode == 69
    assert "use its https address" in done.stderr
    assert middle.requests == []


async def test_a_certificate_of_a_ca_is_left_to_the_ca(
    tmp_path: Path, mine: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    key = await key_of_tls(tmp_path / "hub", authority.issue("127.0.0.1"))
    assert key.split(".")[2] == ""
    async with tls_endpoint(server_context(authority.issue("127.0.0.1"))) as other:
        done = await join(mine, other.url, key)

    assert done.returncode != 0
    assert "not vouched for" in done.stderr
    assert bytes(other.received) == b""


async def test_a_pinned_hub_is_reached_through_a_proxy(
    tmp_path: Path, mine: Path
) -> None:
    folder = tmp_path / "hub"
    certificate = self_signed(folder, "endpoint.test").rename(folder / "tls.pem")
    other = self_signed(tmp_path / "b", "endpoint.test")
    async with (
        proxy() as way,
        hub(folder, keys=TLS) as server,
        tls_endpoint(server_context(other), "endpoint.test") as middle,
    ):
        mine.write_text(f'{MINE}\n[cloud]\nproxy = "{way.url}"\n')
        key = await of_here(server, certificate)
        refused = await join(mine, middle.url, key)
        done = await join(mine, f"https://endpoint.test:{server.port}", key)

    assert "is not the one in the key" in refused.stderr
    assert bytes(middle.received) == b""
    assert done.returncode == 0, done.stderr
    assert {request.method for request in way.requests} == {"CONNECT"}


@pytest.mark.parametrize(
    "key",
    [
        "dhub_enrol_abcdefghijklmnopqrstuvwxyz012345",
        "dhub1.11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo..",
        "dhub1.11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUR.dhub_enrol_x",
        "dhub1.kurz..dhub_enrol_x",
        "",
    ],
)
async def test_a_key_without_trust_in_it_is_refused(mine: Path, key: str) -> None:
    done = await join(mine, "http://127.0.0.1:1", key)

    assert done.returncode == 64
    assert "dispatchd activate" in done.stderr
    assert not mine.with_name("config.toml.d").exists()


async def test_an_address_that_is_no_text_is_said(mine: Path) -> None:
    key = "dhub1.11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo..dhub_enrol_x"
    done = await join(mine, os.fsdecode(b"http://127.0.0.1:1/\xff"), key)

    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "not UTF-8" in done.stderr
    assert not mine.with_name("config.toml.d").exists()


async def test_what_does_not_work_leaves_what_was_there(
    server: Hub, mine: Path
) -> None:
    key = await key_of(server.http)
    await join(mine, server.url, key)
    before = beside(mine)
    async with running_daemon(mine):
        await server.submit({"id": "j", "dag_name": "it"})
        await server.result("j")
        running = await join(mine, server.url, key)
    assert "has been used" in running.stderr

    refused = await join(mine, f"{server.url}/elsewhere", key)

    assert refused.returncode == 69
    assert beside(mine) == before
    drop_in = mine.parent / "config.toml.d" / "50-join.toml"
    drop_in.write_text(before["50-join.toml"] + "# edited\n")
    edited = await join(mine, server.url, key)
    assert edited.returncode == 64
    assert "a person edited" in edited.stderr
    assert drop_in.read_text().endswith("# edited\n")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.torture),
    ],
)
async def test_a_join_that_is_ended_leaves_what_was_there(
    server: Hub, mine: Path, number: signal.Signals, code: int
) -> None:
    key, asked = await key_of(server.http), anyio.Event()

    async def never_answers(stream: ByteStream) -> None:
        await stream.receive()
        asked.set()
        await anyio.sleep_forever()

    async with tcp_server(never_answers) as port:
        words = ("join", f"http://127.0.0.1:{port}", key, "--config", str(mine))
        process = await anyio.open_process([sys.executable, "-m", "dispatchd", *words])
        async with process:
            with anyio.fail_after(90):
                await asked.wait()
                assert mine.with_name("config.toml.d").exists()
                process.send_signal(number)
                assert await process.wait() == code

    assert {path.name for path in mine.parent.iterdir()} == {mine.name, "state"}


async def test_a_key_that_cannot_be_used_is_blamed_on_the_file_that_has_it(
    mine: Path,
) -> None:
    drop_in = mine.with_name("config.toml.d") / "60-mine.toml"
    drop_in.parent.mkdir()
    drop_in.write_text(
        'cloud.url = "http://elsewhere.example"\nlicense.public_keys = ["none.pem"]\n'
    )

    done = await command("config", "check", "--config", str(mine))

    assert done.returncode == 78
    for key in ("cloud.url", "license.public_keys"):
        assert f"{drop_in}: {key}" in done.stderr
    assert f"{mine}:" not in done.stderr


async def test_a_machine_with_an_identity_of_its_own_is_left_alone(
    server: Hub, mine: Path
) -> None:
    (mine.parent / "secret").write_text("s")
    mine.write_text(
        f'{MINE}\n[cloud]\nlicense_id = "l"\nserver_id = "s"\nsecret_file = "secret"\n'
    )

    done = await join(mine, server.url, await key_of(server.http))

    assert done.returncode == 64
    assert "has an identity of its own" in done.stderr
    assert not mine.with_name("config.toml.d").exists()


@pytest.mark.parametrize("key", ["cloud.url", "license.public_keys"])
async def test_a_drop_in_that_counts_more_gets_no_key(
    server: Hub, mine: Path, key: str
) -> None:
    async with endpoint() as other:
        later = mine.with_name("config.toml.d") / "60-mine.toml"
        later.parent.mkdir()
        value = f'"{other.url}"' if key == "cloud.url" else '["another"]'
        later.write_text(f"{key} = {value}\n")

        done = await join(mine, server.url, await key_of(server.http))

        assert not other.requests
    assert done.returncode == 64
    assert f"sets {key}" in done.stderr
    assert [*beside(mine)] == ["60-mine.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root acts for another user")
async def test_root_leaves_files_that_the_daemon_can_read(
    server: Hub, mine: Path
) -> None:
    state = mine.parent / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 4242, 4242)
    for folder in (mine.parent, *mine.parent.parents):
        if folder != Path("/") and folder.owner() == "root":
            folder.chmod(folder.stat().st_mode | 0o055)
    words = ("join", server.url, await key_of(server.http), "--config", str(mine))

    # In a process of its own, since it is another user for a while.
    done = await to_thread.run_sync(lambda: dispatchd_process(*words))

    assert done.returncode == 0, done.stderr
    owners = {file.name: file.stat().st_uid for file in state.iterdir()}
    assert "activation.json" in owners
    assert set(owners.values()) == {4242}
    assert (mine.parent / "config.toml.d").stat().st_uid == 0
