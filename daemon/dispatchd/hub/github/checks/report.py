"""Report of a job to GitHub: the bodies of check runs and commit statuses, within GitHub's limits and redacted.

Source of the limits: GitHub's OpenAPI description (50 annotations a request, an action's label 20, description 40
and identifier 20 characters, a status' description 140), and redaction/truncate.py.
"""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.domain.model import ENDED, Check, HubJob
from dispatchd.hub.domain.result_details import read_details
from dispatchd.hub.github.api.transport import in_path
from dispatchd.hub.github.checks import wording
from dispatchd.hub.github.checks.conclusions import Standing, standing
from dispatchd.hub.github.routing.route import CANCEL_BUTTON
from dispatchd.protocol.job import Json
from dispatchd.protocol.result import Annotation
from dispatchd.protocol.times import iso
from dispatchd.redaction.redactor import Redactor
from dispatchd.redaction.truncate import clip_line

ANNOTATIONS_AT_ONCE: Final = 50
"""Most annotations in a request (count)."""

_CANCEL: Final[dict[str, Json]] = {
    "label": "Cancel",
    "description": "End this job",
    "identifier": CANCEL_BUTTON,
}
_DECISIONS: Final = (
    ("retry", "Retry", "Another attempt of this job"),
    ("fail", "Mark failed", "End this parked job as failed"),
    ("succeed", "Mark succeeded", "End this parked job as succeeded"),
)
"""Buttons of a parked job: decision, label and description. GitHub shows three buttons at most."""

_DESCRIPTION_MOST: Final = 140
_MESSAGE_MOST: Final = 4000

Body = dict[str, Json]


@frozen(kw_only=True)
class Report:
    """Report of a job to GitHub. Texts are redacted and within the limits, times are ISO 8601 in UTC."""

    standing: Standing
    external_id: str
    """Id of the job, with the number of its round where it isn't the first."""
    name: str
    sha: str
    title: str
    summary: str
    text: str = ""
    annotations: tuple[Body, ...] = ()
    details_url: str = ""
    started_at: str = ""
    completed_at: str = ""
    actions: tuple[Body, ...] = ()
    """Buttons: three at most."""

    def creation(self) -> Body:
        """Return the body that makes the check run, with the first of the annotations."""
        return {"name": self.name, "head_sha": self.sha, **self.update(0)}

    def update(self, annotated: int) -> Body:
        """Return the body that changes the check run.

        Args:
            annotated: Annotations that it has already (count).
        """
        output: Body = {"title": self.title, "summary": self.summary}
        if self.text:
            output["text"] = self.text
        if added := self.annotations[annotated : annotated + ANNOTATIONS_AT_ONCE]:
            output["annotations"] = [*added]
        actions: list[Json] = [{**action} for action in self.actions]
        return {**self._state(), "output": output, "actions": actions}

    def further(self, annotated: int) -> Body:
        """Return the body that adds further annotations, and changes nothing else."""
        added = self.annotations[annotated : annotated + ANNOTATIONS_AT_ONCE]
        output: Body = {"title": self.title, "summary": self.summary}
        return {"output": {**output, "annotations": [*added]}}

    def smallest(self, *, create: bool) -> Body:
        """Return a minimal body with nothing that GitHub could reject, for use after it has rejected the full one."""
        title = self.standing.title
        named: Body = {"name": self.name, "head_sha": self.sha} if create else {}
        summary = f"{title}. GitHub did not take the job's own summary."
        return {
            **named,
            **self._state(),
            "output": {"title": title, "summary": summary},
        }

    def status(self) -> Body:
        """Return the body of the commit status."""
        target: Body = {"target_url": self.details_url} if self.details_url else {}
        return {
            "state": self.standing.status,
            "context": self.name,
            "description": clip_line(self.title, _DESCRIPTION_MOST),
            **target,
        }

    def _state(self) -> Body:
        concluded = self.standing.is_conclusion
        ends: Body = {
            "conclusion": self.standing.check_state,
            "completed_at": self.completed_at,
        }
        state: Body = {
            "external_id": self.external_id,
            "status": "completed" if concluded else self.standing.check_state,
            **(ends if concluded else {}),
            "started_at": self.started_at,
            "details_url": self.details_url,
        }
        return {name: value for name, value in state.items() if value}


def report(
    job: HubJob, check: Check, settings: GithubSettings, redactor: Redactor
) -> Report:
    """Return the report of a job in its current state.

    Args:
        job: The job.
        check: Its check, in the round that the report is for.
        settings: The hub's settings for GitHub.
        redactor: Removes secrets.
    """
    details = read_details(job.result_details)
    job_standing = standing(job, partially_succeeded=settings.partially_succeeded)
    ended = job.state in ENDED
    return Report(
        standing=job_standing,
        external_id=external_id(job.id, check.round),
        name=check.name,
        sha=check.sha,
        title=wording.title(job, job_standing, redactor),
        summary=wording.summary(job, details, job_standing, redactor),
        text=wording.text(job, details, redactor),
        annotations=_annotations(details.annotations, redactor),
        details_url=_details_url(job, settings),
        started_at=_time(job.accepted_at)
        if job_standing.check_state != "queued"
        else "",
        completed_at=_time(job.finished_at) if ended else "",
        actions=_actions(job, job_standing),
    )


def _actions(job: HubJob, job_standing: Standing) -> tuple[Body, ...]:
    """Return the buttons of a job's check: decisions if it is parked and they reach its machine, else its end."""
    if job.state in ENDED:
        return ()
    if not job_standing.stay or job.cancel_requested:
        return ({**_CANCEL},)
    # For this stay alone: a check that somebody looks at may be an old one.
    tag = job_standing.stay
    return tuple(
        {
            "label": label,
            "description": description,
            "identifier": f"{choice}#{tag}",
        }
        for choice, label, description in _DECISIONS
    )


def external_id(job_id: str, number: int) -> str:
    """Return the external id of a job's check run; `number` is that of the round, from 1."""
    return job_id if number == 1 else f"{job_id}#{number}"


def _annotations(
    annotations: Sequence[Annotation], redactor: Redactor
) -> tuple[Body, ...]:
    return tuple(_annotation(annotation, redactor) for annotation in annotations)


def _annotation(annotation: Annotation, redactor: Redactor) -> Body:
    def clean(text: str) -> str:
        return wording.clean(text, redactor)

    title = clip_line(clean(annotation.title), wording.TITLE_MOST)
    return {
        "path": clean(annotation.path).removeprefix("./"),
        "start_line": annotation.start_line,
        "end_line": annotation.end_line or annotation.start_line,
        "annotation_level": annotation.level,
        "message": clean(annotation.message)[:_MESSAGE_MOST] or "(empty)",
        **({"title": title} if title else {}),
    }


def _details_url(job: HubJob, settings: GithubSettings) -> str:
    base = settings.public_url.rstrip("/")
    return f"{base}/jobs/{in_path(job.id)}" if base else ""


def _time(at: float) -> str:
    """Return a time in GitHub's format; empty for what has not happened."""
    return iso(at) if at else ""
