"""Which jobs a machine may have, as the hub's owner says. Pure."""

import re
from typing import Final

from attrs import field, frozen


@frozen(kw_only=True)
class Binding:
    """The only workflows and repositories of which a machine gets jobs; None for any.

    Workflows are names; repositories are patterns of OWNER/NAME in any case, in which `*` stands for anything.
    """

    workflows: tuple[str, ...] | None = None
    repositories: tuple[str, ...] | None = None
    _patterns: tuple[re.Pattern[str], ...] = field(init=False, eq=False, repr=False)

    @_patterns.default
    def _compiled(self) -> tuple[re.Pattern[str], ...]:
        return tuple(
            re.compile(".*".join(map(re.escape, each.split("*"))), _FLAGS)
            for each in self.repositories or ()
        )

    @property
    def is_free(self) -> bool:
        """Whether it binds to nothing."""
        return self.workflows is None and self.repositories is None

    def may_want(self, workflow: str, repository: str | None) -> bool:
        """Return whether a job may be one of them.

        Args:
            workflow: Its workflow; empty for a cancel job, which is for any.
            repository: Its repository; None where that isn't known.
        """
        if self.workflows is not None and workflow not in ("", *self.workflows):
            return False
        if self.repositories is None or repository is None:
            return True
        if not workflow and not repository:
            return True
        return any(each.fullmatch(repository) for each in self._patterns)


_FLAGS: Final = re.IGNORECASE | re.ASCII | re.DOTALL

FREE: Final = Binding()
"""That of a machine which may have any job."""
