#!/usr/bin/env python3
"""Reference dispatch endpoint: serve the calls of contracts/README.md. Python's standard library alone.

    python3 examples/endpoint/serve.py --folder trial

Beside the machines' calls it has four of the vendor's own, with the token in the folder: submit and cancel a job, add
and revoke a machine. It speaks plain HTTP on loopback; a proxy with TLS goes before it.
"""

import argparse
import json
import os
import sqlite3
from contextlib import suppress
from email.message import Message
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_urlsafe
from typing import Final, Protocol
from urllib.parse import unquote
from uuid import uuid4

from endpoint import Endpoint, Json, Refused, Reply, hashed, require_text

LICENSE_ID: Final = "lic-reference"
MOST_BYTES: Final = 4 << 20
"""Largest body that is read (bytes)."""
LONGEST_ID: Final = 512


class Licenses(Protocol):
    """The two calls about licenses; `licenses.py` has them."""

    def activate(self, body: Json) -> Reply:
        """Exchange a license key for a machine's credentials."""
        ...

    def heartbeat(self, body: Json) -> Reply:
        """Return a fresh token."""
        ...


class Vendor:
    """Calls of the vendor: everything that is no machine's."""

    def __init__(self, endpoint: Endpoint, token: str) -> None:
        """Steer an endpoint; whoever has the token may."""
        self.endpoint, self.token = endpoint, token
        self.licenses: Licenses | None = None

    def check(self, authorization: str) -> None:
        """Refuse whoever lacks the token."""
        wanted = f"Bearer {self.token}".encode()
        if not compare_digest(authorization.encode(errors="replace"), wanted):
            raise Refused(401, "the token is not valid")

    def submit(self, body: Json) -> Reply:
        """Queue a job. An id is never used twice."""
        job_id = body.setdefault("id", str(uuid4()))
        require_text(body, "id")
        if str(body.get("command")).lower() != "cancel":
            require_text(body, "dag_name")
        if len(job_id) > LONGEST_ID:
            raise Refused(422, f"$.id must have {LONGEST_ID} or fewer characters")
        insert = "INSERT INTO jobs (id, document) VALUES (?, ?)"
        with self.endpoint.changed:
            try:
                self.endpoint.db.execute(insert, [job_id, json.dumps(body)])
            except sqlite3.IntegrityError:
                raise Refused(409, "this id is taken") from None
            self.endpoint.changed.notify_all()
        return 201, {"id": job_id}

    def cancel(self, job_id: str) -> Reply:
        """End a job that no machine has; else its machine hears of it by its next accept or heartbeat."""
        with self.endpoint.changed:
            job = self.endpoint.job(job_id)
            self.endpoint.db.execute(
                "UPDATE jobs SET cancel = 1 WHERE id = ?", [job["id"]]
            )
            if job["state"] == "queued":
                self.endpoint.end_here(job)
        return 200, {"id": job_id}

    def add(self, name: str, secret: str) -> None:
        """Add a machine, if there is none of that name."""
        insert = "INSERT OR IGNORE INTO machines VALUES (?, ?, ?, 0)"
        with self.endpoint.changed:
            self.endpoint.db.execute(insert, [name, LICENSE_ID, hashed(secret)])

    def revoke(self, name: str) -> Reply:
        """Revoke a machine for good; a poll that it holds ends."""
        update = "UPDATE machines SET revoked = 1 WHERE name = ?"
        with self.endpoint.changed:
            if not self.endpoint.db.execute(update, [name]).rowcount:
                raise Refused(404, "there is no such machine")
            self.endpoint.changed.notify_all()
        return 200, {"name": name}


