"""Status of the daemon: one document for `dispatchd status`, the service manager and the metrics."""

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from attrs import define, field, frozen

from dispatchd import __version__
from dispatchd.agent.domain.executions.identities import Identity
from dispatchd.agent.domain.phase import Phase
from dispatchd.agent.health.readiness import Health
from dispatchd.agent.loops.intake import IntakeLoop
from dispatchd.agent.tracking.loop_context import Context
from dispatchd.agent.tracking.tracker import Tracker
from dispatchd.protocol.job import Json
from dispatchd.protocol.times import ago, iso_or_none


@frozen(kw_only=True)
class MachineStatus:
    """Status of this machine, beside that of its loops."""

    containment: str
    """Means that keep the processes of a run together, in words."""
    isolation: str
    """Means that keep a run from the rest of the machine, in words."""
    identity: Callable[[], Mapping[str, Json]]
    """Returns its identity at the endpoint."""
    license: Callable[[], Mapping[str, Json] | None]
    """Returns the status of its license; None if it has none."""
    skew_s: Callable[[], float | None]
    """Returns the difference of its clock (seconds)."""
    warnings: Callable[[], list[str]]
    """Returns other problems, in sentences."""
    describe: Callable[[Identity], str] = field(default=lambda _: "")
    """Returns where an attempt is and what it waits for, in words."""


@define(kw_only=True)
class Status:
    """Reads the state of the loops; nothing is decided from it."""

    health: Health
    tracker: Tracker
    intake: IntakeLoop
    machine: MachineStatus
    context: Context
    started_at: datetime = field(init=False)
    warnings: dict[str, str] = field(factory=dict, init=False)
    """Warnings for an operator, by subject; each is set and removed by the part that detects it."""
    reloaded_at: datetime | None = field(default=None, init=False)
    """Time of the last successful reload."""

    @started_at.default
    def _now(self) -> datetime:
        return self.context.clock.now()

    def document(self) -> dict[str, Json]:
        """Return the whole status, without a secret; times in ISO 8601, ages in seconds, null for unknown values."""
        problems = self.health.problems
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": iso_or_none(self.started_at),
            "config_file": str(self.context.config.file),
            "state_folder": str(self.context.config.state_folder),
            "reloaded_at": iso_or_none(self.reloaded_at),
            "ready": not problems,
            "problems": list(problems),
            "warnings": self._warnings(),
            "machine": dict(self.machine.identity()),
            "license": self._license(),
            "intake": self._intake(),
            "endpoint": self._endpoint(),
            "loops": dict(self.context.activity.doing),
            "jobs": {
                phase.value: self.tracker.count(phase)
                for phase in Phase
                if phase is not Phase.HISTORY
            },
            "slots": {"total": self.context.config.slots, "used": self._used()},
            "outbox": self._outbox(),
            "containment": self.machine.containment,
            "isolation": self.machine.isolation,
            "disk": self._disk(),
            **self._engines(),
        }

    def note_reload(self) -> None:
        """Note that another configuration is in force now."""
        self.reloaded_at = self.context.clock.now()

    def line(self) -> str:
        """Return the status in one line, as in `pulling; 3 running, 2 waiting; last pull 4 s ago`."""
        waiting = self.tracker.count(*_WAITING)
        parts = [
            self.intake.intake.mode.value,
            f"{self._used()} running, {waiting} waiting",
        ]
        age_s = self.health.last_pull_age_s
        parts.append("no pull yet" if age_s is None else f"last pull {ago(age_s)}")
        problems = [
            problem
            for problem in self.health.problems
            if problem != self.intake.blocked_reason
        ]
        return "; ".join([*parts, *problems])

    def _used(self) -> int:
        return self.tracker.count(Phase.RUNNING)

    def _warnings(self) -> list[Json]:
        warnings = [
            self.context.activity.skew,
            *self.warnings.values(),
            self._quarantined(),
            *self.machine.warnings(),
        ]
        return [warning for warning in warnings if warning]

    def _quarantined(self) -> str:
        folder = self.context.config.state_folder / "quarantine"
        try:
            count = len(os.listdir(folder))  # noqa: PTH208  # iterdir looks later
        except FileNotFoundError:
            # Somebody has read them, and removed them with their folder.
            return ""
        except OSError as error:
            return f"{folder} can't be looked into: {error.strerror}"
        return (
            f"{count} records are in {folder}: they could not be read" if count else ""
        )

    def _license(self) -> Json:
        license_status = self.machine.license()
        return None if license_status is None else dict(license_status)

    def _intake(self) -> Json:
        intake = self.intake.intake
        return {
            "mode": intake.mode.value,
            "reason": intake.reason,
            "since": iso_or_none(intake.since),
            "until": iso_or_none(intake.until),
            "left": self.intake.left,
        }

    def _endpoint(self) -> Json:
        activity = self.context.activity
        return {
            "url": self.context.config.cloud.url,
            "state": activity.endpoint,
            "long_poll": activity.long_poll,
            "extensions": list(activity.extensions),
            "last_pull_at": iso_or_none(self._ago(self.health.last_pull_age_s)),
            "last_pull_age_s": self.health.last_pull_age_s,
            "last_report_at": iso_or_none(self._ago(self.health.last_report_age_s)),
            "clock_skew_s": self.machine.skew_s(),
        }

    def _ago(self, age_s: float | None) -> datetime | None:
        """Return the time of something of an age (seconds)."""
        if age_s is None:
            return None
        return self.context.clock.now() - timedelta(seconds=age_s)

    def _engines(self) -> dict[str, Json]:
        """Return the engines beside this machine's own processes, with the jobs on them; nothing where there are none."""
        jobs: dict[str, dict[str, Json]] = {}
        for record in self.tracker.in_phase(Phase.RUNNING):
            remote = record.attempt.remote if record.attempt else None
            if remote is not None:
                where = self.machine.describe(remote)
                jobs.setdefault(remote.engine, {})[record.job.id] = where
        names = dict.fromkeys([*self.context.config.engines, *jobs])
        slots_of = self.context.config.slots_of
        engines: dict[str, Json] = {
            name: {"slots": slots_of(name), "jobs": jobs.get(name, {})}
            for name in names
        }
        return {"engines": engines} if engines else {}

    def _outbox(self) -> Json:
        outbox = self.health.outbox
        return {
            "depth": len(outbox),
            "oldest_job": outbox[0].job.id if outbox else None,
            "oldest_age_s": self.health.oldest_unreported_age_s,
        }

    def _disk(self) -> Json:
        room = os.statvfs(self.context.config.state_folder)
        return {
            "free_bytes": room.f_bavail * room.f_frsize,
            "free_inodes": room.f_favail,
            "error": self.tracker.disk.error,
        }


_WAITING = (Phase.PENDING_ACCEPT, Phase.ACCEPTED, Phase.RETRY_WAIT)
