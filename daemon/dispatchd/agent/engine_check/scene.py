"""Scene of a trial: one attempt with a command that leaves traces, and what these say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio
from attrs import field, frozen

from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Launch

WINDOW_S: Final = 1.5
"""Time for which nothing may happen (seconds)."""

_LIMIT_S: Final = 600.0

BEGIN: Final = "echo begun >>marks\n"
"""Line of every command that says that it has begun."""

_ALIVE: Final = (
    "i=0\nwhile [ ! -e go ] && [ -e marks ] && [ $i -lt 6000 ]\n"
    "do echo >>alive; sleep 0.1; i=$((i+1)); done"
)
"""Loop that shows that it runs; it ends with its folder, or after 10 minutes, at the latest."""

WAITS: Final = f"trap 'echo term >>marks; exit 9' TERM\n{BEGIN}{_ALIVE}\nexit 7"
"""Command that waits for the file `go`, and ends with 9 at SIGTERM."""

DEAF: Final = f"trap '' TERM\n{BEGIN}{_ALIVE}\nexit 7"
"""Command that ignores SIGTERM."""

LEAVES: Final = f"{BEGIN}(\n{_ALIVE}\n) &\nexit 0"
"""Command that leaves a process behind."""


@frozen(kw_only=True)
class Scene:
    """Folder of one attempt, and its command. `secrets` are given to it by variable."""

    folder: Path
    engine: str
    script: str
    env: Mapping[str, str] = field(factory=dict)
    secrets: Mapping[str, str] = field(factory=dict)

    @property
    def workspace(self) -> Path:
        """Folder in which the command runs."""
        return self.folder / "workspace"

    @property
    def attempt(self) -> Path:
        """Folder of the attempt."""
        return self.folder / "attempt-1"

    @property
    def output(self) -> Path:
        """File with what the command writes."""
        return self.attempt / "output.log"

    @property
    def brief(self) -> Path:
        """File whose path the command gets as an argument."""
        return self.attempt / "run" / "brief.json"

    @property
    def payload(self) -> Path:
        """File whose path the command gets in a variable."""
        return self.folder / "event.json"

    def lay_out(self) -> None:
        """Make the folders and files of the attempt. Blocks.

        Raises:
            OSError: The disk refuses it.
        """
        self.folder.mkdir(mode=0o700)
        for folder in (self.workspace, self.attempt, self.attempt / "run"):
            folder.mkdir(mode=0o700)
        self.output.touch(mode=0o600)

    def launch(self, path: str) -> Launch:
        """Return the start of the attempt; `path` is the PATH of the command."""
        env = {"PATH": path, "GITHUB_EVENT_PATH": str(self.payload), **self.env}
        return Launch(
            run_id=self.folder.name,
            command=("/bin/sh", "-c", self.script, "sh", str(self.brief)),
            env=env,
            workspace=self.workspace,
            folder=self.attempt,
            output_file=self.output,
            files=self.attempt / "run",
            given=self.secrets,
            isolation=Isolation.NONE,
            engine=self.engine,
            limit_s=_LIMIT_S,
        )

    def read(self, name: str) -> bytes:
        """Return a file that the command has left; empty for none. Blocks."""
        try:
            return (self.workspace / name).read_bytes()
        except FileNotFoundError:
            return b""

    @property
    def starts(self) -> int:
        """Number of times that the command has begun (count)."""
        return self.read("marks").split().count(b"begun")

    @property
    def has_begun(self) -> bool:
        """True if the command has begun."""
        return self.starts > 0

    @property
    def got_term(self) -> bool:
        """True if SIGTERM has reached the command."""
        return b"term" in self.read("marks").split()

    def go(self) -> None:
        """Let the command end. Blocks."""
        (self.workspace / "go").touch()

    async def is_still(self) -> bool:
        """Return whether nothing of the command runs any more."""
        before = len(self.read("alive"))
        await anyio.sleep(WINDOW_S)
        return len(self.read("alive")) == before
