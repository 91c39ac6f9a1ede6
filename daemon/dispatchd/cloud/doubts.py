"""Doubts: refusals that something on the way may have given, counted until they have to be believed.

An endpoint without extensions may refuse without a body. Nothing tells its refusal from a proxy's, so once is not
enough; but a job that it has really closed must not be reported for ever.
"""

from typing import Final

from attrs import define, field, frozen

BELIEVED_AFTER_S: Final = 600.0
"""Time for which a refusal must be the only answer before it counts (seconds): longer than a release takes to roll out."""

BELIEVED_AFTER_TRIES: Final = 5
"""Number of such answers before they count."""


@frozen
class _Series:
    since: float
    tries: int


@define
class Doubts:
    """Refusals without any other answer between them, by job. Every job leaves by an answer that ends its doubts."""

    _series: dict[str, _Series] = field(factory=dict, init=False)

    def believes(self, job_id: str, now: float) -> bool:
        """Count a refusal that proves nothing, and return whether it has to be believed.

        Args:
            job_id: The job that the refused call is about.
            now: The time, by a clock that only grows (seconds).
        """
        before = self._series.get(job_id, _Series(now, 0))
        series = _Series(before.since, before.tries + 1)
        self._series[job_id] = series
        return (
            now - series.since >= BELIEVED_AFTER_S
            and series.tries >= BELIEVED_AFTER_TRIES
        )

    def forget(self, job_id: str) -> None:
        """Reset: another answer came, or the job is closed."""
        self._series.pop(job_id, None)
