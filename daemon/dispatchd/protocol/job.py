"""The job as the endpoint hands it out, and JSON."""

import re
from typing import Final

from attrs import frozen

CANCEL: Final = "cancel"
"""The command of a job that ends another one."""

_REPOSITORY: Final = re.compile(r"([\w-]+)/((?!\.{1,2}\Z)[\w.-]+)", re.ASCII)
"""Repository names as at GitHub: an owner without dots, and a name that may begin with a dot (`.github`),
but isn't `.` or `..`."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""Any JSON value."""


@frozen(kw_only=True)
class Job:
    """One unit of work as the endpoint hands it out, without payload and headers.

    An empty string or None is a field that the endpoint left out. `claim_token` fences the claim and is
    a secret. `lease_s` is the time for which the endpoint grants the claim (seconds). `from_fork` is true
    if the code comes from a fork, whose authors must not get secrets.
    """

    id: str
    workflow: str = ""
    command: str = ""
    event: str = ""
    action: str = ""
    delivery_id: str = ""
    repository: str = ""
    repository_id: int | None = None
    installation_id: int | None = None
    binding_id: str = ""
    license_id: str = ""
    ref: str = ""
    sha: str = ""
    pull_request: int | None = None
    issue: int | None = None
    comment_id: int | None = None
    check_run_id: int | None = None
    actor: str = ""
    status: str = ""
    claimed_by: str = ""
    target_run_id: str = ""
    claim_token: str = ""
    lease_s: float | None = None
    extensions: tuple[str, ...] = ()
    from_fork: bool = False

    @property
    def is_cancel(self) -> bool:
        """True if this job asks for the end of another run, and has no run of its own."""
        # Dagu's worker compares without regard to case.
        return self.command.lower() == CANCEL

    @property
    def owner_and_name(self) -> tuple[str, str] | None:
        """Owner and name of the repository, or None if the text is no valid name at GitHub."""
        match = _REPOSITORY.fullmatch(self.repository)
        return (match[1], match[2]) if match else None
