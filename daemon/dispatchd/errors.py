"""Every error raised on purpose, in one tree split by what the catcher does next.

DispatchdError
├─ UserError            one line and an exit code (sysexits.h); the start is refused
│  ├─ ConfigError       the configuration can't be used: every problem at once
│  ├─ MachineUnfit      the kernel, the state folder or a program lacks what is needed
│  ├─ UsageError        the command line asks for something that doesn't exist
│  ├─ NotReachable      a command needs something that isn't available now
│  ├─ FolderUnusable    the state folder can't be created or written
│  │  └─ PathTaken      something else is in the place of one of its files
│  ├─ StoreLocked       another daemon owns the state folder
│  ├─ ControlFolderTaken  another daemon answers on the control socket
│  └─ RecordTooNew      a newer release wrote the store
├─ RemoteError          the daemon stays up
│  ├─ Retryable         wait and repeat: Unavailable, RateLimited, TooLarge, ProtocolError
│  ├─ JobClosed         stop working for this job: Gone, Conflict
│  └─ IdentityError     wait for another identity: Unauthorized, Skewed, Forbidden, Revoked
├─ RunError             becomes another start, or an outcome: SpawnFailed, SecretUnavailable, WorkspaceFailed,
│                       FolderDamaged
├─ HubError             the hub can't carry out a request (`hub/domain/errors.py`); becomes a status
├─ LicenseInvalid       a token isn't a license; the daemon waits for another one
├─ ClientError          a call of the client for programs has failed (`client/errors.py`); a command tells it in one line
├─ NotConfirmed         a process must not begin before the endpoint has agreed again; its attempt is reverted
├─ NotPossible          a person requested something that a job's phase doesn't allow; reported to that person
├─ Refused              a call of the control socket isn't carried out (`agent/control/calls.py`)
├─ ContractViolation    a document breaks a contract; becomes a rejection or a ProtocolError
├─ StoreUnavailable     the disk refused a write; wait and repeat
├─ RecordUnreadable     the record is quarantined; the others continue
├─ InvalidTransition    a bug; only the bug fence (`concurrency/bug_fence.py`) catches it
│
│  At the hub:
├─ Refused              an HTTP status and a message for the client (`hub/domain/claim_rules.py`)
├─ QueueFull            the client submits again later (`hub/domain/model.py`)
├─ StorageBusy, Locked  the database can't be used now, or its rows are taken; repeat (`hub/domain/model.py`)
├─ InvalidTransition    a bug, as above (`hub/domain/transitions.py`)
├─ LoginNeeded          the visitor is sent to the login (`hub/web/render.py`)
├─ BadIdToken           an id token proves nothing; becomes LoginRefused (`hub/login/id_token.py`)
├─ LoginRefused         a login elsewhere has no valid proof; becomes a page (`hub/login/ways.py`)
├─ ServiceAway          nobody can be asked what a visitor may see; becomes a page, other ways in stay (`hub/login/ways.py`)
├─ SessionOver          a visitor's token is revoked or has expired; they log in again (`hub/login/ways.py`)
├─ Unreadable           the event is stored with the reason (`hub/github/poller/listed.py`)
└─ LookAgain            the check run may still appear; look later (`hub/github/checks/check_run.py`)

GithubError (`hub/github/api/responses.py`) is a RemoteError. What has to pass a library as its own kind has a second base:
FilesUnusable and ForeignOrigin are errors of httpx too (`agent/endpoint/transport.py`).

Raise leaves, catch branches. Constructors take fields and build the sentence.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from attrs import frozen
from typing_extensions import override

_OF_PATHS: Final = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
        *(errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENAMETOOLONG),
    }
)
"""Errors about one path. All others are about the disk, or this machine: ENOSPC, EDQUOT, EROFS, EIO, EMFILE and such."""


class DispatchdError(Exception):
    """Root of all errors raised on purpose."""


class UserError(DispatchdError):
    """Problem that a person has to solve; shown as one line."""

    exit_code: ClassVar[int] = os.EX_SOFTWARE


@frozen(kw_only=True)
class Problem:
    """One problem at one place of a file: the place, and the expected value."""

    file: Path
    key: str
    expected: str

    @override
    def __str__(self) -> str:
        return (
            f"{self.file}: {self.key}: {self.expected}"
            if self.key
            else f"{self.file}: {self.expected}"
        )


class ConfigError(UserError):
    """The configuration can't be used. Carries every problem found, in file order."""

    exit_code = os.EX_CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(UserError):
    """The command line names something that doesn't exist or can't be."""

    exit_code = os.EX_USAGE

    def __init__(self, *, cannot: str, reason: str) -> None:
        super().__init__(f"cannot {cannot}: {reason}")


