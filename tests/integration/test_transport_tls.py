"""Trust on the way out, against real TLS servers: who is believed, and what is said of the others."""

import ssl
import warnings
from pathlib import Path

import pytest
from anyio.abc import SocketStream

from dispatchd.agent.endpoint.failure_kinds import Kind
from dispatchd.network.trust import client_context
from support.certificates import Authority, serial_of, server_context, tls_endpoint
from support.outward import client, failure, failure_of, pull, settings_for
from support.servers import tcp_server

HOST = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs", name="Inspecting Box")


async def test_a_server_of_the_trusted_ca_is_asked(authority: Authority) -> None:
    async with (
        tls_endpoint(server_context(authority.issue(HOST))) as endpoint,
        client(settings_for(endpoint.url, authority.file)) as http,
    ):
        assert await pull(http) == 204

    assert len(endpoint.calls("pull")) == 1


async def test_a_server_that_nobody_vouches_for_gets_no_byte_and_its_issuer_is_named(
    authority: Authority, stranger: Authority
) -> None:
    async with tls_endpoint(server_context(stranger.issue(HOST))) as endpoint:
        found = await failure_of(settings_for(endpoint.url, authority.file))

    assert found.kind is Kind.UNTRUSTED
    assert 'issued by "O=Testing, CN=Inspecting Box"' in found.message
    assert str(authority.file) in found.message
    assert endpoint.received == b""


async def test_without_a_ca_file_the_system_decides(authority: Authority) -> None:
    async with tls_endpoint(server_context(authority.issue(HOST))) as endpoint:
        found = await failure_of(settings_for(endpoint.url))

    assert found.kind is Kind.UNTRUSTED
    assert "the system's CA certificates" in found.message
    assert endpoint.received == b""


async def test_a_ca_file_is_trusted_instead_of_what_the_environment_names(
    authority: Authority, stranger: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger.file))

    async with tls_endpoint(server_context(stranger.issue(HOST))) as endpoint:
        found = await failure_of(settings_for(endpoint.url, authority.file))

    assert found.kind is Kind.UNTRUSTED


def test_no_context_verifies_less_or_writes_its_keys_down(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))

    for ca_file in (None, authority.file):
        context = client_context(ca_file)

        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.keylog_filename is None


@pytest.mark.parametrize(
    ("days", "kind", "says"),
    [
        ((-30, -2), Kind.CERTIFICATE_EXPIRED, "valid until 20"),
        ((2, 30), Kind.CERTIFICATE_NOT_YET_VALID, "clock is behind"),
    ],
)
async def test_a_certificate_out_of_its_time_is_told_with_its_day_and_the_clock(
    authority: Authority, days: tuple[int, int], kind: Kind, says: str
) -> None:
    context = server_context(authority.issue(HOST, days=days))

    async with tls_endpoint(context) as endpoint:
        found = await failure_of(settings_for(endpoint.url, authority.file))

    assert found.kind is kind
    assert says in found.message
    assert "this machine's clock" in found.message
    assert endpoint.received == b""


async def test_a_certificate_for_another_host_is_told_with_its_names(
    authority: Authority,
) -> None:
    context = server_context(authority.issue("elsewhere.test", "10.0.0.7"))

    async with tls_endpoint(context) as endpoint:
        found = await failure_of(settings_for(endpoint.url, authority.file))

    assert found.kind is Kind.HOSTNAME_MISMATCH
    assert "is for elsewhere.test, 10.0.0.7, and not" in found.message
    assert endpoint.received == b""


async def test_a_server_that_speaks_tls_1_1_at_most_is_refused(
    authority: Authority,
) -> None:
    context = server_context(authority.issue(HOST))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    async with tls_endpoint(context) as endpoint:
        found = await failure_of(settings_for(endpoint.url, authority.file))

    assert found.kind is Kind.TLS_VERSION
    assert endpoint.received == b""


async def test_a_plain_http_server_behind_an_https_url_is_recognised(
    authority: Authority,
) -> None:
    async def talk(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with tcp_server(talk) as port:
        url = f"https://{HOST}:{port}"
        found = await failure_of(settings_for(url, authority.file))

    assert found.kind is Kind.NOT_TLS


@pytest.mark.parametrize("tls13", [True, False])
async def test_a_server_that_wants_a_client_certificate_gets_the_configured_one(
    authority: Authority, *, tls13: bool
) -> None:
    context = server_context(authority.issue(HOST), clients=authority, tls13=tls13)
    mine = authority.issue(name="machine")

    async with tls_endpoint(context) as endpoint:
        settings = settings_for(endpoint.url, authority.file, client_cert_file=mine)
        async with client(settings) as http:
            assert await pull(http) == 204

    assert endpoint.clients == [serial_of(mine)]


@pytest.mark.parametrize("tls13", [True, False])
async def test_a_missing_client_certificate_is_asked_for(
    authority: Authority, *, tls13: bool
) -> None:
    context = server_context(authority.issue(HOST), clients=authority, tls13=tls13)

    async with tls_endpoint(context) as endpoint:
        found = await failure_of(settings_for(endpoint.url, authority.file))

    assert found.kind is Kind.CLIENT_CERTIFICATE_REQUIRED
    assert "cloud.client_cert_file" in found.message
    assert endpoint.requests == []


@pytest.mark.parametrize("tls13", [True, False])
async def test_a_client_certificate_that_the_server_does_not_take_is_named(
    authority: Authority, stranger: Authority, *, tls13: bool
) -> None:
    context = server_context(authority.issue(HOST), clients=authority, tls13=tls13)
    other = stranger.issue(name="machine")

    async with tls_endpoint(context) as endpoint:
        found = await failure_of(
            settings_for(endpoint.url, authority.file, client_cert_file=other)
        )

    assert found.kind is Kind.CLIENT_CERTIFICATE_REFUSED
    assert f"{other} (unknown ca)" in found.message
    assert endpoint.requests == []


async def test_the_same_connection_serves_the_next_request(
    authority: Authority,
) -> None:
    async with (
        tls_endpoint(server_context(authority.issue(HOST))) as endpoint,
        client(settings_for(endpoint.url, authority.file)) as http,
    ):
        await pull(http)
        await pull(http)

    assert endpoint.connections == 1


async def test_a_replaced_ca_file_is_followed_at_the_next_request(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.pem)
    async with tls_endpoint(server_context(authority.issue(HOST))) as endpoint:
        settings = settings_for(endpoint.url, trusted)
        async with client(settings) as http:
            assert await pull(http) == 204
            (tmp_path / "new.pem").write_bytes(stranger.pem)
            (tmp_path / "new.pem").rename(trusted)
            assert (await failure(http, settings)).kind is Kind.UNTRUSTED

            endpoint.context = server_context(stranger.issue(HOST))
            assert await pull(http) == 204


async def test_a_renewed_client_certificate_is_shown_at_the_next_request(
    authority: Authority, tmp_path: Path
) -> None:
    first, second = (authority.issue(name="machine") for _ in range(2))
    mine = tmp_path / "mine.pem"
    mine.write_bytes(first.read_bytes())
    context = server_context(authority.issue(HOST), clients=authority)
    async with tls_endpoint(context) as endpoint:
        settings = settings_for(endpoint.url, authority.file, client_cert_file=mine)
        async with client(settings) as http:
            await pull(http)
            mine.write_bytes(second.read_bytes())
            await pull(http)

    assert endpoint.clients == [serial_of(first), serial_of(second)]
