"""An engine as this machine uses it: its calls, the words for it, and the names and files of our starts there."""

from pathlib import Path

from attrs import frozen

from dispatchd.agent.engines.port import Executor
from dispatchd.agent.engines.start_claims import Files
from dispatchd.agent.engines.start_script import STOP
from dispatchd.agent.engines.starts import Starts
from dispatchd.agent.engines.submitted.ends import Words
from dispatchd.agent.engines.submitted.script import START, start_script
from dispatchd.linux.untrusted_files import write_new


@frozen(kw_only=True)
class Site(Starts):
    """One engine of the configuration."""

    executor: Executor
    words: Words
    poll_s: float
    """Longest time between two questions about a start (seconds)."""

    def script(self, name: str) -> Path:
        """Return the script of a start, by its short way."""
        return self.link(name) / START

    def lay_out(
        self, name: str, folder: Path, launch: str, *, has_secrets: bool
    ) -> None:
        """Write the files of a start. Blocks.

        Raises:
            OSError: The disk refuses it.
        """
        link = self.link(name)
        files = Files.create(folder / name, link)
        files.write_launch(launch, has_secrets=has_secrets)
        write_new(files.folder / START, start_script(link).encode())


def order_stop(files: Files, grace_s: float) -> None:
    """Let the script of a start end its command, whatever its engine does. Blocks.

    Raises:
        OSError: The disk refuses it.
    """
    aside, order = files.folder / f"{STOP}.aside", files.folder / STOP
    try:
        aside.write_text(f"{max(0, round(grace_s))}\n")
    except OSError:
        # A full disk still takes a file without content, which stands for the script's own grace.
        order.touch(mode=0o600)
        return
    aside.replace(order)