class MachineUnfit(UserError):
    """The machine lacks something without which no job can be run well. Carries a sentence for each."""

    exit_code = os.EX_CONFIG

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class NotReachable(UserError):
    """A command needs something that isn't available now, such as an extra or a free port."""

    exit_code = os.EX_UNAVAILABLE

    def __init__(self, *, cannot: str, reason: str) -> None:
        super().__init__(f"cannot {cannot}: {reason}")


_REMEDIES: Final[dict[int | None, str]] = {
    errno.ENOSPC: "free space or inodes on its disk",
    errno.EDQUOT: "free space, or raise this user's quota",
    errno.EROFS: "remount its file system for writing, or use another folder",
    errno.EIO: "check its disk",
    errno.ENAMETOOLONG: "use a shorter path",
}
"""Remedies for errors of a folder that neither its existence nor its mode explains."""


class FolderUnusable(UserError):
    """A folder that must be writable isn't."""

    exit_code = os.EX_CANTCREAT

    def __init__(self, *, folder: Path, error: OSError) -> None:
        self.folder, self.error = folder, error
        if isinstance(error, PermissionError):
            self.exit_code = os.EX_NOPERM  # type: ignore[misc]  # the kind of refusal decides, not the class
        do = _REMEDIES.get(error.errno or 0, "create it or give this user write access")
        super().__init__(f"cannot use the folder {folder}: {error.strerror}; {do}")


class PathTaken(FolderUnusable):
    """Something else is in the place of a file or folder of this program; it is left alone."""

    exit_code = os.EX_CANTCREAT

    def __init__(self, *, path: Path, kind: str, error: OSError, do: str) -> None:
        super().__init__(folder=path.parent, error=error)
        self.path, self.kind = path, kind
        self.args = (f"cannot make {path}: there is {kind}; {do}",)


class StoreLocked(UserError):
    """Another daemon holds the state folder."""

    exit_code = os.EX_UNAVAILABLE

    def __init__(self, *, folder: Path, holder: str) -> None:
        self.folder = folder
        who = f"pid {holder}" if holder else "another process"
        super().__init__(
            f"cannot use {folder}: {who} is already running on it; stop that one, or give this one another store.folder"
        )


class ControlFolderTaken(UserError):
    """Another daemon answers on the configured socket; `pid` is None or 0 where it isn't known."""

    exit_code = os.EX_CONFIG

    def __init__(self, *, folder: Path, pid: int | None) -> None:
        self.folder, self.pid = folder, pid
        who = f"pid {pid}" if pid else "another daemon"
        super().__init__(
            f"cannot answer in {folder}: {who} has its control socket there; give each daemon another control.folder"
        )


class RecordTooNew(UserError):
    """A record was written by a newer release."""

    exit_code = os.EX_CONFIG

    def __init__(self, *, path: Path | str, version: int, newest: int) -> None:
        self.path, self.version, self.newest = Path(path), version, newest
        super().__init__(
            f"cannot read {path}: it has schema_version {version} and this release reads up to {newest}; start the newer release again"
        )


