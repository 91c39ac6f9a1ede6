"""What a pull can bring: a job, or nothing."""

from attrs import frozen

from dispatchd.domain.job import Job


@frozen(kw_only=True)
class Delivery:
    """A job that the endpoint handed out.

    `payload` and `headers` are the exact JSON texts that came with it (`null` where none did).
    `flaw` says, for a developer, how the job breaks the contract, and is empty if it doesn't.
    `holds` is true where the endpoint says that it holds polls.
    """

    job: Job
    payload: str
    headers: str
    flaw: str = ""
    holds: bool = False


@frozen(kw_only=True)
class NoJob:
    """A pull without a job.

    `held` is true where the endpoint kept the poll open as asked, `cut_after_s` the seconds after
    which something on the way closed it without an answer, or None.
    """

    held: bool
    cut_after_s: float | None = None


@frozen(kw_only=True)
class Beat:
    """The endpoint's answer to a heartbeat or an accept."""

    cancel_requested: bool = False