class Handler(BaseHTTPRequestHandler):
    """HTTP of one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds, for each read
    server: "Server"

    def do_POST(self) -> None:
        """Answer one call; refusals and failures have the contract's form too."""
        try:
            status, document = self.routed(self.body())
        except Refused as refusal:
            status, document = refusal.args[0], {"message": refusal.args[1]}
        except (UnicodeError, TypeError):
            status, document = 422, {"message": "a field has another kind of value"}
        except sqlite3.Error:
            status, document = 503, {"message": "the database can't be used now"}
        self.reply(status, document)

    def body(self) -> Json:
        """Return the JSON object that was sent."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (
            length.isascii() and length.isdecimal()
        ):
            self.close_connection = True
            raise Refused(400, "the call needs a Content-Length")
        if len(length.lstrip("0")) > len(str(MOST_BYTES)) or int(length) > MOST_BYTES:
            self.close_connection = True
            raise Refused(413, f"a body has at most {MOST_BYTES} bytes")
        try:
            document = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "the body is no JSON") from None
        if not isinstance(document, dict):
            raise Refused(400, "the body is no JSON object")
        return document

    def routed(self, body: Json) -> Reply:
        """Carry out the call that the path names."""
        endpoint, vendor = self.server.endpoint, self.server.vendor
        parts = [unquote(part) for part in self.path.partition("?")[0].split("/")]
        match parts[1:]:
            case ["api", "v1", "github", "dispatch", "pull"]:
                return endpoint.pull(body, self.hold_s())
            case ["api", "v1", "github", "dispatch", job_id, call] if call in (
                *("accept", "finish", "heartbeat", "release"),
            ):
                return endpoint.about(call, job_id, body)
            case ["api", "v1", "licenses", "activate"] if vendor.licenses:
                return vendor.licenses.activate(body)
            case ["api", "v1", "licenses", "heartbeat"] if vendor.licenses:
                return vendor.licenses.heartbeat(body)
        vendor.check(self.headers.get("Authorization", ""))
        return self.routed_for_vendor(parts[1:], body)

    def routed_for_vendor(self, parts: list[str], body: Json) -> Reply:
        """Carry out one of the vendor's own calls."""
        vendor = self.server.vendor
        match parts:
            case ["api", "v1", "jobs"]:
                return vendor.submit(body)
            case ["api", "v1", "jobs", job_id, "cancel"]:
                return vendor.cancel(job_id)
            case ["api", "v1", "machines", name, "revoke"]:
                return vendor.revoke(name)
        raise Refused(404, "there is no such call")

    def hold_s(self) -> float:
        """Return how long the machine wants its pull to be held (seconds; RFC 7240)."""
        wait = self.headers.get("Prefer", "").strip().removeprefix("wait=")
        is_number = wait.isascii() and wait.isdecimal() and len(wait) < 9  # noqa: PLR2004
        return float(wait) if is_number else 0.0

    def reply(self, status: int, document: Json | None) -> None:
        """Send an answer with the header of the contract."""
        data = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Dispatch-Contract", "1")
        call = self.headers.get("Dispatch-Call", "")
        # One with a line break in it would end the header.
        if call and call.isprintable():
            self.send_header("Dispatch-Call", call)
        if hold_s := self.hold_s():
            self.send_header("Preference-Applied", f"wait={hold_s:.0f}")
        if document is not None:
            self.send_header("Content-Type", "application/json")
        if status != 204:  # noqa: PLR2004  # RFC 9110, 8.6
            self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, _: object = "") -> None:
        """Refuse what is no call at all in the contract's form."""
        self.close_connection, self.request_version = True, "HTTP/1.1"
        self.headers = getattr(self, "headers", Message())
        self.reply(code, {"message": message or "this is no call"})

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], vendor: Vendor, handler: type[Handler] = Handler
    ) -> None:
        """Listen on an address."""
        super().__init__(address, handler)
        self.endpoint, self.vendor = vendor.endpoint, vendor

    def handle_error(self, *_: object) -> None:
        """Ignore a connection that broke: its machine repeats the call."""


def own_secret(file: Path) -> str:
    """Return the secret of a file; make it the first time."""
    if not file.exists():
        aside = file.with_name(f".{file.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(aside, flags, 0o600), "w") as opened:
            opened.write(token_urlsafe(32))
            opened.flush()
            os.fsync(opened.fileno())
        aside.replace(file)
    return file.read_text().strip()


def opened(
    folder: Path, machine: str, lease_s: float, kind: type[Endpoint] = Endpoint
) -> Vendor:
    """Open a folder: its jobs, the vendor's token, and a first machine."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    endpoint = kind(folder, lease_s)
    vendor = Vendor(endpoint, own_secret(folder / "token"))
    vendor.add(machine, own_secret(folder / f"{machine}.secret"))
    return vendor


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("endpoint-data"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--machine", default="m1", help="name of the first machine")
    parser.add_argument("--lease", type=float, default=60.0, help="seconds")
    parser.add_argument("--license-key-file", type=Path, help="signs licenses")
    options = parser.parse_args()
    try:
        vendor = opened(options.folder, options.machine, options.lease)
    except sqlite3.OperationalError as error:
        parser.exit(
            1, f"cannot open {options.folder}: {error}; is it served already?\n"
        )
    except OSError as error:
        parser.exit(1, f"cannot use the folder: {error}\n")
    try:
        if options.license_key_file is not None:
            # Needs more than the standard library.
            import licenses  # noqa: PLC0415

            key_file = options.license_key_file
            vendor.licenses = licenses.Licenses(vendor.endpoint, key_file)
        listening = Server((options.host, options.port), vendor)
    except (ImportError, OSError, OverflowError, TypeError, ValueError) as error:
        parser.exit(1, f"cannot start: {error}\n")
    with listening as server:
        host, port = server.server_address[:2]
        print(
            f'[cloud]\nurl = "http://{host!s}:{port}"\n'
            f'license_id = "{LICENSE_ID}"\nserver_id = "{options.machine}"\n'
            f'secret_file = "{(options.folder / options.machine).absolute()}.secret"',
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