class RemoteError(DispatchdError):
    """The endpoint, or something on the way to it, didn't carry out a call.

    `call` is the name of the call (`pull`, `accept`, ...). `reason` describes the failure. `status` is the HTTP
    status, if there was an answer.
    """

    def __init__(
        self,
        *,
        call: str,
        reason: str,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> None:
        self.call, self.reason, self.retry_after_s = call, reason, retry_after_s
        self.status = status
        super().__init__(f"cannot {call}: {reason}")


class Retryable(RemoteError):
    """Wait and repeat. `retry_after_s` is the wait that the endpoint asked for (seconds)."""


class Unavailable(Retryable):
    """No usable answer: the network, a proxy, or a server error."""


class RateLimited(Retryable):
    """The endpoint asks for fewer calls (429)."""


class ProtocolError(Retryable):
    """An answer that breaks the contract, such as a proxy's page with status 200."""


class TooLarge(Retryable):
    """The endpoint, or a proxy before it, doesn't accept a request of this size (413)."""


class JobClosed(RemoteError):
    """The endpoint no longer accepts calls about this job from this machine."""


class Gone(JobClosed):
    """The endpoint has closed or forgotten the job (404, 410)."""


class Conflict(JobClosed):
    """The job belongs to another machine now (409)."""


class IdentityError(RemoteError):
    """The endpoint doesn't accept this machine's credentials."""


class Unauthorized(IdentityError):
    """The credentials aren't valid (401)."""


class Skewed(IdentityError):
    """The credentials aren't valid (401), and the clocks differ: the clock may be the only problem."""


class Forbidden(IdentityError):
    """The credentials don't allow this (403)."""


class Revoked(IdentityError):
    """The license or the machine has been revoked (410 outside of a job)."""


class RunError(DispatchdError):
    """A run can't start; becomes another start, or an outcome with a failure cause.

    `refused` is true if another start would end in the same way. `retry_after_s` is the wait asked for (seconds).
    """

    refused: bool = False
    retry_after_s: float | None = None


class SpawnFailed(RunError):
    """A workflow's command can't be started."""

    def __init__(self, *, command: str, reason: str, refused: bool = False) -> None:
        self.command, self.reason, self.refused = command, reason, refused
        super().__init__(f"cannot start {command}: {reason}")


class SecretUnavailable(RunError):
    """A secret that a workflow needs isn't available at the moment. `name` is its name, never its value."""

    def __init__(
        self,
        *,
        name: str,
        reason: str,
        refused: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.name, self.reason, self.refused = name, reason, refused
        self.retry_after_s = retry_after_s
        # No colon after the name: behind GH_TOKEN or db_password it would look like the secret itself.
        super().__init__(f"cannot get the secret {name} ({reason})")


class WorkspaceFailed(RunError):
    """The job's repository can't be checked out; `reason` has no credentials in it."""

    def __init__(self, *, url: str, reason: str, refused: bool = False) -> None:
        self.url, self.reason, self.refused = url, reason, refused
        super().__init__(f"cannot check out {url}: {reason}")


class FolderDamaged(RunError):
    """A run's own folder isn't as this machine left it. That fails its job alone."""

    refused = True

    def __init__(self, *, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"the run's folder is damaged, perhaps by its own command: {path}: {reason}"
        )


class EngineSilent(DispatchdError):
    """An engine's controller gave no answer. What was asked of it may have happened, or may happen later."""


class EngineRefused(DispatchdError):
    """An engine's controller, or its own command, refused: nothing happened."""


class ContractViolation(DispatchdError):
    """A document breaks a contract. `path` is a JSON path such as `$.id`, `rule` the rule that is broken."""

    def __init__(self, *, contract: str, path: str, rule: str) -> None:
        self.contract, self.path, self.rule = contract, path, rule
        super().__init__(f"{contract}: {path}: {rule}")


class LicenseInvalid(DispatchdError):
    """A token isn't a license of this machine's owner; `reason` quotes nothing of it."""

    def __init__(self, *, reason: str) -> None:
        self.reason = reason
        super().__init__(f"cannot use the license token: {reason}")


class NotConfirmed(DispatchdError):
    """It isn't known whether this machine still holds a job, so no process of it may begin."""

    def __init__(self, *, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the start is given up: {reason}")


class NotPossible(DispatchdError):
    """A person requested something that a job's state doesn't allow. `reason` describes the state."""

    def __init__(self, *, do: str, job_id: str, reason: str) -> None:
        self.job_id, self.reason = job_id, reason
        super().__init__(f"cannot {do} job {job_id}: {reason}")


class StoreUnavailable(DispatchdError):
    """A write did not become durable, so the change in it has not happened."""

    def __init__(self, *, path: Path, error: OSError) -> None:
        self.path, self.error = path, error
        super().__init__(f"cannot write {path}: {error.strerror or error}")

    @property
    def is_of_the_path(self) -> bool:
        """True if the problem is at the path: another write elsewhere would succeed, and this one never will."""
        return self.error.errno in _OF_PATHS


class RecordUnreadable(DispatchdError):
    """A record can't be read."""

    def __init__(self, *, path: Path | str, reason: str) -> None:
        self.path, self.reason = Path(path), reason
        super().__init__(f"cannot read {path}: {reason}")


class InvalidTransition(DispatchdError):
    """The table has no row for this phase and event. `story` lists the job's last steps."""

    def __init__(self, *, job_id: str, phase: str, event: str, story: str) -> None:
        self.job_id, self.phase, self.event = job_id, phase, event
        super().__init__(
            f"cannot apply {event} to job {job_id} in phase {phase}; its last steps: {story or 'none'}"
        )
