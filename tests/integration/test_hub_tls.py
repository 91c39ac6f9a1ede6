"""The hub speaks HTTPS by itself, with the newest certificate that is there, and says loudly where it doesn't."""

import json
import ssl
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.streams.tls import TLSAttribute, TLSStream

from dispatchd.errors import ConfigError
from dispatchd.hub.config.load import load
from support.certificates import Authority, serial_of
from support.cli import dispatchd
from support.clock import advance
from support.hub import HubHere, hub
from support.hub_process import hub as hub_process
from support.machine import PATH
from support.raw_calls import head, message_of
from support.until import until

TLS = 'tls_cert_file = "tls.pem"'


def replace(file: Path, issued: Path) -> None:
    """Put another file in the place of one, as tools for certificates do."""
    aside = file.with_suffix(".new")
    aside.write_bytes(issued.read_bytes())
    Path(aside).replace(file)


async def shown(server: HubHere, authority: Authority) -> int:
    """Return the serial number of the certificate that a hub shows, which must be the authority's."""
    context = ssl.create_default_context(cafile=authority.file)
    stream = await anyio.connect_tcp(
        "127.0.0.1", server.port, ssl_context=context, tls_hostname="127.0.0.1"
    )
    async with stream:
        found = stream.extra(TLSAttribute.peer_certificate) or {}
    return int(str(found["serialNumber"]), 16)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def configured(folder: Path, authority: Authority) -> Path:
    """Return where a hub's certificate is, for which the folder has a first one."""
    folder.mkdir()
    file = folder / "tls.pem"
    replace(file, authority.issue("127.0.0.1"))
    return file


async def test_a_hub_speaks_https_and_takes_a_new_certificate_over(
    tmp_path: Path, authority: Authority
) -> None:
    file = configured(tmp_path / "hub", authority)
    async with hub(tmp_path / "hub", keys=TLS) as server:
        first = await shown(server, authority)
        newer = authority.issue("127.0.0.1", name="newer")
        replace(file, newer)
        await advance(6)

        async def is_newer() -> bool:
            return await shown(server, authority) == serial_of(newer)

        await until(is_newer)
        assert first != serial_of(newer)

        file.write_text("no certificate")
        await advance(6)
        await until(lambda: "tls_not_reloaded" in server.log_file.read_text())
        assert await is_newer()
        assert "plain_http" not in server.log_file.read_text()
        async with httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{server.port}",
            headers=server.headers,
            verify=ssl.create_default_context(cafile=authority.file),
        ) as http:
            assert (await http.get("/api/v1/jobs")).status_code == 200
            entry = await http.get("/login")
            assert "Secure" in entry.headers["set-cookie"]


async def test_a_connection_that_is_made_during_a_stop_is_not_waited_for(
    tmp_path: Path, authority: Authority
) -> None:
    """It was accepted before the stop. A plain one is made some turns of the loop later, this one by its handshake."""
    configured(tmp_path / "hub", authority)
    context = ssl.create_default_context(cafile=authority.file)
    async with (
        hub(tmp_path / "hub", keys=TLS) as server,
        await anyio.connect_tcp("127.0.0.1", server.port) as late,
        await anyio.connect_tcp(
            "127.0.0.1", server.port, ssl_context=context, tls_hostname="127.0.0.1"
        ) as slow,
        anyio.create_task_group() as tasks,
    ):
        await slow.send(head(f"{PATH}/pull", "Content-Length: 2") + b"{")
        tasks.start_soon(server.stop, 8)  # the hub itself gives up after 10 s

        async def stops() -> bool:
            with suppress(OSError):
                async with await anyio.connect_tcp("127.0.0.1", server.port):
                    return False
            return True

        await until(stops)
        made = await TLSStream.wrap(late, hostname="127.0.0.1", ssl_context=context)
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await made.receive()
        await slow.send(b"}")
        assert "license_id" in await message_of(slow)


async def test_a_stop_waits_for_no_client_that_does_not_look(
    tmp_path: Path, authority: Authority
) -> None:
    """An idle connection of a pool isn't read, so nothing answers the end of its TLS."""
    configured(tmp_path / "hub", authority)
    async with (
        hub(tmp_path / "hub", keys=TLS) as server,
        httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{server.port}",
            verify=ssl.create_default_context(cafile=authority.file),
        ) as http,
    ):
        assert (await http.get("/healthz")).status_code == 200
        await server.stop(within_s=8)  # the hub itself gives up after 10 s


async def test_a_key_of_another_certificate_is_said_at_the_start(
    tmp_path: Path, authority: Authority
) -> None:
    folder = tmp_path / "hub"
    configured(folder, authority)
    replace(folder / "key.pem", authority.issue("127.0.0.1", name="other"))
    only_key = folder / "key-only.pem"
    text = (folder / "key.pem").read_text()
    only_key.write_text(text[text.index("-----BEGIN PRIVATE") :])
    wrong = {
        f'{TLS}\ntls_key_file = "key-only.pem"': "tls_key_file: must hold the key",
        f'{TLS}\ntls_key_file = "none.pem"': "tls_key_file: must be a readable file",
        'tls_cert_file = "hub.toml"': "tls_cert_file: must be PEM",
    }
    for keys, said in wrong.items():
        with pytest.raises(ExceptionGroup) as caught:
            async with hub(folder, keys=keys):
                pass
        found = caught.value.split(ConfigError)[0]
        assert said in str(leaf(found))
        (folder / "hub.toml").unlink()

    (folder / "hub.toml").write_text('tls_key_file = "tls.pem"')
    with pytest.raises(ConfigError, match="tls_cert_file: is required with"):
        load(folder / "hub.toml")


def leaf(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def test_commands_on_the_same_machine_know_the_hub_by_its_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    # For another name than the one by which it is reached here.
    replace(folder / "tls.pem", authority.issue("hub.example"))
    async with hub_process(folder, keys=TLS) as server:
        config = str(folder / "hub.toml")
        listed = await anyio.to_thread.run_sync(
            lambda: dispatchd("hub", "jobs", "--json", "--config", config)
        )
        assert json.loads(listed.stdout) == []

        other = Authority(tmp_path / "other").issue("hub.example")
        server.keys = f'tls_cert_file = "{other}"'
        server.configure()
        refused = await anyio.to_thread.run_sync(
            lambda: dispatchd("hub", "jobs", "--config", config)
        )
        assert refused.returncode != 0
        assert "certificate" in refused.stderr


async def test_plain_http_on_a_network_is_said_loudly(tmp_path: Path) -> None:
    for address, is_said in (
        ("127.0.0.1", False),
        ("0.0.0.0", True),
    ):  # that is the point
        async with hub(tmp_path / address) as found:
            found.configure(f'listen = "{address}:0"')
            await found.stop()
            await found.start()
            text = found.log_file.read_text()
            assert ('"plain_http"' in text) is is_said
            assert text.count("plain_http") == int(is_said)


@pytest.mark.parametrize(
    ("listen", "is_in_clear"),
    [
        ("127.9.0.1:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        (":1", True),
        ("[::]:1", True),
        ("192.0.2.1:1", True),
        ("hub.example:1", True),
    ],
)
def test_an_address_of_a_network_is_known(
    tmp_path: Path,
    listen: str,
    is_in_clear: bool,  # noqa: FBT001  # a column of the table
) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(f'listen = "{listen}"')
    assert load(file).is_in_clear is is_in_clear

    file.write_text(f'listen = "{listen}"\ntls_cert_file = "a.pem"')
    assert not load(file).is_in_clear
    assert load(file).url.startswith("https://")
    assert load(file).tls_cert_file == str(tmp_path / "a.pem")
