"""The way out through a real proxy: whom it is asked for, with what credentials, and what it refuses."""

from pathlib import Path

import pytest

from dispatchd.agent.endpoint.failure_kinds import Kind
from dispatchd.network.proxies import bypasses
from support.certificates import Authority, server_context, tls_endpoint
from support.endpoint import endpoint
from support.outward import client, failure, failure_of, pull, settings_for
from support.proxy import proxy

HOST = "endpoint.test"
"""A name that only the proxy knows, so that nothing can go past it."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def test_a_request_goes_through_the_configured_proxy(
    authority: Authority,
) -> None:
    context = server_context(authority.issue(HOST))
    async with tls_endpoint(context, HOST) as server, proxy() as way:
        settings = settings_for(server.url, authority.file, proxy=way.url)
        async with client(settings) as http:
            assert await pull(http) == 204
            assert await pull(http) == 204

    assert [(each.method, each.target) for each in way.requests] == [
        ("CONNECT", f"{HOST}:{server.port}")
    ]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_request_goes_through_the_proxy_of_the_environment(
    authority: Authority, variable: str
) -> None:
    context = server_context(authority.issue(HOST))
    async with tls_endpoint(context, HOST) as server, proxy(credentials="u:p@:") as way:
        url = way.url.replace("http://", "http://u:p%40%3A@")
        settings = settings_for(server.url, authority.file, environment={variable: url})
        async with client(settings) as http:
            assert await pull(http) == 204

    assert len(way.requests) == 1


async def test_no_proxy_excepts_a_host_from_the_environment_and_not_from_the_setting(
    authority: Authority,
) -> None:
    context = server_context(authority.issue(HOST))
    async with tls_endpoint(context, HOST) as server, proxy() as way:
        environment = {"https_proxy": way.url, "NO_PROXY": "other.test, .test"}
        around = settings_for(server.url, authority.file, environment=environment)
        assert (await failure_of(around)).kind is Kind.NAME_RESOLUTION
        assert way.requests == []

        through = settings_for(
            server.url, authority.file, environment=environment, proxy=way.url
        )
        async with client(through) as http:
            assert await pull(http) == 204


async def test_a_loopback_endpoint_is_never_asked_through_a_proxy() -> None:
    async with endpoint() as server, proxy() as way:
        settings = settings_for(server.url, environment={"ALL_PROXY": way.url})
        async with client(settings) as http:
            assert await pull(http) == 204

    assert way.requests == []


async def test_credentials_come_from_a_file_that_may_change(
    authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text("robot:old secret:1\n")
    context = server_context(authority.issue(HOST))
    async with (
        tls_endpoint(context, HOST) as server,
        proxy(credentials="robot:old secret:1") as way,
    ):
        settings = settings_for(
            server.url, authority.file, proxy=way.url, proxy_credentials_file=file
        )
        async with client(settings) as http:
            assert await pull(http) == 204
            way.credentials = "robot:new secret"
            file.write_text("robot:new secret\n")
            assert await pull(http) == 204

    assert [each.credentials for each in way.requests] == [
        "robot:old secret:1",
        "robot:new secret",
    ]


async def test_a_proxy_that_wants_credentials_is_told(
    authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text("robot:wrong-secret")
    context = server_context(authority.issue(HOST))
    async with (
        tls_endpoint(context, HOST) as server,
        proxy(credentials="robot:s3cret") as way,
    ):
        without = await failure_of(
            settings_for(server.url, authority.file, proxy=way.url)
        )
        wrong = await failure_of(
            settings_for(
                server.url, authority.file, proxy=way.url, proxy_credentials_file=file
            )
        )

    assert without.kind is wrong.kind is Kind.PROXY_WANTS_AUTHENTICATION
    assert (
        f"127.0.0.1:{way.port} (from cloud.proxy) wants credentials" in without.message
    )
    assert "does not take the credentials" in wrong.message
    assert server.connections == 0


@pytest.mark.parametrize(
    ("refuse_with", "kind", "says"),
    [
        ("403 Forbidden", Kind.PROXY_FORBIDS, "forbids connections to endpoint.test"),
        ("502 Bad Gateway", Kind.PROXY_FAILED, "it answered 502 Bad Gateway"),
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_told(
    authority: Authority, refuse_with: str, kind: Kind, says: str
) -> None:
    async with proxy(refuse_with=refuse_with) as way:
        url = f"https://{HOST}"
        found = await failure_of(settings_for(url, authority.file, proxy=way.url))

    assert found.kind is kind
    assert says in found.message
    assert f"127.0.0.1:{way.port}" in found.message


async def test_a_proxy_that_is_not_there_is_told() -> None:
    async with proxy() as way:
        pass

    refused = await failure_of(settings_for(f"https://{HOST}", proxy=way.url))
    unresolved = await failure_of(
        settings_for(
            f"https://{HOST}",
            environment={"HTTPS_PROXY": "http://u:hush@no-such-proxy.invalid:3128"},
        )
    )

    assert refused.kind is Kind.PROXY_REFUSED
    assert f"the proxy 127.0.0.1:{way.port} (from cloud.proxy)" in refused.message
    assert unresolved.kind is Kind.PROXY_UNRESOLVED
    assert "no-such-proxy.invalid:3128 (from HTTPS_PROXY)" in unresolved.message
    assert "hush" not in unresolved.message


async def test_an_untrusted_server_behind_a_proxy_is_told_with_its_issuer(
    authority: Authority, tmp_path: Path
) -> None:
    box = Authority(tmp_path / "theirs", name="Inspecting Box")
    file = tmp_path / "credentials"
    file.write_text("robot:s3cret")
    async with (
        tls_endpoint(server_context(box.issue(HOST)), HOST) as server,
        proxy(credentials="robot:s3cret") as way,
    ):
        settings = settings_for(
            server.url, authority.file, proxy=way.url, proxy_credentials_file=file
        )
        found = await failure_of(settings)

    assert found.kind is Kind.UNTRUSTED
    assert f"the endpoint {HOST}:{server.port}" in found.message
    assert "CN=Inspecting Box" in found.message
    assert server.received == b""


async def test_plain_http_to_the_excepted_host_is_forwarded(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("robot:wrong-secret")
    async with endpoint() as server, proxy(credentials="robot:s3cret") as way:
        settings = settings_for(
            f"http://{HOST}:{server.port}",
            allow_insecure_host=HOST,
            proxy=way.url,
            proxy_credentials_file=file,
        )
        async with client(settings) as http:
            refused = await failure(http, settings)
            file.write_text("robot:s3cret")
            assert await pull(http) == 204

    assert refused.kind is Kind.PROXY_WANTS_AUTHENTICATION
    assert way.requests[-1].target.startswith(f"http://{HOST}:{server.port}/api/")
    assert "proxy-authorization" not in server.requests[0].headers


async def test_a_proxy_may_be_reached_over_tls_and_sees_no_client_certificate(
    authority: Authority,
) -> None:
    context = server_context(authority.issue("127.0.0.1"))
    async with tls_endpoint(context) as server:
        settings = settings_for(
            f"https://{HOST}",
            authority.file,
            proxy=server.url,
            client_cert_file=authority.issue(name="machine"),
        )
        found = await failure_of(settings)

    # It is no proxy, and says so by closing; what matters is who was shown what.
    assert found.kind is Kind.CLOSED
    assert server.received.startswith(b"CONNECT endpoint.test:443 ")
    assert server.clients == [0]


@pytest.mark.parametrize(
    ("no_proxy", "excepted"),
    [
        ("*", True),
        ("x.test", True),
        ("test", True),
        (".x.test", True),
        ("*.test", True),
        ("X.TEST.", True),
        ("x.test:443", True),
        ("a.b,  x.test", True),
        ("a.b x.test", True),
        ("x.test:80", False),
        ("st", False),
        ("y.x.test", False),
        ("", False),
        (",", False),
        (".", False),
    ],
)
def test_no_proxy_names_stand_for_themselves_and_all_below(
    no_proxy: str, *, excepted: bool
) -> None:
    assert bypasses(no_proxy, "x.test", 443) is excepted


@pytest.mark.parametrize(
    ("no_proxy", "host", "excepted"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "x.test", False),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]", "fd00::1", True),
        ("[fd00::1]:443", "fd00::1", True),
        ("[fd00::1]:80", "fd00::1", False),
        ("10.0.0.0/8", "fd00::1", False),
    ],
)
def test_no_proxy_knows_addresses_and_networks(
    no_proxy: str, host: str, *, excepted: bool
) -> None:
    assert bypasses(no_proxy, host, 443) is excepted
