"""Stage of the demo: a hub and a machine in one folder, which the acts start, kill and ask."""

import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from attrs import define

from dispatchd.cli.begin.child import Child
from dispatchd.cli.begin.installation import Installation
from dispatchd.cli.begin.quickstart import started_hub
from dispatchd.cli.demo.events import Event
from dispatchd.client import ClientError, Conflict, Hub, Job
from dispatchd.errors import NotReachable

_WAIT_S: Final = 90.0
"""Longest wait for anything (seconds)."""

_PORTS: Final = range(20_000, 32_000)
"""Below those of ip_local_port_range (ip(7))."""

_LOOK_S: Final = 0.05
"""Pause between two looks at what processes do (seconds)."""

_CONFIG: Final = """\
[store]
folder = "state"
min_free_mib = 1

[runs]
slots = 2
queue_ahead = 8

[workflows.show-event]
command = ["/bin/sh", "-c", 'echo "$GITHUB_EVENT_NAME in $GITHUB_REPOSITORY by $GITHUB_ACTOR"']

[workflows.failing-tests]
command = ["/bin/sh", "-c", "echo 3 of 140 tests failed; exit 1"]

# Each of these works until the demo lets it end, or for some minutes: a demo that is killed ends none.
[workflows.build]
command = ["/bin/sh", "-c", "echo pid $$; for _ in $(seq 1200); do [ -e go ] && break; sleep 0.1; done; echo 2 errors; exit 7"]

[workflows.deploy]
command = ["/bin/sh", "-c", "echo pid $$; for _ in $(seq 1200); do [ -e go ] && break; sleep 0.1; done; echo deployed"]

[workflows.training]
command = ["/bin/sh", "-c", "echo pid $$; sleep 600"]
"""

T = TypeVar("T")


@define(kw_only=True)
class Stage:
    """A hub and a machine, of which either may be down for a while."""

    place: Installation
    hub: Child
    machine: Child
    client: Hub

    @classmethod
    def set_up(cls, folder: Path) -> "Stage":
        """Start a new hub and a new machine in a folder.

        Raises:
            UserError: One of them doesn't start.
        """
        place = Installation(folder)
        place.make(f"127.0.0.1:{_lasting_port()}")
        hub = started_hub(place, may_move=True)
        place.machine_file.write_text(_CONFIG, encoding="utf-8")
        place.join(say=lambda _: None)
        token = place.hub_file.with_name("admin-token").read_text("utf-8")
        return cls(
            place=place,
            hub=hub,
            machine=_started_machine(place),
            client=Hub(place.client.url, token),
        )

    def close(self) -> None:
        """End the runs, the machine and the hub."""
        self.client.close()
        # As Ctrl-C twice: its runs are ended, too.
        if self.machine.process.poll() is None:
            self.machine.stop(signal.SIGINT, signal.SIGINT)
        if self.hub.process.poll() is None:
            self.hub.stop(signal.SIGTERM)

    def kill_machine(self) -> None:
        """Kill the daemon with SIGKILL; its runs live on."""
        self.machine.kill()

    def start_machine(self) -> None:
        """Start a daemon on the same folder."""
        self.machine = _started_machine(self.place)

    def kill_hub(self) -> None:
        """Kill the hub with SIGKILL."""
        self.hub.kill()

    def start_hub(self) -> None:
        """Start the hub on the same folder and port."""
        self.hub = started_hub(self.place, may_move=False)

    def submit(self, event: Event) -> bool:
        """Submit a job; False if the hub has had one with its id.

        Raises:
            NotReachable: The hub doesn't take it.
        """
        try:
            self.client.submit_document(event.document)
        except Conflict:
            return False
        except ClientError as error:
            self.give_up(f"submit the job {event.job_id}", str(error))
        return True

    def ended(self, job_id: str) -> Job:
        """Wait for the end of a job, and return the job.

        Raises:
            NotReachable: It doesn't end.
        """
        try:
            return self.client.wait(job_id, _WAIT_S)
        except ClientError as error:
            self.give_up(f"wait for the job {job_id}", str(error))

    def cancel(self, job_id: str) -> None:
        """Cancel a job.

        Raises:
            NotReachable: The hub doesn't take that.
        """
        try:
            self.client.cancel(job_id)
        except ClientError as error:
            self.give_up(f"cancel the job {job_id}", str(error))

    def pid_of(self, job_id: str) -> int:
        """Wait until a job's command runs, and return its process id."""

        def look() -> int:
            with suppress(OSError):
                for line in self.output_of(job_id).splitlines():
                    if line.startswith("pid "):
                        return int(line.removeprefix("pid "))
            return 0

        return self.until(look, f"the job {job_id} runs")

    def output_of(self, job_id: str) -> str:
        """Return what a job's command has printed so far.

        Raises:
            OSError: It has not begun.
        """
        return (self._run(job_id) / "attempt-1" / "output.log").read_text("utf-8")

    def starts_of(self, job_id: str) -> int:
        """Return how often a job's command has been started (count)."""
        return len([*self._run(job_id).glob("attempt-*")])

    def let_end(self, job_id: str) -> None:
        """Let a job's command end, and return when it has."""
        (self._run(job_id) / "workspace" / "go").touch()
        code = self._run(job_id) / "attempt-1" / "exit"
        self.until(code.exists, f"the command of the job {job_id} ends")

    def until(self, look: Callable[[], T], what: str) -> T:
        """Return what a look returns once that is true.

        Raises:
            NotReachable: It doesn't become true.
        """
        deadline = time.monotonic() + _WAIT_S
        while not (found := look()):
            if time.monotonic() > deadline:
                self.give_up(f"wait until {what}", f"{_WAIT_S:g} s are over")
            time.sleep(_LOOK_S)
        return found

    def give_up(self, cannot: str, reason: str) -> NoReturn:
        """End a demo that can't be finished.

        Raises:
            NotReachable: Always.
        """
        raise NotReachable(cannot=cannot, reason=f"{reason}; see {self.place.folder}")

    def _run(self, job_id: str) -> Path:
        return self.place.machine_file.parent / "state" / "runs" / job_id


def _lasting_port() -> int:
    """Return a free port that the kernel gives nobody by itself while the hub is down."""
    while True:
        port = secrets.choice(_PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _started_machine(place: Installation) -> Child:
    arguments = ("run", "--config", str(place.machine_file))
    return Child.start("machine", arguments, place.machine_file.with_name("daemon.log"))
