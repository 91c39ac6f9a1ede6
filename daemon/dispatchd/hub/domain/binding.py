"""Binding of a machine to jobs, set by the hub's owner. Pure."""

import re
from typing import Final

from attrs import field, frozen


@frozen(kw_only=True)
class Binding:
    """The only workflows and repositories whose jobs a machine gets; None for any.

    Workflows are names. Repositories are patterns of OWNER/NAME in any case, in which `*` matches anything.
    """

    workflows: tuple[str, ...] | None = None
    repositories: tuple[str, ...] | None = None
    _patterns: tuple[re.Pattern[str], ...] = field(init=False, eq=False, repr=False)

    @_patterns.default
    def _compiled(self) -> tuple[re.Pattern[str], ...]:
        return tuple(
            re.compile(".*".join(map(re.escape, pattern.split("*"))), _FLAGS)
            for pattern in self.repositories or ()
        )

    @property
    def is_free(self) -> bool:
        """True if the machine may get any job."""
        return self.workflows is None and self.repositories is None

    def may_want(self, workflow: str, repository: str | None) -> bool:
        """Return whether a job may be within the binding.

        Args:
            workflow: The job's workflow; empty for a cancel job, which is for any.
            repository: The job's repository; None if it isn't known.
        """
        if self.workflows is not None and workflow not in ("", *self.workflows):
            return False
        if self.repositories is None or repository is None:
            return True
        if not workflow and not repository:
            return True
        return any(pattern.fullmatch(repository) for pattern in self._patterns)


_FLAGS: Final = re.IGNORECASE | re.ASCII | re.DOTALL

FREE: Final = Binding()
"""Binding of a machine that may get any job."""
