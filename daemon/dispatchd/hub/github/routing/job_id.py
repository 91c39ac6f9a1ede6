"""Ids of the jobs that events make. The same event makes the same ids, also in a hub that was restored from a backup.

So a machine that has run such a job recognises it and repeats its result (contracts/README.md, job handed out again).
"""

import json
from collections import Counter
from typing import Final
from uuid import UUID, uuid5

from attrs import field, frozen

_NAMESPACE: Final = UUID("5f0c7f0e-3f5b-4a63-9a55-0a4f3c0c7d1e")


@frozen(kw_only=True)
class JobIds:
    """Generator of the job ids of one delivery, in the order in which its jobs are made."""

    target: str
    """The hook (`Delivery.target`)."""
    delivery_id: str
    _made: Counter[str] = field(factory=Counter, init=False)

    def next(self, cause: str) -> str:
        """Return the next id (UUID, RFC 9562, version 5) for a cause: a rule's name, or the id of the job that is run again."""
        number = self._made[cause]
        self._made[cause] += 1
        name = json.dumps([self.target, self.delivery_id, cause, number])
        return str(uuid5(_NAMESPACE, name))
