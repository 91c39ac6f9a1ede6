"""Acts of the demo, each about one promise, and the lines that they print."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from dispatchd.cli.demo.events import ARRIVALS, BUILD, DEPLOY, TRAINING, Event
from dispatchd.cli.demo.stage import Stage
from dispatchd.cli.screen.colour import painted, show
from dispatchd.client import Job
from dispatchd.redaction.escapes import coloured

_READING_S: Final = 1.0
"""Time that a person gets to read a line (seconds)."""

_WIDTH: Final = 10
"""Width of each of the first two columns (characters)."""


@frozen
class Result:
    """The end of a job, and whether it is the one that the demo promises."""

    job_id: str
    outcome: str
    summary: str
    as_expected: bool


@define(kw_only=True)
class Play:
    """The acts in their order, on one stage."""

    stage: Stage
    quiet: bool
    has_reader: bool
    """True if a person reads along: each line is followed by a pause."""
    results: list[Result] = field(factory=list, init=False)

    def play(self) -> Sequence[Result]:
        """Play all acts, and return the ends of all jobs.

        Raises:
            NotReachable: An act can't be finished.
        """
        acts = (
            ("Events of GitHub arrive; the machine pulls their jobs.", self._arrivals),
            ("The daemon is killed with -9 while a build runs.", self._killed),
            ("The same job arrives again.", self._repeated),
            ("The hub is killed while a job runs.", self._away),
            ("A job that takes ten minutes is cancelled.", self._cancelled),
        )
        for number, (title, act) in enumerate(acts, 1):
            self.say(f"\n{number}. {title}")
            act()
        return self.results

    def say(self, text: str) -> None:
        """Print a line, and leave time to read it."""
        if not self.quiet:
            show(coloured(text))
        if self.has_reader:
            time.sleep(_READING_S)

    def _arrivals(self) -> None:
        for event in ARRIVALS:
            self.stage.submit(event)
        for event in ARRIVALS:
            job = self._end(event)
            lines = job.output.strip().splitlines() or [job.summary]
            self._tell(event.job_id, lines[-1], job.state)

    def _killed(self) -> None:
        self.stage.submit(BUILD)
        pid = self._pid(BUILD)
        self.stage.kill_machine()
        self._tell("daemon", "killed")
        self._require_alive(BUILD, pid)
        self.stage.start_machine()
        self._tell("daemon", "started again; it follows the build")
        self.stage.let_end(BUILD.job_id)
        job = self._end(BUILD)
        self._tell("build", f"{job.summary} That is its real exit code.", job.state)

    def _repeated(self) -> None:
        is_new = self.stage.submit(BUILD)
        starts = self.stage.starts_of(BUILD.job_id)
        if is_new or starts != 1:
            self.stage.give_up("run each job once", f"build began {starts} times")
        self._tell("build", "is known, and not run again")

    def _away(self) -> None:
        self.stage.submit(DEPLOY)
        pid = self._pid(DEPLOY)
        self.stage.kill_hub()
        self._tell("hub", "killed")
        self._require_alive(DEPLOY, pid)
        self.stage.let_end(DEPLOY.job_id)
        self._tell("deploy", "has ended; the machine keeps the outcome on its disk")
        self.stage.start_hub()
        self._tell("hub", "started again")
        job = self._end(DEPLOY)
        self._tell("deploy", "reported by the machine", job.state)

    def _cancelled(self) -> None:
        self.stage.submit(TRAINING)
        self._pid(TRAINING)
        began = time.monotonic()
        self.stage.cancel(TRAINING.job_id)
        job = self._end(TRAINING)
        took_s = time.monotonic() - began
        self._tell("training", f"{took_s:.1f} s after the cancel", job.state)

    def _pid(self, event: Event) -> int:
        pid = self.stage.pid_of(event.job_id)
        self._tell(event.job_id, f"pid {pid}", "running")
        return pid

    def _require_alive(self, event: Event, pid: int) -> None:
        if not Path(f"/proc/{pid}").exists():
            self.stage.give_up(f"follow the job {event.job_id}", "its run has died")
        self._tell(event.job_id, f"pid {pid} lives on", "running")

    def _end(self, event: Event) -> Job:
        job = self.stage.ended(event.job_id)
        as_expected = job.state == event.expected
        self.results.append(Result(event.job_id, job.state, job.summary, as_expected))
        return job

    def _tell(self, what: str, text: str, state: str = "") -> None:
        shown = painted(state.ljust(_WIDTH), state)
        self.say(f"   {what.ljust(_WIDTH)} {shown} {text}")
