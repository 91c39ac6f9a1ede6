"""The log of a run as its machine has it."""

from collections.abc import Iterable

from dispatchd.linux.file_holes import read_around_holes
from dispatchd.redaction.redactor import Redactor
from support.daemon import DaemonLog
from support.endpoint import SECRET


def clean_log(daemon: DaemonLog, secrets: Iterable[str], attempt: int = 1) -> bytes:
    """Return the log of an attempt of the job `j`, without these secrets and that of the machine."""
    path = daemon.state / f"runs/j/attempt-{attempt}/output.log"
    text = b"".join(read_around_holes(path, 1 << 20)).decode("utf-8", "surrogateescape")
    clean = Redactor.of([*secrets, SECRET]).scrub(text)
    return clean.encode("utf-8", "surrogateescape")
