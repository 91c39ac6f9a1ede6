"""A real daemon is enrolled at a real hub by a one-time key, works, and is put out."""

import json
from pathlib import Path
from typing import Any

from anyio import to_thread

from support.cli import Done, command, dispatchd
from support.daemon import running_daemon
from support.hub import Hub
from support.machine import row


def configure(folder: Path, server: Hub, public_key: str) -> Path:
    (folder / "hub.pem").write_text(public_key)
    config = folder / "config.toml"
    config.write_text(
        f"""
[cloud]
url = "{server.url}"
[license]
public_keys = ["hub.pem"]
[store]
folder = "state"
min_free_mib = 0
[log]
format = "json"
[workflows.it]
command = ["/bin/true"]
"""
    )
    return config


def activate(config: Path, key: str) -> Done:
    key_file = config.parent / "key"
    key_file.write_text(key)
    return dispatchd("activate", "--config", str(config), "--key-file", str(key_file))


async def owner(server: Hub, path: str, body: object = None) -> dict[str, Any]:
    reply = await server.http.post(f"/api/v1/machines{path}", json=body)
    assert reply.is_success, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def test_a_daemon_is_enrolled_works_and_is_put_out(
    tmp_path: Path, server: Hub
) -> None:
    added = await owner(server, "", {"name": "build-1"})
    config = configure(tmp_path, server, added["public_key"])
    done = await to_thread.run_sync(activate, config, added["enrolment_key"])
    assert done.returncode == 0, done.stderr
    assert "activated: license lic-test, plan self-hosted" in done.stdout

    async with running_daemon(config) as daemon:
        await server.submit({"id": "j", "dag_name": "it"})
        assert (await server.result("j"))["state"] == "succeeded"
        again = await to_thread.run_sync(activate, config, added["enrolment_key"])
        await owner(server, "/build-1/revoke")
        await server.submit({"id": "k", "dag_name": "it"})
        await daemon.until_logged("pull_failed", kind="Revoked")

    assert again.returncode != 0
    assert "has been used" in again.stderr
    assert (await row(server, "k"))["state"] == "queued"
    listed = (await server.http.get("/api/v1/machines")).json()["machines"]
    [machine] = [each for each in listed if each["name"] == "build-1"]
    assert (machine["state"], machine["seen_at"] > 0) == ("revoked", True)
    text = json.dumps(listed) + (server.folder / "hub.log").read_text()
    assert added["enrolment_key"] not in text


async def test_a_hub_with_another_key_is_not_believed(
    tmp_path: Path, server: Hub
) -> None:
    added = await owner(server, "", {"name": "build-1"})
    other = (
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PUBLIC KEY-----\n"
    )
    config = configure(tmp_path, server, other)

    done = await to_thread.run_sync(activate, config, added["enrolment_key"])

    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert "license" in line


async def test_a_machine_that_was_revoked_and_added_anew_activates(
    tmp_path: Path, server: Hub
) -> None:
    first = await owner(server, "", {"name": "build-1"})
    config = configure(tmp_path, server, first["public_key"])
    done = await to_thread.run_sync(activate, config, first["enrolment_key"])
    assert done.returncode == 0, done.stderr
    second = await owner(server, "", {"name": "build-2"})
    taken = await to_thread.run_sync(activate, config, second["enrolment_key"])
    await owner(server, "/build-1/revoke")

    again = await to_thread.run_sync(activate, config, second["enrolment_key"])

    assert "another machine has this server_id" in taken.stderr
    assert again.returncode == 0, again.stderr
    async with running_daemon(config):
        await server.submit({"id": "j", "dag_name": "it"})
        assert (await server.result("j"))["state"] == "succeeded"


async def test_a_key_comes_from_a_pipe_or_the_configured_file_without_a_question(
    tmp_path: Path, server: Hub
) -> None:
    first = await owner(server, "", {"name": "build-1"})
    config = configure(tmp_path, server, first["public_key"])
    words = ("activate", "--config", str(config))

    nothing = await command(*words, text="")
    piped = await command(*words, text="\ufeff" + first["enrolment_key"] + "\r\n")
    second = await owner(server, "/build-1/rotate")
    (tmp_path / "key").write_bytes(
        b"\xef\xbb\xbf" + second["enrolment_key"].encode() + b"\n"
    )
    text = config.read_text().replace("[license]", '[license]\nkey_file = "key"')
    config.write_text(text)
    configured = await command(*words, text="")

    assert nothing.returncode == 64
    assert "the license key is empty" in nothing.stderr
    assert piped.returncode == 0, piped.stderr
    assert configured.returncode == 0, configured.stderr
