"""Replies to comments with commands: a reaction that shows that the command was read, and rarely words.

Words go only to people who may give commands: otherwise anybody could make the hub write comments. A reply is not
tried again.
"""

from typing import Final

import structlog
from attrs import frozen

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.domain.model import HubJob
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.api.responses import GithubError
from dispatchd.hub.github.ingest.decide import Decision, End
from dispatchd.hub.github.routing.route import OUR_MARK

_TAKEN: Final = "eyes"
_DENIED: Final = "-1"
_IMPOSSIBLE: Final = "confused"
"""Names of reactions (GitHub docs, REST API endpoints for reactions)."""


@frozen
class Replies:
    """Replies to the comments of jobs."""

    client: Client
    settings: GithubSettings

    async def answer(self, job: HubJob, decision: Decision | None) -> None:
        """Reply to the comment of a job, if it has one, according to the decision."""
        comment_id = job.document.comment_id
        if not comment_id:
            return
        reaction, message = _TAKEN, ""
        if isinstance(decision, End):
            reaction = _DENIED if decision.is_denied else _IMPOSSIBLE
            message = "" if decision.is_denied else decision.reason
        try:
            await self._react(job, comment_id, reaction)
            if message:
                await self._say(job, message)
        except GithubError as error:
            structlog.get_logger().warning(
                "comment_not_answered", job_id=job.id, error=str(error)
            )

    async def _react(self, job: HubJob, comment_id: int, reaction: str) -> None:
        installation = job.document.installation_id
        on_code = job.document.event == "pull_request_review_comment"
        react = self.client.react_to_review_comment if on_code else self.client.react
        await react(installation, job.repository, comment_id, reaction)

    async def _say(self, job: HubJob, message: str) -> None:
        await self.client.comment(
            job.document.installation_id,
            job.repository,
            job.document.number,
            f"{OUR_MARK}\n@{job.document.actor} {message[:1].upper()}{message[1:]}.",
        )
