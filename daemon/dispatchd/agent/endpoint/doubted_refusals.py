"""Refusals that something on the way may have given, counted until they are believed.

An endpoint without extensions may refuse without a body. Such a refusal looks like a proxy's, so one is not
enough. But a job that the endpoint has really closed must not be reported forever.
"""

from typing import Final

from attrs import define, field, frozen

BELIEVED_AFTER_S: Final = 600.0
"""Time for which a refusal must be the only answer before it counts (seconds): longer than a rollout of a release."""

BELIEVED_AFTER_TRIES: Final = 5
"""Number of such answers before they count."""


@frozen
class _Series:
    since: float
    tries: int


@define
class Doubts:
    """Refusals without any other answer between them, by job. Every job ends with an answer that removes its doubts."""

    _series: dict[str, _Series] = field(factory=dict, init=False)

    def believes(self, job_id: str, now: float) -> bool:
        """Count a refusal without proof. Return whether it is believed now.

        Args:
            job_id: The job that the refused call is about.
            now: The time, by a clock that never goes back (seconds).
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
