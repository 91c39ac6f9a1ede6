"""The reference endpoint of `examples/endpoint/`: our daemon works with it, and nothing is lost when it is killed."""

import json
import socket
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import frozen

from support.daemon import write_config
from support.daemon_process import running_daemon
from support.machine import PATH, encoded, refuses

SERVE = Path(__file__).parents[2] / "examples" / "endpoint" / "serve.py"


@frozen
class Served:
    """A process that serves a folder, and what it has printed."""

    process: subprocess.Popen[str]
    cloud: dict[str, str]
    folder: Path

    @property
    def proof(self) -> dict[str, str]:
        """What proves to the endpoint that this is the machine."""
        secret = Path(self.cloud["secret_file"]).read_text()
        names = {name: self.cloud[name] for name in ("license_id", "server_id")}
        return {**names, "secret": secret, "heartbeat_secret": secret}

    def call(self, call: str, **fields: Any) -> httpx.Response:
        """Make a call as the machine."""
        url = f"{self.cloud['url']}{PATH}/{call}"
        return httpx.post(url, json={**self.proof, **fields}, trust_env=False)

    def vendor(self, path: str, **fields: Any) -> httpx.Response:
        token = (self.folder / "token").read_text()
        headers = {"authorization": f"Bearer {token}"}
        url = f"{self.cloud['url']}/api/v1/{path}"
        return httpx.post(url, json=fields, headers=headers, trust_env=False)


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Served]:
    """Run the one command; it is killed at the end."""
    words = [sys.executable, str(SERVE), "--folder", str(folder), "--port", "0"]
    with subprocess.Popen(
        [*words, *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            printed = "".join(process.stdout.readline() for _ in range(5))
            yield Served(process, tomllib.loads(printed)["cloud"], folder)
        finally:
            process.kill()


def job_row(folder: Path, job_id: str) -> sqlite3.Row:
    """Return a job of a folder that nobody serves."""
    database = sqlite3.connect(folder / "endpoint.db")
    database.row_factory = sqlite3.Row
    try:
        row: sqlite3.Row = database.execute(
            "SELECT * FROM jobs WHERE id = ?", [job_id]
        ).fetchone()
    finally:
        database.close()
    return row


async def test_a_daemon_does_the_jobs_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "endpoint"
    with served(folder) as here:
        config = write_config(
            tmp_path / "machine", here.cloud["url"], {"it": ["/bin/echo", "hello"]}
        )
        text = config.read_text()
        for name in ("license_id", "server_id", "secret_file"):
            [line] = [each for each in text.splitlines() if each.startswith(name)]
            text = text.replace(line, f"{name} = {json.dumps(here.cloud[name])}")
        config.write_text(text)
        async with running_daemon(config) as daemon:
            assert here.vendor("jobs", id="j 1/2", dag_name="it").status_code == 201
            assert here.vendor("jobs", id="gone", dag_name="unknown").status_code == 201
            for job_id in ("j 1/2", "gone"):
                await daemon.until_logged("job_finish_acknowledged", job_id=job_id)
    result = json.loads(job_row(folder, "j 1/2")["result"])
    assert result["result_status"] == "succeeded"
    assert "hello" in result["result_output"]
    assert job_row(folder, "gone")["result"].count("unknown-workflow") == 1


def test_what_was_answered_outlasts_a_kill(tmp_path: Path) -> None:
    claims = ["claim", "lease", "heartbeat", "release"]
    with served(tmp_path) as here:
        for job_id in ("accepted", "ended"):
            here.vendor("jobs", id=job_id, dag_name="it")
        tokens = {}
        for _ in range(2):
            job = here.call("pull", extensions=claims).json()
            tokens[job["id"]] = job["claim_token"]
        run = {"dag_run_id": "r"}
        here.call("accepted/accept", claim_token=tokens["accepted"], **run)
        end = {"claim_token": tokens["ended"], "result_status": "failed"}
        assert here.call("ended/finish", **end).status_code == 204
        here.process.kill()
    with served(tmp_path) as here:
        mine = {"claim_token": tokens["accepted"]}
        assert here.call("accepted/accept", **mine, **run).status_code == 200
        assert here.call("ended/finish", **end).status_code == 204
        assert here.call("pull").status_code == 204
        done = here.call("accepted/finish", **mine, result_status="succeeded")
        assert done.status_code == 204


def test_a_second_process_is_refused_in_one_line(tmp_path: Path) -> None:
    with served(tmp_path):
        words = [sys.executable, str(SERVE), "--folder", str(tmp_path), "--port", "0"]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "served already" in done.stderr


def test_a_cancel_reaches_the_machine_and_a_revoked_one_gets_nothing(
    tmp_path: Path,
) -> None:
    with served(tmp_path) as here:
        here.vendor("jobs", id="j", dag_name="it")
        assert here.call("pull").json()["id"] == "j"
        assert here.vendor("jobs/j/cancel").status_code == 200
        reply = here.call("j/accept", dag_run_id="j").json()
        assert reply == {"cancel_requested": True}
        assert here.vendor("machines/m1/revoke").status_code == 200
        refuses(here.call("pull"), 410)
        refuses(here.call("j/heartbeat", phase="running"), 401)
        refuses(here.vendor("machines/other/revoke"), 404)


def test_what_was_cancelled_goes_to_no_machine(tmp_path: Path) -> None:
    claim = {"extensions": ["claim", "lease", "heartbeat", "release"]}
    with served(tmp_path, "--lease", "0.2") as here:
        for job_id in ("waits", "given-back", "expires"):
            here.vendor("jobs", id=job_id, dag_name=job_id)
        assert here.vendor("jobs/waits/cancel").status_code == 200
        held = {
            job_id: here.call("pull", workflows=[job_id], **claim).json()["claim_token"]
            for job_id in ("given-back", "expires")
        }
        for job_id, token in held.items():
            fields = {"dag_run_id": job_id, "claim_token": token}
            assert here.call(f"{job_id}/accept", **fields).status_code == 200
            assert here.vendor(f"jobs/{job_id}/cancel").status_code == 200
        back = {"claim_token": held["given-back"]}
        released = [here.call("given-back/release", **back) for _ in range(2)]
        # Longer than a lease.
        empty = httpx.post(
            f"{here.cloud['url']}{PATH}/pull",
            json=here.proof,
            headers={"prefer": "wait=2"},
            trust_env=False,
        )
        late = here.call(
            "expires/heartbeat", phase="running", claim_token=held["expires"]
        )

    assert [each.status_code for each in released] == [204, 204]
    assert empty.status_code == 204
    assert late.json() == {"cancel_requested": True}
    for job_id in ("waits", "given-back", "expires"):
        result = json.loads(job_row(tmp_path, job_id)["result"])
        assert result["result_status"] == "aborted"


@pytest.mark.parametrize(
    "options", [("--port", "99999"), ("--license-key-file", "none")]
)
def test_what_it_cannot_use_is_one_line(
    tmp_path: Path, options: tuple[str, str]
) -> None:
    words = [sys.executable, str(SERVE), "--folder", str(tmp_path), "--port", "0"]
    done = subprocess.run(
        [*words, *options], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot start" in done.stderr


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"POST /api/v1/github/dispatch/pull HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{" + b"[" * 6, 400),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 401),
    ],
)
def test_a_strange_request_is_refused_in_the_form_of_the_contract(
    tmp_path: Path, request_bytes: bytes, status: int
) -> None:
    with served(tmp_path) as here:
        url = httpx.URL(here.cloud["url"])
        with socket.create_connection((url.host, url.port or 0), 10) as connection:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), answer
        assert json.loads(body)["message"]
        assert here.call("pull").status_code == 204


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("workflows", 7, 422),
        ("extensions", 7, 422),
        ("server_id", ["m1"], 401),
        ("license_id", None, 401),
        ("heartbeat_secret", 7, 401),
    ],
)
def test_a_field_of_another_kind_is_refused(
    tmp_path: Path, name: str, value: object, status: int
) -> None:
    with served(tmp_path) as here:
        here.vendor("jobs", dag_name="it")
        refuses(here.call("pull", **{name: value}), status)
        assert here.call("pull").status_code == 200
        refuses(here.call(f"{encoded('no/job')}/accept", dag_run_id="x"), 404)
