"""The way out without trouble and with the plain kind: files that change, age, and a network that says no."""

import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream
from structlog.testing import capture_logs

from dispatchd.agent.endpoint.diagnose import explain
from dispatchd.agent.endpoint.failure_kinds import Kind
from dispatchd.agent.endpoint.transport import check
from support.certificates import Authority, server_context, tls_endpoint
from support.clock import advance
from support.endpoint import endpoint
from support.outward import (
    BODY,
    PULL,
    WITHIN_S,
    client,
    failure,
    failure_of,
    pull,
    settings_for,
)
from support.proxy import proxy
from support.servers import tcp_server
from support.torture import lasting_port
from support.until import until

HOST = "127.0.0.1"

FILES_S = 6.0
"""Longer than any file may take (seconds)."""


def hanging_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "own thread: open"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def test_files_that_cannot_be_used_leave_the_old_ones_in_force_and_warn_once(
    authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.pem)
    async with (
        tls_endpoint(server_context(authority.issue(HOST))) as server,
        client(settings_for(server.url, trusted)) as http,
    ):
        await pull(http)
        with capture_logs() as logged:
            trusted.write_text("half of a fi")
            assert await pull(http) == 204
            assert await pull(http) == 204
            trusted.unlink()
            assert await pull(http) == 204
        trusted.write_bytes(authority.pem)
        assert await pull(http) == 204

    assert [each["event"] for each in logged] == ["transport_files_unusable"] * 2
    assert "cloud.ca_file" in logged[0]["reason"]
    assert server.connections == 2, "the old connection went on, then a new one came"


async def test_a_file_that_hangs_leaves_the_old_ones_in_force(
    authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.pem)
    async with (
        tls_endpoint(server_context(authority.issue(HOST))) as server,
        client(settings_for(server.url, trusted)) as http,
    ):
        await pull(http)
        trusted.unlink()
        os.mkfifo(trusted)
        with capture_logs() as logged:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(pull, http, within_s=20))
                tasks.start_soon(partial(pull, http, within_s=20))
                await until(hanging_threads)
                await advance(FILES_S)
        # Whoever waits for a writer has one now (fifo(7)).
        os.close(os.open(trusted, os.O_RDWR | os.O_NONBLOCK))

    assert [each["event"] for each in logged] == ["transport_files_unusable"]
    assert logged[0]["reason"] == "no answer within 5 s"


