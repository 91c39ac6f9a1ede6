"""Errors of the hub's rules, queue and stores. `hub/api/errors.py` has the HTTP status of each in one table.

HubError
├─ NotHolder           the caller's claim isn't the job's newest one
├─ WrongRun            the job was accepted for another run
├─ JobEnded            the job has ended
├─ OtherResult         the job has ended with another result than the reported one
├─ IdTaken             another job has the id
├─ NotResolvable       the job doesn't wait for a person's decision, or can't get this one
├─ NotChangeable       the job can't be run again with these values
├─ PayloadGone         the job's payload was removed
├─ JobTooLarge         no machine could read the job
├─ DocumentTooLarge    the job is large without its payload and headers
├─ QueueFull           the queue is full; the same submission may succeed later
├─ LogTooLarge         the logs of the job would be larger than the hub stores
├─ LogsFull            logs can't be stored now; the same call may succeed later
├─ ArtifactsFull       artifacts can't be stored now; the same call may succeed later
├─ NoSuchArtifact      the machine has listed no such file among those of the job
├─ OlderArtifacts      a newer attempt of the job has left others
├─ LastAdminToken      the token can't be revoked: nobody could manage the hub
├─ StorageBusy         the database can't be used now; the same call may succeed later
└─ Locked              other transactions have locked the free jobs; only a pull meets it, and looks again
"""

from dispatchd.errors import DispatchdError
from dispatchd.hub.domain.model import State


class HubError(DispatchdError):
    """Request that the hub can't carry out."""


class NotHolder(HubError):
    """Caller whose claim isn't the newest of the job."""

    def __init__(self) -> None:
        super().__init__("the job isn't claimed by this machine with this claim token")


class WrongRun(HubError):
    """Accept of a job that was accepted for another run."""

    def __init__(self) -> None:
        super().__init__("the job was accepted for another run")


class JobEnded(HubError):
    """Change of a job that has ended."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the job has finished as {state}")


class OtherResult(HubError):
    """Result of a job that its machine has already finished with another one."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the job has already finished as {state}")


class IdTaken(HubError):
    """Submission of a job whose id another job has."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is already another job {job_id}")


class NotResolvable(HubError):
    """Decision about a job that doesn't wait for one, or that can't get it; the message says why."""


class NotChangeable(HubError):
    """Job that can't be run again with the values that a person wants; the message says why."""


class PayloadGone(HubError):
    """Job that can't be submitted again, because its payload was removed."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"the payload of {job_id} is not kept any more")


class JobTooLarge(HubError):
    """Job that no machine could read."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"the job is larger than the {most >> 20} MiB that a machine reads"
        )


class DocumentTooLarge(HubError):
    """Job that is large without its payload and headers."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"the job's fields beside payload and headers are larger than {most >> 10} KiB; "
            "move what is long into payload"
        )


class QueueFull(HubError):
    """Full queue; the message names the limit."""


class LogTooLarge(HubError):
    """Log that would be larger than the hub stores of one job."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"the logs of this job are larger than {most >> 20} MiB (logs.job_mib)"
        )


class LogsFull(HubError):
    """Log that can't be stored now, as on a full disk. The message is only for the hub's own log."""


class ArtifactsFull(HubError):
    """Artifact that can't be stored now, as on a full disk. The message is only for the hub's own log."""


class NoSuchArtifact(HubError):
    """Bytes of a file that the machine hasn't listed among those of the job."""

    def __init__(self) -> None:
        super().__init__("this machine has listed no such artifact of the job")


class OlderArtifacts(HubError):
    """List of the artifacts of an attempt after that of a newer one."""

    def __init__(self) -> None:
        super().__init__("a newer attempt of the job has listed its artifacts")


class LastAdminToken(HubError):
    """Revocation of the last token with the scope `admin`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is the last token for admin; add another one first")


class StorageBusy(HubError):
    """Database that can't be used now. The message may name hosts and files, and is only for the log."""


class Locked(HubError):
    """Jobs that a machine may get are locked by other transactions: a call soon after shows whether one is free."""
