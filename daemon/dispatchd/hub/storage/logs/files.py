"""Names of the files of logs. All of them are made here, from hashes: no text of a job or a machine is part of a path.

* `FOLDER/id`: id of the folder, for hubs with several processes
* `FOLDER/watched/JOB`: its time is that of the newest look at the job's log
* `FOLDER/JO/JOB/MACHINE-N.log`: log of attempt N on a machine
* `FOLDER/JO/JOB/MACHINE-N.whole`: exists once that log is complete
"""

import re
from hashlib import sha256
from pathlib import Path
from typing import Final

from attrs import frozen

LOG: Final = ".log"
WHOLE: Final = ".whole"

_MACHINE: Final = 16
"""Length of a machine's name in a file's name (hexadecimal digits)."""

STORED: Final = re.compile(
    rf"([0-9a-f]{{2}})/\1[0-9a-f]{{62}}/[0-9a-f]{{{_MACHINE}}}-[1-9][0-9]{{0,6}}\.(?:log|whole)"
)
"""Path of a file of a log, relative to the folder."""

_PART: Final = re.compile(rf"([0-9a-f]{{{_MACHINE}}})-([1-9][0-9]{{0,6}})\.log")


@frozen
class LogFiles:
    """Paths in a folder of logs."""

    folder: Path

    @property
    def watched(self) -> Path:
        """Folder of the marks of jobs whose log is being watched."""
        return self.folder / "watched"

    def mark(self, job_id: str) -> Path:
        """Return the mark that somebody watches a job's log."""
        return self.watched / _job(job_id)

    def of_job(self, job_id: str) -> Path:
        """Return the folder with the logs of a job."""
        name = _job(job_id)
        return self.folder / name[:2] / name

    def of_attempt(self, job_id: str, machine: str, attempt: int) -> Path:
        """Return the file with the log of an attempt."""
        return self.of_job(job_id) / f"{machine_name(machine)}-{attempt}{LOG}"


def machine_name(machine: str) -> str:
    """Return the name of a machine in the names of files, given its server id."""
    return _hash(machine)[:_MACHINE]


def part_of(name: str) -> tuple[str, int] | None:
    """Return the machine's name and the number of the attempt in the name of a log; None for another file."""
    match = _PART.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def _job(job_id: str) -> str:
    return _hash(job_id)


def _hash(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()