async def test_files_that_are_wrong_from_the_start_are_told_and_taken_up_when_right(
    authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    async with tls_endpoint(server_context(authority.issue(HOST))) as server:
        settings = settings_for(server.url, trusted)
        async with client(settings) as http:
            found = await failure(http, settings)
            trusted.write_bytes(authority.pem)
            assert await pull(http) == 204

    assert found.kind is Kind.FILES_UNUSABLE
    assert str(trusted) in found.message


async def test_connections_are_renewed_when_they_are_old() -> None:
    now_s = 0.0
    async with endpoint() as server:
        settings = settings_for(server.url)
        ports: list[int] = []
        async with client(settings, monotonic=lambda: now_s, max_age_s=60) as http:
            for now_s in (0, 59, 60, 119, 120):  # noqa: B007  # the clock reads it
                async with http.stream("POST", PULL, json=BODY) as answer:
                    ports.append(_local_port(answer))
                    await answer.aread()

    assert ports[0] == ports[1]
    assert ports[2] == ports[3]
    assert len(set(ports)) == 3


def _local_port(answer: httpx.Response) -> int:
    raw: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
    port: int = raw.getsockname()[1]
    return port


async def test_a_held_poll_outlives_the_change_of_its_files(
    authority: Authority, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.pem)
    statuses: list[int] = []
    async with (
        tls_endpoint(server_context(authority.issue(HOST))) as server,
        client(settings_for(server.url, trusted)) as http,
        anyio.create_task_group() as tasks,
    ):

        async def hold() -> None:
            statuses.append(await pull(http, hold_s=30, within_s=20))

        tasks.start_soon(hold)
        await server.until(lambda found: len(found.requests) == 1)
        trusted.write_bytes(authority.pem + b"\n")
        assert await pull(http) == 204
        assert statuses == []
        server.hand_out({"id": "job"})

    assert statuses == [200]


@pytest.mark.parametrize("proxied", [False, True])
async def test_a_socket_has_keepalive_with_and_without_a_proxy(
    *, proxied: bool
) -> None:
    async with endpoint() as server, proxy() as way:
        settings = settings_for(
            f"http://x.test:{server.port}" if proxied else server.url,
            allow_insecure_host="x.test",
            proxy=way.url,
        )
        async with (
            client(settings) as http,
            http.stream("POST", PULL, json=BODY) as answer,
        ):
            raw = answer.extensions["network_stream"].get_extra_info("socket")
            options = [
                raw.getsockopt(level, name)
                for level, name in (
                    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                )
            ]

    assert options == [1, 30, 60_000]
    assert len(way.requests) == int(proxied)


async def test_a_request_for_another_origin_is_not_sent() -> None:
    async with endpoint() as ours, endpoint() as other:
        settings = settings_for(ours.url)
        async with client(settings) as http:
            with pytest.raises(httpx.TransportError) as caught:
                await http.post(f"{other.url}/api/v1/github/dispatch/pull", json={})
            found = await explain(caught.value, settings)

    assert found.kind is Kind.FOREIGN_ORIGIN
    assert other.requests == []


async def test_a_name_that_does_not_resolve_is_told() -> None:
    found = await failure_of(settings_for("https://no-such-host.invalid"))

    assert found.kind is Kind.NAME_RESOLUTION
    assert "no-such-host.invalid:443" in found.message


async def test_a_name_that_nothing_can_have_is_a_mistake_in_the_configuration() -> None:
    found = await failure_of(settings_for(f"https://{'long' * 20}.invalid"))

    assert found.kind is Kind.FILES_UNUSABLE
    assert "cloud.url must be a URL" in found.message


async def test_a_refused_connection_is_told() -> None:
    port = lasting_port()

    found = await failure_of(settings_for(f"https://{HOST}:{port}"))

    assert found.kind is Kind.REFUSED
    assert f"{HOST}:{port}" in found.message


async def test_all_addresses_of_a_name_refusing_is_a_refusal() -> None:
    found = await failure_of(settings_for(f"http://localhost:{lasting_port()}"))

    assert found.kind is Kind.REFUSED


async def test_a_host_without_a_route_is_told() -> None:
    # TCP has no way to a broadcast address: ENETUNREACH (Linux, tcp_v4_connect).
    found = await failure_of(settings_for("https://255.255.255.255"))

    assert found.kind is Kind.UNREACHABLE
    assert "Network is unreachable" in found.message


async def test_an_attempt_to_connect_that_nobody_answers_is_told() -> None:
    # With its backlog full, Linux drops what comes to a socket (listen(2)).
    with socket.socket() as full, ExitStack() as stack:
        full.bind((HOST, 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        settings = settings_for(f"https://{HOST}:{full.getsockname()[1]}")
        async with client(settings) as http:
            with anyio.fail_after(WITHIN_S), pytest.raises(httpx.HTTPError) as caught:
                await http.get("/", timeout=httpx.Timeout(None, connect=0.3))
            found = await explain(caught.value, settings)

    assert found.kind is Kind.UNREACHABLE
    assert "does not answer the attempt to connect" in found.message


async def _reset(stream: SocketStream) -> None:
    await stream.receive()
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def _close(stream: SocketStream) -> None:
    async with stream:
        while not (await stream.receive()).endswith(b"}"):
            pass


async def _talk_nonsense(stream: SocketStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@pytest.mark.parametrize(
    ("talk", "kind"),
    [(_reset, Kind.RESET), (_close, Kind.CLOSED), (_talk_nonsense, Kind.NOT_HTTP)],
)
async def test_a_connection_that_ends_badly_is_told_for_what_it_is(
    talk: Callable[..., object], kind: Kind
) -> None:
    async with tcp_server(talk) as port:  # type: ignore[arg-type]  # all of them are async
        found = await failure_of(settings_for(f"http://{HOST}:{port}"))

    assert found.kind is kind


async def test_an_endpoint_that_takes_its_time_is_told_at_the_deadline() -> None:
    async with endpoint() as server:
        settings = settings_for(server.url)
        async with client(settings) as http:
            with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.2):
                await pull(http, hold_s=20, within_s=WITHIN_S)
            found = await explain(caught.value, settings)

    assert found.kind is Kind.TIMEOUT


def test_a_good_setting_has_no_problem(authority: Authority) -> None:
    mine = authority.issue(name="machine")

    for url in (
        "https://x.test",
        f"http://{HOST}:1",
        "http://[::1]",
        "http://localhost",
    ):
        settings = settings_for(url, authority.file, client_cert_file=mine)
        assert list(check(settings)) == []


def test_each_thing_that_cannot_be_used_is_named_with_its_key(
    authority: Authority, tmp_path: Path
) -> None:
    junk, gone = tmp_path / "junk", tmp_path / "gone"
    junk.write_text("no PEM")
    mine, other = authority.issue(name="one"), authority.issue(name="other")
    locked = authority.issue(name="locked", passphrase="open sesame")
    cases: list[tuple[dict[str, object], str]] = [
        ({"url": "http://x.test"}, "cloud.url"),
        ({"url": "ftp://x.test"}, "cloud.url"),
        ({"url": "https://u:p@x.test"}, "cloud.url"),
        ({"url": "https://x.test:port"}, "cloud.url"),
        ({"url": "https://x.test/?a=b"}, "cloud.url"),
        ({"url": "https://xn--a.test"}, "cloud.url"),
        ({"url": "https://x.test", "proxy": "http://xn--a.test"}, "cloud.proxy"),
        ({"url": "https://x.test/path#part"}, "cloud.url"),
        ({"url": "https://x.test:65536"}, "cloud.url"),
        ({"proxy": "http://p.test:65536"}, "cloud.proxy"),
        ({"ca_file": gone}, "cloud.ca_file"),
        ({"ca_file": junk}, "cloud.ca_file"),
        ({"ca_file": tmp_path}, "cloud.ca_file"),
        ({"client_cert_file": gone}, "cloud.client_cert_file"),
        ({"client_cert_file": authority.file}, "cloud.client_cert_file"),
        ({"client_cert_file": locked}, "cloud.client_cert_file"),
        ({"client_key_file": mine}, "cloud.client_key_file"),
        (
            {"client_cert_file": mine, "client_key_file": other},
            "cloud.client_key_file",
        ),
        ({"client_cert_file": mine, "client_key_file": gone}, "cloud.client_key_file"),
        ({"proxy": "http://u:hush@p.test"}, "cloud.proxy"),
        ({"proxy": "socks5://p.test"}, "cloud.proxy"),
        ({"proxy": "p.test:3128"}, "cloud.proxy"),
        ({"environment": {"HTTPS_PROXY": "socks5://u:hush@p.test"}}, "cloud.proxy"),
        ({"proxy_credentials_file": gone}, "cloud.proxy_credentials_file"),
        ({"proxy_credentials_file": junk}, "cloud.proxy_credentials_file"),
    ]
    for changed, key in cases:
        problems = list(check(settings_for(**{"url": "https://x.test", **changed})))  # type: ignore[arg-type]

        assert [each for each, _ in problems] == [key], changed
        assert not any("hush" in words for _, words in problems)


def test_plain_http_is_allowed_to_the_one_host_that_is_named() -> None:
    allowed = settings_for("http://X.test:80", allow_insecure_host="x.test")
    other = settings_for("http://y.test", allow_insecure_host="x.test")

    assert list(check(allowed)) == []
    assert [key for key, _ in check(other)] == ["cloud.url"]


async def test_plain_http_to_another_machine_is_not_sent_even_without_a_check() -> None:
    found = await failure_of(settings_for("http://192.0.2.1"))

    assert found.kind is Kind.FILES_UNUSABLE
    assert "must be https" in found.message
