"""The folder of `dispatchd quickstart`: a hub and a machine as anyone would set them up, only beside each other."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from dispatchd.cli.begin.join import join_hub
from dispatchd.cli.brand import branded
from dispatchd.cli.hub.client import HubClient
from dispatchd.cli.service.stamp import write
from dispatchd.cli.terminal import echo
from dispatchd.errors import UsageError
from dispatchd.network.enrolment_key import EnrolmentKey

_PORT: Final = 8484
"""Port of the hub, if nothing else has it."""

_MACHINE: Final = "quickstart"

_CONFIG: Final = """\
# What this machine is to do. Every option: config.example.toml of the documentation, or `dispatchd service install`.
# Where its jobs come from: config.toml.d/, written by `dispatchd join`.

[store]
folder = "state"

[workflows.hello]
command = ["./hello.sh"]
"""

_HELLO: Final = """\
#!/bin/sh
# The workflow `hello`. Edit it, and submit a job again.
echo "hello from $(uname -n), for job $DISPATCHD_JOB_ID"
"""


@frozen
class Installation:
    """A folder with `hub/` and `machine/`."""

    folder: Path

    @property
    def hub_file(self) -> Path:
        """The hub's configuration."""
        return self.folder / "hub" / "hub.toml"

    @property
    def machine_file(self) -> Path:
        """The machine's configuration."""
        return self.folder / "machine" / "config.toml"

    @property
    def script(self) -> Path:
        """The program of the first workflow."""
        return self.machine_file.with_name("hello.sh")

    @property
    def client(self) -> HubClient:
        """Client of the hub."""
        # With its own token, whatever the environment has for another hub.
        return HubClient(self.hub_file, None, self.hub_file.with_name("admin-token"))

    def make(self, listen: str) -> None:
        """Make what isn't there yet: the hub, with the address `listen` unless that is empty, and the machine's configuration.

        Raises:
            UsageError: The folder holds something else.
        """
        from dispatchd.hub.init import init, is_unfinished

        if not self.hub_file.exists():
            hub = self.hub_file.parent
            begun = [hub] if hub.is_dir() and is_unfinished(hub) else []
            if self.folder.exists() and [*self.folder.iterdir()] != begun:
                reason = "it has other files in it; name a new folder"
                raise UsageError(cannot=f"begin in {self.folder}", reason=reason)
            init(
                self.hub_file.parent,
                listen=listen or f"127.0.0.1:{_free_port()}",
                database_url="sqlite:///hub.db",
                license_id="self-hosted",
            )
        if not self.machine_file.exists():
            write(self.script, _HELLO, mode=0o755)
            write(self.machine_file, branded(_CONFIG))

    def move_hub(self) -> bool:
        """Give the hub another port; False, and nothing changes, if its own is free: it didn't start for another reason."""
        text, url = self.hub_file.read_text("utf-8"), self.client.url
        port = int(url.rpartition(":")[2])
        if _is_free(port):
            return False
        moved = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{_free_port()}", 1)
        write(self.hub_file, moved)
        return True

    @property
    def has_joined(self) -> bool:
        """True if the machine is one of the hub's."""
        return (self.machine_file.parent / "state" / "activation.json").exists()

    def join(self, say: Callable[[str], None] = echo) -> None:
        """Make the machine one of the hub's, which has to run; say each file that is written."""
        added = self._added()
        key = EnrolmentKey.parse(added["join_key"])
        join_hub(self.machine_file.absolute(), self.client.url, key, say)

    def _added(self) -> dict[str, Any]:
        machines = self.client.rows(
            "/api/v1/machines", "machines", "hub-machine", cannot="list machines"
        )
        # A call that was ended may have added it.
        again = any(machine["name"] == _MACHINE for machine in machines)
        path = f"/{_MACHINE}/rotate" if again else ""
        return self.client.ask(
            "POST",
            f"/api/v1/machines{path}",
            None if again else {"name": _MACHINE},
            cannot="add the machine",
            contract="hub-machine",
        )

    def run_hello(self, require_running: Callable[[], None]) -> dict[str, Any]:
        """Run a first job, and return it once it has ended. While it is waited for, `require_running` is called."""
        client, cannot = self.client, "run the first job"
        job = {"dag_name": "hello"}
        job_id = client.ask("POST", "/api/v1/jobs", job, cannot=cannot, has="id")["id"]
        path = f"/api/v1/jobs/{job_id}?wait=5&until=finished"
        shown: dict[str, Any] = {}
        while not shown.get("ended"):
            require_running()
            shown = client.ask("GET", path, cannot=cannot, contract="hub-job")
        return shown


def _free_port() -> int:
    """Return a port on loopback that nothing has now: the usual one, or any."""
    if _is_free(_PORT):
        return _PORT
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        port: int = found.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
